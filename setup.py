"""What pyproject.toml cannot say of a build: where it works, how the README reads on a page that
has no folders beside it, and the link in a source distribution.
"""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import setup
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent
README = (HERE / "README.md").read_text(encoding="utf-8")
LINKED = Path("rnn_gpu", "kernels")
LINK = re.compile(r"\[([^]]+)\]\((?!\w+:|#)([^)]+)\)")  # to a file of the checkout


def named(link: re.Match) -> str:
    """A link's words and, in place of the link, the file's name."""
    words, file = link.groups()
    return f"`{file}`" if words == file else f"{words} (`{file}`)"


class WithLink(sdist):
    """A source distribution with the link rnn_gpu/kernels, which setuptools leaves out: an unpacked
    one is used from its root as a checkout is.
    """

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        if (HERE / LINKED).is_symlink():
            (base_dir / LINKED).symlink_to((HERE / LINKED).readlink())


# not build/: what once lay there would go into every later wheel
with TemporaryDirectory() as folder:
    setup(
        cmdclass={"sdist": WithLink},
        long_description=LINK.sub(named, README),
        long_description_content_type="text/markdown",
        options={"build": {"build_base": folder}, "egg_info": {"egg_base": folder}},
    )

"""What pyproject.toml cannot say of a build: where it works, and how the README reads on a page
that has no folders beside it.
"""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import setup

README = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
LINK = re.compile(r"\[([^]]+)\]\((?!\w+:|#)([^)]+)\)")  # to a file of the checkout


def named(link: re.Match) -> str:
    """A link's words and, in place of the link, the file's name."""
    words, file = link.groups()
    return f"`{file}`" if words == file else f"{words} (`{file}`)"


# not build/: what once lay there would go into every later wheel
with TemporaryDirectory() as folder:
    setup(
        long_description=LINK.sub(named, README),
        long_description_content_type="text/markdown",
        options={"build": {"build_base": folder}, "egg_info": {"egg_base": folder}},
    )

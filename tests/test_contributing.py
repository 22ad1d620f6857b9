"""The steps of CONTRIBUTING.md are true: each section's blocks, put where it says in a copy of the
checkout, give what it says; and what it names is there.
"""

import re
from pathlib import Path
from shutil import copy, copytree, ignore_patterns
from textwrap import indent

import pytest

from programs import NO_GPU, python

CHECKOUT = Path(__file__).parents[1]
PAGE = CHECKOUT / "CONTRIBUTING.md"
SECTIONS = ("A cell", "An activation", "A loss", "An optimiser")

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the tests run outside a checkout")

# "`FILE`, above `LINE`:" before a block: where it goes; else it is a program, or a command
WHERE = r"^`([\w/.]+)`(?:, (above|below|instead of) `([^`]+)`)?:\n\n"
BLOCK = re.compile(rf"(?:{WHERE})?^```(python|sh)\n(.*?)^```", re.M | re.S)


def section(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE.read_text("utf-8"), re.M | re.S)[1]


def put(file: Path, side: str, line: str, text: str):
    """Write the text into a file, above, below or instead of the line that begins so; no line: the
    file is new.
    """
    if not side:
        assert not file.exists()
        file.write_text(text, encoding="utf-8")
        return
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    (at,) = (i for i, one in enumerate(lines) if one.strip().startswith(line))
    at += side == "below"
    depth = len(lines[at]) - len(lines[at].lstrip(" "))
    lines[at : at + (side == "instead of")] = [indent(text, depth * " ")]
    file.write_text("".join(lines), encoding="utf-8")


class Followed:
    """A copy of the checkout in which the steps of a section were followed; its programs and
    commands.
    """

    def __init__(self, title, folder):
        self.folder, self.programs, self.commands = folder, [], []
        ignore = ignore_patterns("__pycache__", "stress")
        for part in ("rnn_gpu", "kernels", "tests"):
            copytree(CHECKOUT / part, folder / part, symlinks=True, ignore=ignore)
        copy(CHECKOUT / "pyproject.toml", folder)
        for file, side, line, kind, text in BLOCK.findall(section(title)):
            if file:
                put(folder / file, side, line, text)
            else:
                (self.programs if kind == "python" else self.commands).append(text)

    def run(self, text):
        return python(text, cwd=self.folder, PYTHONPATH=str(self.folder), **NO_GPU)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """title -> Followed, each once."""
    done = {}

    def follow(title):
        if title not in done:
            done[title] = Followed(title, tmp_path_factory.mktemp("checkout"))
        return done[title]

    return follow


@pytest.mark.parametrize("title", SECTIONS)
def test_the_program_of_a_section_runs(followed, title):
    made = followed(title)
    (program,) = made.programs
    made.run(program)


@pytest.mark.slow
@pytest.mark.parametrize("title", SECTIONS)
def test_the_tests_that_a_section_names_pass(followed, title):
    made = followed(title)
    (command,) = made.commands
    arguments = re.fullmatch(r"pytest (.*)\n", command)[1].split()
    text = "import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"
    place = {"cwd": made.folder, "PYTHONPATH": str(made.folder), "CUDA_VISIBLE_DEVICES": "-1"}
    done = python(text, "-q", "-p", "no:cacheprovider", *arguments, **place)
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 3


def test_what_the_page_names_is_there():
    text = PAGE.read_text("utf-8")
    files = set(re.findall(r"(?:kernels|rnn_gpu|tests|benchmarks|\.ci)/[\w./]+\w", text))
    written = set(re.findall(r"^`([\w/.]+)`:$", text, re.M))  # by the steps
    free = {name for name in files if "NAME" in name}
    assert len(files) > 20
    missing = {name for name in files - free - written if not (CHECKOUT / name).exists()}
    assert missing == set()
    measured = set(re.findall(r"python -m benchmarks (\w+)", text)) - {"NAME"}
    there = {path.stem for path in (CHECKOUT / "benchmarks").glob("*.py")}
    assert measured and measured <= there


def test_hooks_have_the_linters_version():
    hooks = (CHECKOUT / ".pre-commit-config.yaml").read_text("utf-8")
    project = (CHECKOUT / "pyproject.toml").read_text("utf-8")
    (version,) = re.findall(r'lint = \["(ruff==[\d.]+)"', project)
    assert set(re.findall(r"ruff==[\d.]+", hooks)) == {version}
    assert re.findall(r"repo: (.*)", hooks) == ["local"]

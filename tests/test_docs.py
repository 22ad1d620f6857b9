"""What docs/ says: its checks run and print what stands below them, its quotations stand in the
code, its translation has the same code.
"""

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
BPTT, CHINESE = CHECKOUT / "docs" / "bptt.md", CHECKOUT / "docs" / "bptt.zh.md"

pytestmark = pytest.mark.skipif(not BPTT.exists(), reason="the tests run outside a checkout")


def blocks(path):
    """(code, what it prints) of every Python block."""
    return re.findall(
        r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```\n)?",
        path.read_text(encoding="utf-8"),
        re.M | re.S,
    )


def test_the_checks_print_what_the_page_says(capsys):
    names, found = {}, blocks(BPTT)
    assert len(found) >= 17
    for code, printed in found:
        exec(compile(code, str(BPTT), "exec"), names)
        assert [
            line.rstrip() for line in capsys.readouterr().out.splitlines()
        ] == printed.splitlines(), code


def test_the_translation_has_the_same_checks():
    assert blocks(CHINESE) == blocks(BPTT)


@pytest.mark.parametrize("page", [BPTT, CHINESE], ids=lambda page: page.name)
def test_the_lines_that_are_quoted_stand_in_their_files(page):
    quoted = re.findall(r"`([\w/]+\.py)`[:：] ?`([^`]+)`", page.read_text(encoding="utf-8"))
    assert len(quoted) == 14
    for path, line in quoted:
        lines = [
            there.strip().partition("  #")[0]
            for there in (CHECKOUT / path).read_text(encoding="utf-8").splitlines()
        ]
        assert line in lines, f"{path}: {line}"


@pytest.mark.parametrize("page", [BPTT, CHINESE], ids=lambda page: page.name)
def test_every_formula_of_the_tutorial_has_a_section(page):
    """The README says that they are derived one by one."""
    heads = re.findall(r"^## .*", page.read_text(encoding="utf-8"), re.M)
    with_time = "".join(head for head in heads if "BP" not in head)
    without = "".join(head for head in heads if "BP" in head)
    assert re.findall(r"式\d", without) == ["式3", "式4", "式5"]
    assert re.findall(r"式\d", with_time) == ["式1", "式2", "式3", "式4", "式5", "式6", "式7"]


def test_an_explosion_is_named_and_cured():
    """It prints a real NonFiniteError, what does not cure it, and what does."""
    (printed,) = (
        printed for code, printed in blocks(BPTT) if "except rnn_gpu.NonFiniteError" in code
    )
    *failed, cured = printed.splitlines()
    assert re.match(
        r"NonFiniteError: update \d+: layer \d+ .* time step \d+, sample \d+, .*unit \d+", failed[0]
    )
    assert failed[-1].endswith("not learned")
    assert cured.endswith(", learned")


@pytest.mark.parametrize("page", [BPTT, CHINESE], ids=lambda page: page.name)
def test_the_slip_of_the_tutorial_is_named(page):
    assert "(35)" in page.read_text(encoding="utf-8")


MAP = CHECKOUT / "docs" / "architecture.md"


def test_the_map_names_what_is_there():
    """Every file that it names, and every room of its picture."""
    text = MAP.read_text(encoding="utf-8")
    named = {one for one in re.findall(r"`([\w/]+(?:\.\w+)?/?)`", text) if "/" in one or "." in one}
    files = {one for one in named if re.search(r"/$|\.(py|sh|md)$", one)}
    assert {"tests/test_house.py", "kernels/__init__.py", "benchmarks/gpu.sh"} <= files
    below = {path.name for path in (CHECKOUT / "kernels").rglob("*.py")}
    gone = {one for one in files if not (CHECKOUT / one).exists() and one not in below}
    assert gone == set()
    (picture,) = re.findall(r"^```\n(kernels/ .*?)^```", text, re.M | re.S)
    at = CHECKOUT
    for line in picture.splitlines():
        names = re.split(r" {2,}", line.strip())[0]
        depth = len(line) - len(line.lstrip())
        at = CHECKOUT / names.rstrip("/") if depth == 0 else at
        within = {path.stem for path in at.rglob("*")} | {path.name for path in at.rglob("*")}
        for name in names.split(", "):
            assert name.rstrip("/") in within | {at.name}, (at, name)


def test_the_maps_block_runs():
    assert len(blocks(MAP)) == 1
    for code, _ in blocks(MAP):
        exec(compile(code, str(MAP), "exec"), {})


def test_the_maps_words_are_those_of_the_code():
    text = MAP.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z, ]+) \| ", text.split("## Words")[1], re.M)
    words = {word for row in rows for word in row.split(", ")}
    assert len(words) > 20
    code = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("kernels", "rnn_gpu")
        for path in (CHECKOUT / folder).rglob("*.py")
    )
    assert {word for word in words if not re.search(rf"{word}", code, re.I)} == set()

"""The README's Python blocks run, one after the other, as a reader would type them."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.skipif(not README.exists(), reason="the tests run outside a checkout")
def test_readme_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) >= 4
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert names["network"].evaluate(names["test"].x, names["test"].y)["accuracy"] > 0.8
    assert (tmp_path / "speakers.safetensors").exists()
    assert names["layer"](names["np"].zeros((3, 2, 3), "float32"))[0].shape == (3, 2, 5)

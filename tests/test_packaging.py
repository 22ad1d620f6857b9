"""The link to kernels/, what goes into wheel and source distribution, and what these need."""

import re
import shutil
import subprocess
import sys
import tarfile
from fnmatch import fnmatch
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import NamedTuple
from zipfile import ZipFile

import pytest

from programs import KERNELS, copied, python, words
from rnn_gpu.kernels import private as inner_names
from sources import MODULES, imports

CHECKOUT = Path(__file__).parents[1]


ONCE = """
import os, sys
from importlib import import_module
from importlib.util import find_spec

sys.path.insert(0, {checkout!r})
for name in {names!r}:
    try:
        import_module(name)
    except ModuleNotFoundError as error:  # of what a bridge leads to
        assert error.name.split(".")[0] not in ("rnn_gpu", "kernels"), error
files = [
    os.path.realpath(module.__file__)
    for name, module in sys.modules.items()
    if name.split(".")[0] in ("rnn_gpu", "kernels")
]
print(len(files) - len(set(files)), find_spec("rnn_gpu.rnn_gpu"))
"""


def test_no_module_has_two_names():
    """From the root of a checkout, where Python finds the folder kernels by itself too."""
    cuda = "rnn_gpu.kernels.devices.cuda"  # needs a GPU, or the simulator
    names = [name for name in MODULES if not name.startswith(cuda)]
    assert words(ONCE.format(checkout=str(CHECKOUT), names=names)) == ["0", "None"]


def test_kernels_by_itself_is_refused():
    lines = (
        f"import sys; sys.path.append({str(KERNELS.parent)!r})",
        "try: import kernels.cells",
        "except ImportError as e: print(e)",
    )
    assert words("\n".join(lines))[:3] == ["say", "`import", "rnn_gpu.kernels`:"]


def test_a_checkout_without_links_says_what_to_do(tmp_path):
    """git on Windows writes the link rnn_gpu/kernels as a file."""
    shutil.rmtree(copied(tmp_path))
    (tmp_path / "rnn_gpu" / "kernels").write_text("../kernels", encoding="utf-8")
    text = "try: import rnn_gpu\nexcept ImportError as e: print(e)"
    # -S: nothing that is installed fills in
    said = python(text, options=("-P", "-S"), PYTHONPATH=str(tmp_path)).stdout
    assert "rnn_gpu.kernels is missing" in said
    assert "`pip install .`" in said
    assert "`git config core.symlinks true`" in said


# The wheel, and the source distribution


def test_the_wheel_has_every_package(project):
    folders = {"rnn_gpu": CHECKOUT / "rnn_gpu", "rnn_gpu.kernels": CHECKOUT / "kernels"}
    here = {
        ".".join((package, *path.parent.relative_to(folder).parts))
        for package, folder in folders.items()
        for path in folder.rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == here


def test_the_wheel_has_every_file_that_is_not_python(project):
    patterns = project["tool"]["setuptools"]["package-data"]
    for package, folder in {
        "rnn_gpu": CHECKOUT / "rnn_gpu",
        "rnn_gpu.kernels": CHECKOUT / "kernels",
    }.items():
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                owner = ".".join((package, *path.parent.relative_to(folder).parts))
                assert any(fnmatch(path.name, pattern) for pattern in patterns.get(owner, [])), path


def test_what_is_imported_is_declared(project):
    extras = project["project"].get("optional-dependencies", {})
    declared = {
        line.replace("scikit-learn", "sklearn").split("-")[0].split("[")[0].split(">")[0]
        for lines in (project["project"]["dependencies"], *extras.values())
        for line in lines
    }
    imported = (
        {one.split(".")[0] for name in MODULES for one in imports(name)}
        - {"rnn_gpu", "llvmlite"}
        - sys.stdlib_module_names
    )
    assert imported <= declared  # llvmlite is Numba's, which says which one it needs


def requirements(project):
    """name -> its versions, of all that a user installs; what of the extras is only for a GPU or a
    linter has its own reasons.
    """
    extras = project["project"]["optional-dependencies"]
    lines = [
        *project["project"]["dependencies"],
        *(line for name in ("torch", "onnx", "plot", "test") for line in extras[name]),
    ]
    return dict(re.match(r"([\w-]+)(.*)", line).groups() for line in lines)


def test_every_dependency_has_a_lowest_version(project):
    """.ci/lowest installs it, and tests."""
    assert {
        name: versions
        for name, versions in requirements(project).items()
        if not versions.startswith(">=")
    } == {}


def test_a_package_whose_private_names_are_used_has_an_upper_bound(project):
    private = {
        "numba": ("numba.core", "numba.misc", "numba.np"),
        "numba-cuda": ("numba.cuda.simulator", "numba.cuda.cudadrv"),
    }
    used = {path for path, _ in inner_names.NAMES.values()}
    for package, inner in private.items():
        assert [one for one in used if one.startswith(inner)], package
        assert ",<" in requirements(project)[package], package


class Built(NamedTuple):
    wheel: Path
    sdist: Path
    before: set[str]  # files of the checkout in which they were built
    after: set[str]


@pytest.fixture(scope="module")
def built(project, tmp_path_factory):
    """A wheel and a source distribution, built in a copy of the checkout where an older build left
    a module that is no more.
    """
    pytest.importorskip(
        "setuptools", minversion=project["build-system"]["requires"][0].partition(">=")[2]
    )
    checkout, out = tmp_path_factory.mktemp("build") / "checkout", tmp_path_factory.mktemp("built")
    left = (
        "__pycache__",
        "*.egg-info",
        "build",
        "dist",
        "runs",
        ".git",
        ".venv",
        ".*_cache",
        ".hypothesis",
    )
    copytree(CHECKOUT, checkout, symlinks=True, ignore=ignore_patterns(*left))
    stale = checkout / "build" / "lib" / "rnn_gpu" / "stale.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    before = files(checkout)
    for what in ("wheel", "sdist"):
        text = f"from setuptools import build_meta; build_meta.build_{what}({str(out)!r})"
        options = {"cwd": checkout, "capture_output": True, "encoding": "utf-8", "timeout": 600}
        run = subprocess.run([sys.executable, "-c", text], check=False, **options)
        assert run.returncode == 0, run.stderr
    return Built(*out.glob("*.whl"), *out.glob("*.tar.gz"), before, files(checkout))


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_build_leaves_nothing_in_the_checkout(built):
    assert built.after == built.before


def test_what_an_older_build_left_does_not_come_into_the_wheel(built):
    with ZipFile(built.wheel) as wheel:
        modules = {name for name in wheel.namelist() if name.endswith(".py")}
    here = {name for name in built.before if re.match(r"(rnn_gpu|kernels)/.*py$", name)}
    assert modules == {re.sub("^kernels/", "rnn_gpu/kernels/", name) for name in here}


def test_the_wheel_says_that_it_is_typed(built):
    with ZipFile(built.wheel) as wheel:
        assert "rnn_gpu/py.typed" in wheel.namelist()


def test_the_description_has_no_link_to_a_file(built):
    """On a page of a package index there is no folder beside it."""
    with ZipFile(built.wheel) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
        description = wheel.read(name).decode()
    links = re.findall(r"\]\(([^)]*)", description)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    assert "`docs/bptt.md` derives them" in description


def test_the_source_distribution_has_what_its_tests_read(built):
    with tarfile.open(built.sdist) as sdist:
        there = {name.partition("/")[2] for name in sdist.getnames()}
    folders = (".ci", "benchmarks", "docs", "examples", "kernels", "rnn_gpu", "tests")
    needed = {name for name in built.before if name.partition("/")[0] in folders}
    assert {
        "pyproject.toml",
        "setup.py",
        "MANIFEST.in",
        "README.md",
        "CHANGELOG.md",
    } | needed <= there


def test_the_source_distribution_has_the_link(built):
    if not (CHECKOUT / "rnn_gpu" / "kernels").is_symlink():
        pytest.skip("no link in this checkout")
    with tarfile.open(built.sdist) as sdist:
        links = {
            member.name.partition("/")[2]: member.linkname for member in sdist if member.issym()
        }
    assert links == {"rnn_gpu/kernels": "../kernels"}

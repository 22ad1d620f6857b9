"""The order of the house: who may import whom, what may stand in a file, what is one file."""

import ast
import inspect
import re
import sys
from enum import Enum
from fnmatch import fnmatch
from functools import cached_property
from importlib import import_module
from pathlib import Path

import pytest

from programs import KERNELS, LEAKY_FILE, copied, python, words
from rnn_gpu.kernels.cells import CELLS
from sources import MODULES, imports, is_ours

CHECKOUT = Path(__file__).parents[1]

# A module imports only from the lines above its own. A star is any file of that folder that has no
# line of its own.
ORDER = """
kernels
kernels.activations kernels.binding.closures kernels.binding.literals kernels.clipping
kernels.description kernels.fingerprint kernels.parts kernels.philox kernels.private
kernels.products kernels.sharing kernels.store.files kernels.tally kernels.transfers
kernels.updates
kernels.store.marks
kernels.binding.accessors kernels.binding.names kernels.once
kernels.binding kernels.losses kernels.store kernels.undisturbed
kernels.host_updates
kernels.whole_arrays
kernels.cells.*
kernels.cells
kernels.devices
kernels.devices.reference
kernels.devices.cpu.compilation kernels.devices.cpu.memory
kernels.devices.cpu.simd
kernels.devices.cpu.windows
kernels.devices.cpu.stored kernels.devices.cpu.tiles
kernels.devices.cpu.threads
kernels.devices.cpu.products kernels.devices.cpu.recorded kernels.devices.cpu.recurrence
kernels.devices.cpu.by_address kernels.devices.cpu.losses
kernels.devices.cpu
kernels.devices.cuda.compiled kernels.devices.cuda.contract kernels.devices.cuda.cublas
kernels.devices.cuda.crowd kernels.devices.cuda.precision
kernels.devices.cuda.driver
kernels.devices.cuda.simulator
kernels.devices.cuda.launch
kernels.devices.cuda.assembly kernels.devices.cuda.graphs kernels.devices.cuda.plans
kernels.devices.cuda.ptx
kernels.devices.cuda.clusters kernels.devices.cuda.packets kernels.devices.cuda.tensor_ops
kernels.devices.cuda.reductions
kernels.devices.cuda.tensor_sums
kernels.devices.cuda.sums kernels.devices.cuda.tracks
kernels.devices.cuda.pointwise
kernels.devices.cuda.persistent
kernels.devices.cuda.persistent_clipping kernels.devices.cuda.persistent_forward
kernels.devices.cuda.persistent_back
kernels.devices.cuda.block kernels.devices.cuda.cluster kernels.devices.cuda.fingerprints
kernels.devices.cuda.gemm kernels.devices.cuda.group kernels.devices.cuda.transfer
kernels.devices.cuda.carrying kernels.devices.cuda.plain
kernels.devices.cuda.schedules
kernels.devices.cuda.tuning.records
kernels.devices.cuda.tuning.trials kernels.devices.cuda.tuning.trying
kernels.devices.cuda.tuning.child
kernels.devices.cuda.tuning
kernels.devices.cuda
kernels.emulator.arrays.counts kernels.emulator.arrays.order
kernels.emulator.arrays.memory
kernels.emulator.arrays.streams
kernels.emulator.arrays.cuda kernels.emulator.arrays.operations
kernels.emulator.arrays.linalg kernels.emulator.arrays.ndarrays
kernels.emulator.arrays.functions
kernels.emulator.arrays
kernels.emulator.*
kernels.emulator.arithmetic kernels.emulator.clocks kernels.emulator.findings
kernels.emulator.shadow kernels.emulator.warps
kernels.emulator.text
kernels.emulator.memory kernels.emulator.operands kernels.emulator.registers
kernels.emulator.mbarriers kernels.emulator.ordering kernels.emulator.tensors
kernels.emulator.clusters kernels.emulator.instructions
kernels.emulator.turns
kernels.emulator.strong
kernels.emulator.machine
kernels.emulator.card
kernels.emulator
bridges bridges.jax bridges.jax.frames bridges.torch bridges.torch.private
bridges.torch.projected bridges.torch.threads errors outline
arguments bridges.io bridges.plots device
bridges.jax.entrance bridges.registry bridges.torch.dtypes bridges.torch.tensors bridges.weights
derivatives
bridges.jax.jobs bridges.jax.xla keeping parameters schedules
bridges.jax.calls losses optimizers
layers.overlap layers.passes layers.steps
layers.anew layers.given
layers.tapes
layers.base layers.chunked layers.cutting layers.noise
layers.parallel layers.seams
layers.scan
layers.stateful layers.stateless
layers.recurrent
layers.directions
layers
bridges.jax.layers
bridges.jax.flax bridges.torch.chunks bridges.torch.small
bridges.torch.passes bridges.torch.twice network.bar network.checkpoint
network.counting network.given
bridges.torch.base bridges.torch.functions network.finite network.memory
bridges.torch.operators
bridges.torch.calls bridges.torch.onnx bridges.torch.whole
bridges.torch.given
bridges.torch.cells bridges.torch.stack network.batches
bridges.torch.modules network.evaluation network.sources network.truncation
bridges.torch.convert bridges.torch.episodes
bridges.torch.rl
network.compiling
network.gradients network.summary network.words
network.gradient_flow network.replay network.update
network.training
network.callbacks
network.best network.logs network.progress
network.fit
network.network
network.stream
network
bridges.onnx gradcheck
bridges.sklearn verification
callbacks flax gradient_flow jax onnx rl sklearn stream torch training
data.calendar data.series data.vocabulary
data.going_on data.scaling
data
datasets._sequences
datasets.*
datasets
rnn_gpu
cli.config cli.options cli.pictures cli.tables
cli.choices cli.labelled cli.measured
cli.series
cli.classes cli.forecasts cli.texts
cli.future cli.jobs
cli.*
cli
cli.__main__
"""
PLACES = {name: line for line, names in enumerate(ORDER.split("\n")) for name in names.split()}


def place(name):
    name = name.removeprefix("rnn_gpu.")
    stars = [p for p in PLACES if "*" in p and fnmatch(name, p) and name.count(".") == p.count(".")]
    assert name in PLACES or stars, f"{name} has no place in ORDER"
    return PLACES[name if name in PLACES else stars[0]]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_the_lines_above(name):
    for imported in imports(name):
        if is_ours(imported):
            assert place(imported) < place(name), f"{name} imports {imported}"


def test_every_line_of_the_order_has_a_module():
    here = {place(name) for name in MODULES}
    assert here == set(PLACES.values())
    assert {name for name in PLACES if "*" not in name} <= {
        name.removeprefix("rnn_gpu.") for name in MODULES
    }


def test_imports_are_seen_wherever_they_stand():
    """The walk above finds relative imports, imports in functions, and modules named in a
    string.
    """
    seen = {name: set(imports(name)) for name in MODULES}
    assert "rnn_gpu.kernels.activations" in seen["rnn_gpu.kernels.cells.lstm"]
    assert "rnn_gpu.arguments" in seen["rnn_gpu.layers.base"]
    assert "rnn_gpu.kernels" in seen["rnn_gpu.layers.steps"]
    assert "matplotlib.figure.Figure" in seen["rnn_gpu.bridges.plots"]
    assert "rnn_gpu.kernels.devices" in seen["rnn_gpu.device"]
    assert "numba.cuda" in seen["rnn_gpu.kernels.devices.cuda.launch"]


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("rnn_gpu.kernels")])
def test_kernels_know_nothing_of_the_library_around_them(name):
    allowed = (
        {"numpy", "numba"}
        | ({"cupy", "cuda"} if ".devices.cuda" in name else set())
        | ({"llvmlite"} if ".devices.c" in name else set())
        | sys.stdlib_module_names
    )
    for imported in imports(name):
        assert imported.startswith("rnn_gpu.kernels") or imported.split(".")[0] in allowed, (
            f"{name} imports {imported}"
        )


@pytest.mark.parametrize("name", MODULES)
def test_only_the_cuda_device_imports_cuda(name):
    cuda = {
        one
        for one in imports(name)
        if one.split(".")[0] == "cupy" or one.split(".")[:2] == ["numba", "cuda"]
    }
    assert not cuda or name.startswith("rnn_gpu.kernels.devices.cuda"), cuda


def test_cells_know_no_device_and_devices_know_no_cell():
    for name in MODULES:
        for mine, others in ((".cells", ".devices"), (".devices", ".cells")):
            if name.startswith(f"rnn_gpu.kernels{mine}"):
                assert not [
                    one for one in imports(name) if one.startswith(f"rnn_gpu.kernels{others}")
                ], name


# Private names

# of a named tuple, where they are its public ones
OF_TUPLES = {"_asdict", "_fields", "_make", "_replace"}
# of numba, numba-cuda and torch, which the benchmarks ask for what these do not offer
OF_OTHERS = {"_Kernel", "_codelibrary", "_dynamo", "_have_nvjitlink"}


def private_names(text):
    """What is reached for in a module's text beyond its own objects: `x._name`, where x is not self
    or cls, and names that begin with _ imported from elsewhere.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            mine = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            names = [] if mine else [node.attr]
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
        else:
            continue
        hidden = {name for name in names if name.startswith("_") and not name.endswith("__")}
        yield from (f"line {node.lineno}: {name}" for name in hidden - OF_TUPLES)


def elsewhere():
    """The modules that use layers, networks and optimizers, and the benchmarks."""
    inside = ("rnn_gpu.layers", "rnn_gpu.kernels", "rnn_gpu.bridges.torch.private")
    ours = [path for name, path in MODULES.items() if not name.startswith(inside)]
    return ours + sorted((CHECKOUT / "benchmarks").glob("*.py"))


def test_private_names_are_seen():
    text = "from a import _b\nself._c, cls._d, e._f, e.__g__, e.h, e._replace(), super()._i()"
    assert list(private_names(text)) == ["line 1: _b", "line 2: _f", "line 2: _i"]


@pytest.mark.parametrize("path", elsewhere(), ids=lambda path: "/".join(path.parts[-2:]))
def test_nobody_outside_reaches_for_a_private_name(path):
    allowed = set()
    if path.parent.name == "benchmarks":
        allowed = OF_OTHERS | {module.stem for module in path.parent.glob("_*.py")}
    found = private_names(path.read_text(encoding="utf-8"))
    assert [one for one in found if one.split()[-1] not in allowed] == []


# Docstrings


def public(module):
    """(name, object) of what a module defines for others: functions, classes, and their methods."""
    for name, value in vars(module).items():
        ours = getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
        if ours and inspect.isfunction(value):
            yield name, value
        elif ours and isinstance(value, type) and not issubclass(value, Enum):
            yield name, value
            for inner, member in vars(value).items():
                computed = isinstance(member, (property, cached_property))
                if (computed or inspect.isroutine(member)) and not inner.startswith("_"):
                    yield f"{name}.{inner}", getattr(value, inner)


@pytest.mark.parametrize("name", [one for one in MODULES if ".kernels" not in one])
def test_everything_public_says_what_it_is_for(name):
    for needed in ("flax", "jax", "onnx", "rl", "sklearn", "torch"):
        if needed in name.split("."):
            pytest.importorskip({"rl": "torchrl"}.get(needed, needed))
    module = import_module(name)
    assert module.__doc__
    # an override may leave it to what it overrides
    assert [one for one, value in public(module) if not inspect.getdoc(value)] == []


# Size

MOST_POSITIONS = 8
# the arguments of torch's modules, in torch's order
AS_ELSEWHERE = {"rnn_gpu.bridges.torch.base.Base.__init__"}
FORMULAS = "rnn_gpu.kernels.updates"  # of a weight, its moments, its gradient and their numbers


def functions(name):
    """(dotted name, node) of every function of a module, those of classes too."""

    def within(node, path):
        for child in ast.iter_child_nodes(node):
            own = f"{path}.{child.name}" if hasattr(child, "name") else path
            if isinstance(child, (ast.FunctionDef, ast.Lambda)):
                yield own, child
            yield from within(child, own)

    return within(ast.parse(MODULES[name].read_text(encoding="utf-8")), name)


@pytest.mark.parametrize("name", [one for one in MODULES if one != FORMULAS])
def test_no_function_has_too_many_positions(name):
    for path, node in functions(name):
        given = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
        count = len(given) - (given[:1] in (["self"], ["cls"]))
        assert count <= MOST_POSITIONS or path in AS_ELSEWHERE, f"{path} takes {count}"


@pytest.mark.parametrize("name", MODULES)
def test_no_code_is_text(name):
    """Neither exec nor eval: kernels are plain Python."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Name) and node.id in ("exec", "eval")), node.lineno


def compiled_kernels(name):
    """The functions of a module that are compiled to be called from Python."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            by = {ast.unparse(one).partition("(")[0] for one in node.decorator_list}
            if by & {"jit", "cuda.jit"}:
                yield node


def test_every_kernel_says_what_it_computes():
    kernels = [(name, node) for name in MODULES for node in compiled_kernels(name)]
    assert len(kernels) > 12
    assert [(name, node.name) for name, node in kernels if not ast.get_docstring(node)] == []


ALIKE = 6  # lines


def code_of(name):
    """(line's number, line) of a module, but for decorators and signatures, which an editor
    completes and so are written out, for what hands on an argument by its own name, for imports and
    docstrings.
    """
    text = MODULES[name].read_text(encoding="utf-8")
    left_out = {
        line
        for _, node in functions(name)
        if isinstance(node, ast.FunctionDef)
        for line in range(
            min(each.lineno for each in (*node.decorator_list, node)), node.body[0].lineno
        )
    }
    for node in ast.walk(ast.parse(text)):
        says = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if says or isinstance(node, (ast.Import, ast.ImportFrom)):
            left_out.update(range(node.lineno, node.end_lineno + 1))
    for number, line in enumerate(text.splitlines(), 1):
        word = line.strip()
        if word and number not in left_out and not re.fullmatch(r"(\w+)=\1,", word):
            yield number, word


def test_nothing_is_written_twice():
    """No six lines that follow each other, blank ones aside, stand in two places."""
    seen, twice = {}, []
    for name in MODULES:
        lines = list(code_of(name))
        for k in range(len(lines) - ALIKE + 1):
            words = tuple(word for _, word in lines[k : k + ALIKE])
            place = f"{name}, line {lines[k][0]}"
            if seen.setdefault(words, place) != place:
                twice.append((seen[words], place))
    assert twice == []


# What a newcomer adds


def test_every_file_of_cells_is_discovered():
    files = {path.stem for path in (KERNELS / "cells").glob("*.py")} - {"__init__"}
    offered = [
        cell for name in files for cell in import_module(f"rnn_gpu.kernels.cells.{name}").CELLS
    ]
    assert files >= {"elman", "gru", "lstm"}
    assert len({cell.name for cell in offered}) == len(offered)
    assert {cell.name: cell for cell in offered} == CELLS


USE = """
import numpy as np, rnn_gpu
layer = rnn_gpu.Recurrent("leaky", 3, 4, device="reference", dtype="float64")
x, y = np.random.default_rng(0).normal(size=(2, 5, 2, 4))
print(rnn_gpu.__file__, rnn_gpu.gradcheck(layer, x[:, :, :3], y).worst < 1e-6)
"""


def test_a_cell_is_one_file(tmp_path):
    """A copy of the library with one more file in kernels/cells has one more cell."""
    (copied(tmp_path) / "cells" / "leaky.py").write_text(LEAKY_FILE, encoding="utf-8")
    assert words(USE, PYTHONPATH=str(tmp_path)) == [
        str(tmp_path / "rnn_gpu" / "__init__.py"),
        "True",
    ]


# The tests


def helpers():
    """The modules beside the tests that hold none themselves."""
    here = {path.stem for path in Path(__file__).parent.glob("*.py")}
    return {name for name in here if not name.startswith("test_")} - {"typed_door"}


def test_no_test_imports_another():
    """What two share stands in a module of its own; programs are looked at too."""
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        named = re.findall(r"^\s*(?:import|from) (test_\w+)", path.read_text("utf-8"), re.M)
        assert not named, f"{path.name} imports {named}"


def test_helpers_of_tests_are_known_to_the_linter(project):
    isort = project["tool"]["ruff"]["lint"]["isort"]
    assert set(isort["known-first-party"]) == helpers() | {"rnn_gpu", "benchmarks"}


COLLECT = """
import sys
from collections import defaultdict

import pytest


class Marks:
    def pytest_collection_finish(self, session):
        cases, quick = defaultdict(set), defaultdict(bool)
        for item in session.items:
            name = f"{item.path.name}::{item.originalname}"
            for mark in item.iter_markers("quick_on_devices"):
                cases[name, mark.args] |= set(item.callspec.id.split("-"))
            quick[name] |= item.get_closest_marker("slow") is None or "[" not in item.name
        for (name, expected), found in cases.items():
            for case in set(expected) - found:
                print("absent", name, case.replace(" ", "_"))
        for name in [name for name, found in quick.items() if not found]:
            print("never", name, "quick")


sys.exit(pytest.main(["--collect-only", "-qq", sys.argv[1]], plugins=[Marks()]))
"""

# all of whose cases are slow, for what sets them up is
SETS_UP = {"test_benchmarks.py", "test_contributing.py", "test_executed.py", "test_ptx.py"}


@pytest.mark.slow
def test_of_every_test_that_is_drawn_a_case_is_quick(project):
    """And a case that a mark of quick ones names is one."""
    done = python(COLLECT, Path(__file__).parent, cwd=Path(__file__).parent)
    lines = done.stdout.splitlines()
    said = [line.split(" ") for line in lines if line.startswith(("absent ", "never "))]
    assert [line for line in said if line[1].partition("::")[0] not in SETS_UP] == []
    assert {line[1].partition("::")[0] for line in said} == SETS_UP

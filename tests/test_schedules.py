"""Schedules of the CUDA device: each equals the reference in every shape of plan, with several
blocks; and the table that chooses.
"""

import inspect
import itertools

import numpy as np
import pytest

import rnn_gpu
from conftest import close
from programs import copied, python
from rnn_gpu.kernels import UNCLIPPED, Clip, Forward
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.cells.noise import dropped, zoned
from rnn_gpu.kernels.devices import cuda
from rnn_gpu.kernels.devices.cuda import schedules
from rnn_gpu.kernels.devices.cuda.contract import Choice, Problem, Schedule
from rnn_gpu.kernels.devices.cuda.plans import Plan, cycles, fitted
from rnn_gpu.kernels.devices.cuda.schedules import H200, decide, only
from rnn_gpu.kernels.devices.cuda.tuning import choose
from twins import one_pass

CLIPS = (UNCLIPPED, Clip(0.4, 0.6))
NOISY = dropped(zoned(CELLS["lstm"]))
slow = pytest.mark.slow
CHOSEN = ("elman_tanh", "lstm", "gru")


@pytest.mark.parametrize("schedule", ["plain", "gemm"])
@pytest.mark.parametrize("name", CHOSEN)
def test_schedules_for_large_weights_equal_the_reference(name, schedule, dtype):
    for clip, pattern in itertools.product(CLIPS, (None, 4, 5, "live")):
        with only(schedule):
            assert choose(CELLS[name], "forward", 7, 5, 4).schedule == schedule
            got, _, clipped = one_pass("cuda", CELLS[name], dtype, pattern=pattern, clip=clip)
        expected, _, beyond = one_pass("reference", CELLS[name], dtype, pattern=pattern, clip=clip)
        for a, b in zip(got, expected, strict=True):
            close(a, b, dtype)
        assert clipped == beyond


def planned(monkeypatch, lanes, units, samples, shared_quads, cluster=1):
    """Make the table choose plans of this shape, with this many quads of weights a lane in shared
    memory, over clusters of so many blocks.
    """

    def chosen(cell, direction, n, B, itemsize, clips=False, masked=False, precision="fp32"):
        inputs, outputs = (n, cell.gates) if direction == "forward" else (cell.gates * n, 1)
        plan = Plan(n, inputs, outputs, lanes, samples, 0, clips, masked, units, cluster)
        plan = plan._replace(in_registers=max(0, plan.quads - shared_quads))
        name, blocks = "block" if cluster == 1 else "cluster", -(-B // samples) * cluster
        launch = plan.threads, plan.shared * itemsize
        return Choice(name, plan, blocks, *launch, "the test says so", 0.0, cluster)

    monkeypatch.setattr("rnn_gpu.kernels.devices.cuda.choose", chosen)


WAYS = tuple(itertools.product(CLIPS, (None, 6, "live")))  # (clip, pattern of flags)
BLOCKS = (  # n, lanes, units, samples, quads in shared memory
    (7, 2, 1, 2, 1),
    (9, 4, 2, 2, 1),
    (9, 1, 1, 1, 99),
    (7, 4, 1, 1, 0),
    (13, 4, 1, 3, 1),
    (3, 8, 1, 2, 0),
    (7, 2, 2, 1, 0),
    (9, 4, 4, 2, 99),
    (6, 4, 2, 4, 0),
    (7, 8, 2, 8, 1),
    (5, 8, 4, 1, 0),
)
CLUSTERS = (  # the same, and last how many blocks
    (7, 2, 1, 2, 1, 2),
    (8, 2, 2, 2, 0, 2),
    (9, 4, 2, 2, 1, 2),
    (9, 4, 4, 1, 0, 4),
    (7, 1, 1, 1, 0, 2),
    (6, 4, 1, 4, 0, 4),
    (5, 1, 1, 5, 99, 8),
)
QUICK = {BLOCKS[0], BLOCKS[1], BLOCKS[2], CLUSTERS[0]}


def ways(name: str, shapes: tuple, shape: tuple) -> tuple:
    """All six for the quick shapes. Of another each cell has two, and other ones than the next
    cell: so three cells together try all six on each shape, and each cell all six on three shapes.
    """
    if shape in QUICK:
        return WAYS
    k = (CHOSEN.index(name) + shapes.index(shape)) % 3
    return WAYS[k], WAYS[3 + (k + 1) % 3]


def each_shape(shapes: tuple):
    return pytest.mark.parametrize(
        "shape", [pytest.param(one, marks=() if one in QUICK else slow) for one in shapes], ids=str
    )


def equals_the_reference(name: str, n: int, clip, pattern):
    expected, _, beyond = one_pass(
        "reference", CELLS[name], "float64", n=n, pattern=pattern, clip=clip
    )
    got, _, clipped = one_pass("cuda", CELLS[name], "float64", n=n, pattern=pattern, clip=clip)
    for a, b in zip(got, expected, strict=True):
        close(a, b)
    assert clipped == beyond


@each_shape(BLOCKS)
@pytest.mark.parametrize("name", CHOSEN)
def test_every_shape_of_block_plan_equals_the_reference(name, shape, monkeypatch):
    """Shares of a sum over lanes; several units of a team and samples of a block, the last not
    full, dealt out to lanes or held by all; weights in registers, in shared memory, in both.
    """
    n, *plan = shape
    planned(monkeypatch, *plan)
    for way in ways(name, BLOCKS, shape):
        equals_the_reference(name, n, *way)


@each_shape(CLUSTERS)
@pytest.mark.parametrize("name", CHOSEN)
def test_every_shape_of_cluster_plan_equals_the_reference(name, shape, monkeypatch):
    """Several clusters at once; blocks that are full, not full, and without any unit; fewer lanes
    that say the same than blocks, and more.
    """
    n, *plan = shape
    planned(monkeypatch, *plan)
    for way in ways(name, CLUSTERS, shape):
        equals_the_reference(name, n, *way)


@pytest.mark.parametrize("other", [*CELLS.values(), NOISY], ids=[*CELLS, "noisy"])
def test_clusters_carry_every_cell(other, dtype):
    pattern = 3
    with only("cluster"):
        assert choose(other, "backward", 7, 5, 4).schedule == "cluster"
        got, *_ = one_pass("cuda", other, dtype, pattern=pattern)
    expected, *_ = one_pass("reference", other, dtype, pattern=pattern)
    for a, b in zip(got, expected, strict=True):
        close(a, b, dtype)


COUNTS = ("gates", "states", "kept", "apart", "drawn")  # all that a plan knows of a cell


def test_cells_differ_in_their_activation_alone_or_are_planned():
    def counts(cell):
        return [getattr(cell, name) for name in COUNTS]

    planned = [counts(CELLS[name]) for name in CHOSEN]
    assert all(counts(cell) in planned for cell in CELLS.values())


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("name", [*CHOSEN, "noisy"])
def test_plans_keep_within_the_card(name, direction, itemsize):
    cell = CELLS.get(name, NOISY)
    for n in (1, 7, 16, 33, 64, 100, 128, 160, 200, 256, 400, 1024):
        for B in (1, 16, 64, 256, 1000):
            it = decide(Problem(cell, direction, n, B, itemsize, H200))
            assert it.threads <= 1024 and it.shared <= H200.shared
            if it.schedule == "block":
                registers = it.plan.weights * itemsize // 4
                assert it.blocks * it.plan.samples >= B > (it.blocks - 1) * it.plan.samples
                assert it.plan.lanes * n <= it.threads * it.plan.units
                assert registers <= H200.weight_registers
                assert it.threads * (registers + 32) <= H200.registers


def on_h200(name, direction, n, wanted=None, B=64):
    return decide(Problem(CELLS[name], direction, n, B, 4, H200), wanted)


def test_the_table_covers_what_fits_one_multiprocessor():
    """The sizes of the field notes: float32 Elman 224, GRU 128, LSTM 117."""
    for name, n in (("elman_tanh", 224), ("gru", 128), ("lstm", 117)):
        for direction in ("forward", "backward"):
            assert on_h200(name, direction, n, "block").schedule == "block"
    assert on_h200("lstm", "forward", 2048).schedule == "gemm"


def test_the_quickest_of_all_plans_is_chosen():
    for B in (1, 200):
        problem = Problem(CELLS["lstm"], "backward", 100, B, 4, H200)
        plans = [plan for one in schedules.SCHEDULES for plan in one.plans(problem)]
        assert decide(problem).cycles == min(plan.cycles for plan in plans) > 0
        for one in schedules.SCHEDULES:
            cycles = [plan.cycles for plan in one.plans(problem)]
            assert cycles == sorted(cycles)


def test_a_schedule_that_is_asked_for_is_the_one():
    for schedule in schedules.NAMES:
        assert on_h200("lstm", "forward", 64, schedule, B=8).schedule == schedule
    instead = on_h200("lstm", "forward", 2048, "block", B=8)  # W does not fit
    assert instead.schedule == "gemm" and "67108864 bytes" in instead.why
    with (
        pytest.raises(
            ValueError, match="'blocks', expected one of block, cluster, group, plain, gemm"
        ),
        only("blocks"),
    ):
        pass


def test_a_plan_that_does_not_fit_is_none():
    assert fitted(Problem(CELLS["lstm"], "forward", 512, 1, 4, H200), lanes=1, samples=1) is None


def test_layers_explain_themselves():
    layer = rnn_gpu.LSTM(5, 7, device="cuda")
    text = layer.explain(T=10, B=4)
    assert "forward" in text and "backward" in text and "block" in text
    assert "7,744 bytes" in text  # 10·4·(5 + 4·7) + 11·4·2·7 numbers of 4 bytes
    assert "tiles" in rnn_gpu.LSTM(5, 7, device="cpu").explain(T=10, B=4)
    assert "NumPy" in rnn_gpu.LSTM(5, 7, device="reference").explain(T=10, B=4)
    with only("plain"):
        assert "plain" in layer.explain(T=10, B=4) and "asked for" in layer.explain(T=10, B=4)
    with pytest.raises(rnn_gpu.ArgumentError, match="T is 0"):
        layer.explain(T=0, B=4)


# The contract


def functions_of(protocol):
    return {name for name, value in vars(protocol).items() if inspect.isfunction(value)} - {
        "__init__",
        "__subclasshook__",
    }


@pytest.mark.parametrize("schedule", schedules.SCHEDULES, ids=schedules.NAMES)
def test_a_schedule_keeps_the_contract(schedule):
    for name in functions_of(Schedule):
        _, *promised = inspect.signature(getattr(Schedule, name)).parameters
        assert list(inspect.signature(getattr(schedule, name)).parameters) == promised
    assert schedule.name in schedules.NAMES
    problem = Problem(CELLS["lstm"], "forward", 7, 5, 4, H200)
    choice = schedule.plans(problem, asked=True)[0]
    assert choice.schedule == schedule.name
    assert f"{choice.blocks} blocks of {choice.threads} threads" in schedule.describe(choice)


def test_the_last_of_the_row_always_has_an_answer():
    problem = Problem(CELLS["lstm"], "backward", 10**5, 10**5, 8, H200, clips=True)
    assert schedules.SCHEDULES[-1].plans(problem)


USE = """
import numpy as np
import rnn_gpu
from rnn_gpu.kernels.devices.cuda import schedules

rng = np.random.default_rng(0)
x, dy = rng.normal(size=(5, 3, 2)), rng.normal(size=(5, 3, 7))
layers = [rnn_gpu.LSTM(2, 7, device=d, dtype="float64", seed=1) for d in ("cuda", "reference")]
with schedules.only("mine"):
    print("mine" in layers[0].explain(T=5, B=3))
    found = [(layer(x)[0], layer.backward(dy)[0]) for layer in layers]
print(np.allclose(*(y for y, _ in found)), np.allclose(*(dx for _, dx in found)))
print(rnn_gpu.__file__)
"""


def test_a_schedule_is_one_file_and_its_place_in_the_row(tmp_path):
    """A copy of the library with a file more, here that of *plain* under another name."""
    folder = copied(tmp_path) / "devices" / "cuda"
    for file, old, new in (
        ("plain.py", 'name = "plain"', 'name = "mine"'),
        ("schedules.py", "from . import block, ", "from . import block, mine, "),
        ("schedules.py", "= (block, ", "= (block, mine, "),
    ):
        text = (folder / file).read_text(encoding="utf-8")
        assert old in text
        target = folder / ("mine.py" if file == "plain.py" else file)
        target.write_text(text.replace(old, new), encoding="utf-8")
    done = python(USE, PYTHONPATH=str(tmp_path), NUMBA_ENABLE_CUDASIM="1")
    assert done.stdout.split() == ["True"] * 3 + [str(tmp_path / "rnn_gpu" / "__init__.py")]


# What kernels are given


@pytest.mark.parametrize(
    ("options", "masked"),
    [
        ({}, False),
        ({"lengths": [3, 3]}, False),
        ({"lengths": [3, 2]}, True),
        ({"resets": np.eye(3, 2, -1, bool)}, True),
    ],
    ids=["nothing said", "full lengths", "lengths", "resets"],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_flags_are_looked_at_where_they_say_something(options, masked, reverse, monkeypatch):
    seen = []

    def chosen(*given, **more):
        choice = choose(*given, **more)
        seen.append(choice.plan.masked)
        return choice

    monkeypatch.setattr("rnn_gpu.kernels.devices.cuda.choose", chosen)
    layer = rnn_gpu.LSTM(2, 5, device="cuda", reverse=reverse)
    y, _ = layer(np.ones((3, 2, 2), "float32"), **options)
    layer.backward(y)
    assert seen == [masked, masked]


def test_kernels_without_flags_do_not_look_at_them():
    """They are not even handed over."""
    call = Forward(*"pWcsk", flags="flags", masked=False)
    assert cuda.for_kernels(call) == (*"pWcsk", (), ())
    assert cuda.for_kernels(call._replace(masked=True)) == (*"pWcsk", "flags", ())


@pytest.mark.parametrize("norm", [0.7, 1e-42, np.inf])
def test_one_over_a_bound_is_finite(norm, dtype):
    """Zero times it is zero, however small the bound."""
    number = np.dtype(dtype).type
    inverse = cuda.inverse(norm, number)
    assert type(inverse) is number and np.isfinite(inverse)
    assert cuda.inverse(0.5, number) == 2


def test_the_way_back_takes_few_lanes():
    """Each lane repeats the whole cell: eight of an LSTM of 64 issue twice as much as two."""
    problem = Problem(CELLS["lstm"], "backward", 64, 64, 4, H200)
    assert decide(problem).plan.lanes == 2
    assert cycles(fitted(problem, 8, 1), problem) > 1.4 * cycles(fitted(problem, 2, 1), problem)

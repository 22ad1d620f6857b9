"""Kernels compiled for a card and executed without one, through the library's own host code: a
program, for the tests' own process runs the simulator.

    python tests/executed.py GROUP          lines of JSON, one a case
"""

import itertools
import json
import sys
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple
from unittest.mock import patch

import numpy as np

import rnn_gpu
from own_cells import LEAKY, MINE
from planted import Fault, faults
from rnn_gpu.kernels import UNCLIPPED, Clip
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.cells.noise import dropped, zoned
from rnn_gpu.kernels.devices import cuda as cuda_device
from rnn_gpu.kernels.devices.cuda import clusters as c
from rnn_gpu.kernels.devices.cuda.contract import Choice
from rnn_gpu.kernels.devices.cuda.driver import played_by
from rnn_gpu.kernels.devices.cuda.launch import cuda, launch
from rnn_gpu.kernels.devices.cuda.packets import packets_of
from rnn_gpu.kernels.devices.cuda.plans import Plan
from rnn_gpu.kernels.devices.cuda.ptx import place as place_of
from rnn_gpu.kernels.devices.cuda.ptx import shared_place
from rnn_gpu.kernels.devices.cuda.schedules import NAMES as SCHEDULES
from rnn_gpu.kernels.devices.cuda.schedules import only
from rnn_gpu.kernels.emulator.card import Card, card
from twins import N, elementwise_cases, elementwise_pass, matvec_pass, one_pass

MISSING = 3  # exit status where nothing can be compiled
DTYPES = ("float32", "float64")
NOISY = dropped(zoned(CELLS["lstm"]))
ALL_LIVE, MASKED, RANDOM = "live", None, 4  # patterns of flags, as one_pass takes them
CLIPS = {"unclipped": UNCLIPPED, "value": Clip(value=0.3), "norm": Clip(norm=0.7)}
CLIPS["both"] = Clip(0.3, 0.5)


OWN = {"noisy": NOISY, "leaky": LEAKY, "mine": MINE}


class Pass(NamedTuple):
    """One pass forward and back of a cell, by a schedule or by a plan of one that keeps W."""

    cell: str
    dtype: str
    schedule: str
    clip: str = "unclipped"
    pattern: object = MASKED
    n: int = N
    # lanes, units of a team, samples, quads of weights in shared memory, blocks that share W
    shape: tuple[int, int, int, int, int] | None = None
    order: int | None = None  # the seed that draws warps
    product: str = "fp32"  # else by tensor cores: a team has 4 lanes and one unit
    given: bool = False  # states where samples begin anew

    def run(self) -> dict:
        settings = {"pattern": self.pattern, "clip": CLIPS[self.clip], "n": self.n}
        settings["given"] = self.given
        cell = OWN.get(self.cell) or CELLS[self.cell]
        expected, _, beyond = one_pass("reference", cell, self.dtype, **settings)
        with self.chosen():
            got, _, clipped = one_pass("cuda", cell, self.dtype, **settings)
        return {"error": error(got, expected), "clipped alike": int(clipped) == int(beyond)}

    def chosen(self):
        """A context in which this schedule, or plan, is the one."""
        if self.shape is None:
            return only(self.schedule)
        choose = partial(planned, (self.schedule, self.product), self.shape)
        return patch("rnn_gpu.kernels.devices.cuda.choose", choose)


MOST_GROUPS = 2  # of a launch: others are in the next one


def planned(
    way, shape, cell, direction, n, B, itemsize, clips=False, masked=False, precision="fp32"
) -> Choice:
    """A plan of a schedule with so many lanes, units, samples, quads in shared memory, blocks.

    way  (schedule, product)
    """
    (schedule, product), (lanes, units, samples, in_shared, blocks) = way, shape
    inputs, outputs = (n, cell.gates) if direction == "forward" else (cell.gates * n, 1)
    plan = Plan(n, inputs, outputs, lanes, samples, 0, clips, masked, units, blocks, product)
    plan = plan._replace(in_registers=max(0, plan.quads - in_shared))
    groups, together = -(-B // samples), schedule == "group"
    if together:
        groups = min(groups, MOST_GROUPS)
    sizes = groups * blocks, plan.threads, plan.shared * itemsize
    cluster = blocks if schedule == "cluster" else 1
    return Choice(schedule, plan, *sizes, "asked", 0.0, cluster, together)


class Scan(NamedTuple):
    """The way back of one layer by a scan over chunks."""

    cell: str
    dtype: str
    n: int = N
    pattern: bool = False  # steps that do not happen, and that begin anew
    order: int | None = None

    def run(self) -> dict:
        found = [scanned(device, self) for device in ("cuda", "reference")]
        return {"error": error(*found)}


def scanned(device: str, case: Scan) -> list:
    """δ and gradients of a layer that does not forget; on the reference step by step."""
    rng, T, B = np.random.default_rng(5), 13, 2
    layer = rnn_gpu.Recurrent(case.cell, 3, case.n, device=device, dtype=case.dtype, seed=1)
    layer.parameters["W"][...] *= 2
    x, dy = (rng.normal(size=(T, B, size)).astype(case.dtype) for size in (3, case.n))
    call = {}
    if case.pattern:
        call = {"mask": rng.random((T, B)) < 0.7, "resets": rng.random((T, B)) < 0.15}
    layer(x, parallel=False if device == "reference" else ("scan", 3), **call)
    dx, ds = layer.backward(dy)
    assert device == "reference" or layer.parallel_report.scan == 3
    states = ds if isinstance(ds, tuple) else (ds,)
    return list(map(layer.backend.numpy, (dx, *states, layer.delta, *layer.grads.values())))


class Elementwise(NamedTuple):
    """A formula that layers, losses or optimizers give to `elementwise`."""

    formula: str
    dtype: str
    order: int | None = None

    def run(self) -> dict:
        (case,) = (one for one in elementwise_cases() if one[0] == self.formula)
        got = elementwise_pass("cuda", case, self.dtype)
        return {"error": error(got, elementwise_pass("reference", case, self.dtype))}


class Matvec(NamedTuple):
    dtype: str
    order: int | None = None

    def run(self) -> dict:
        got, expected = matvec_pass("cuda", self.dtype)
        return {"error": error([got], [expected])}


class Sent(NamedTuple):
    """Numbers of the other type than that which is sent."""

    way: str
    dtype: str  # of what is sent
    order: int | None = None

    def run(self) -> dict:
        number, count = np.dtype(self.dtype).type, 4
        (given,) = {"float32", "float64"} - {self.dtype}
        x, out = cuda_device.array(np.arange(1, 5) / 3, given), cuda_device.zeros(count, given)
        if self.way == "packets":
            words = cuda_device.zeros(2 * count, np.int64)
            launch(packet_kernel(number), 1, count, x, out, words, cooperative=True)
        else:
            launch(cluster_kernel(number), 2, count // 2, x, out, cluster=2)
        expected = cuda_device.numpy(x).astype(self.dtype).astype(given)
        return {"error": error([cuda_device.numpy(out)], [expected])}


def packet_kernel(number):
    """Each thread's number through global memory."""
    packets = packets_of(number)
    put, get = packets.put, packets.get

    @cuda.jit
    def exchange(x, out, words):
        i, there, first = cuda.threadIdx.x, False, place_of(words, 0)
        put(words, first, i, x[i], np.int32(1))
        while not there:
            value, there = get(words, first, i, np.int32(1))
        out[i] = value

    return exchange


def cluster_kernel(number):
    """The numbers of two blocks to each other and back: alone, and by fours."""
    bytes, together, mbarriers = 5 * 2 * number().itemsize, c.in_clusters_of(2), c.mbarriers_of(2)

    @cuda.jit
    def exchange(x, out):
        together()
        shared, i = cuda.shared.array(10, number, 16), cuda.threadIdx.x
        full, mine = mbarriers()[0], x[cuda.grid(1)]
        if i == 0:
            c.init_mbarrier(full, 1)
            c.fence_mbarriers()
            c.arm(full, bytes)
        c.meet()
        to, rank = 1 - c.cluster_rank(), c.cluster_rank()
        there, counted = c.remote(shared_place(shared, 0), to), c.remote(full, to)
        c.send(shared, there, 8 + i, mine, counted)
        c.send_four(shared, there, 4 * i, (mine, mine, mine, mine), counted)
        c.await_phase(full, 0)
        # of two numbers of the other block
        out[2 * (1 - rank) + i] = (shared[8 + i] + shared[4 * i + 3]) / 2

    return exchange


class Training(NamedTuple):
    """An update of a network, through the door."""

    dtype: str
    order: int | None = None

    def run(self) -> dict:
        found = [trained(device, self.dtype) for device in ("cuda", "reference")]
        return {"error": error(*found)}


def trained(device: str, dtype: str) -> list:
    """The parameters after two updates."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(6, 5, 3)).astype(dtype), rng.normal(size=(6, 5, 2)).astype(dtype)
    options = {"device": device, "dtype": dtype, "seed": 1}
    layers = [rnn_gpu.GRU(3, 7, **options), rnn_gpu.Dense(7, 2, **options)]
    network = rnn_gpu.Network(layers, loss="squared_error", steps="every")
    bounds = {"clip_norm": 0.1, "clip_step_norm": 0.01}
    network.fit(x, y, epochs=2, batch_size=5, progress=False, **bounds)
    return [network.backend.numpy(a) for a in network.parameters.values()]


def error(got, expected) -> float:
    """The largest, relative to the largest number of an array, or to 1."""
    found = [
        np.abs(a - b).max(initial=0) / max(1.0, np.abs(b).max(initial=0))
        for a, b in zip(got, expected, strict=True)
    ]
    return float(max(np.nan_to_num(found, nan=np.inf)))


# Groups of cases

SHAPES = [  # n, (lanes, units of a team, samples, quads of weights in shared memory, blocks)
    (7, (1, 1, 1, 99, 1)),
    (7, (2, 1, 2, 1, 1)),
    (7, (4, 1, 1, 0, 1)),
    (3, (8, 1, 2, 0, 1)),
    (13, (4, 1, 3, 1, 1)),
    (33, (2, 1, 1, 2, 1)),
    (33, (8, 1, 5, 99, 1)),
    (9, (1, 1, 4, 0, 1)),
    (9, (4, 4, 1, 1, 1)),
    (33, (16, 8, 2, 1, 1)),
    (13, (8, 2, 8, 99, 1)),
    (33, (32, 4, 4, 0, 1)),
]
SHARED = {  # likewise, of schedules whose blocks share W; a cluster's are a power of two
    "group": [
        (7, (2, 1, 2, 1, 3)),
        (7, (4, 2, 1, 0, 2)),
        (13, (2, 2, 4, 99, 4)),
        (9, (1, 1, 2, 0, 5)),
        (33, (8, 2, 2, 1, 5)),
    ],
    "cluster": [
        (7, (2, 1, 2, 1, 4)),
        (7, (4, 2, 1, 0, 2)),
        (13, (2, 2, 4, 99, 4)),
        (9, (1, 1, 2, 0, 4)),
        (33, (8, 2, 2, 1, 8)),
    ],
}
FEW = ("elman_tanh", "gru", "lstm")


def quick() -> Iterator:
    """A case of each kind, in few kernels."""
    for pattern, order in ((MASKED, None), (RANDOM, 1), (ALL_LIVE, None)):
        yield Pass("lstm", "float32", "block", "unclipped", pattern, order=order)
    yield Pass("gru", "float64", "block", "both", RANDOM, 33, (4, 2, 2, 1, 1))
    yield Pass("mine", "float32", "plain", "norm", RANDOM)
    yield Pass("elman_tanh", "float64", "gemm", "value", RANDOM)
    for schedule, ((n, shape), *_) in SHARED.items():
        yield Pass("elman_tanh", "float32", schedule, "both", RANDOM, n, shape, 1)
    tiled = "both", RANDOM, 9, (4, 1, 8, 1, 2), 2
    yield Pass("lstm", "float32", "cluster", *tiled, "tf32")
    for cell, schedule in zip(
        ("lstm", "gru", "elman_tanh"), ("block", "plain", "gemm"), strict=True
    ):
        yield Pass(cell, "float32", schedule, "unclipped", RANDOM, given=True)
    for schedule, ((n, shape), *_) in SHARED.items():
        yield Pass("elman_tanh", "float32", schedule, "both", RANDOM, n, shape, 1, given=True)
    yield Scan("lstm", "float32", pattern=True, order=1)
    yield Elementwise("adam", "float32")
    yield Matvec("float32")
    for way, dtype in itertools.product(("packets", "cluster"), DTYPES):
        yield Sent(way, dtype)


def schedules() -> Iterator:
    """Every schedule, flag and bound of the cells that stand for all."""
    for cell, dtype, schedule in itertools.product(FEW, DTYPES, SCHEDULES):
        for clip, pattern in itertools.product(CLIPS, (MASKED, RANDOM, ALL_LIVE)):
            yield Pass(cell, dtype, schedule, clip, pattern)


def cells() -> Iterator:
    """Every other cell, one with noise, and users' own."""
    others = [name for name in (*CELLS, *OWN) if name not in FEW]
    for cell, dtype, schedule in itertools.product(others, DTYPES, SCHEDULES):
        for pattern in (MASKED, RANDOM):
            yield Pass(cell, dtype, schedule, "unclipped", pattern)
        yield Pass(cell, dtype, schedule, "both", RANDOM)


def plans() -> Iterator:
    """Every shape of plan, in random orders too."""
    for cell, dtype, (n, shape) in itertools.product(FEW, DTYPES, SHAPES):
        for clip, pattern, order in (
            ("unclipped", ALL_LIVE, None),
            ("unclipped", RANDOM, 1),
            ("both", RANDOM, 2),
            ("norm", ALL_LIVE, 3),
        ):
            yield Pass(cell, dtype, "block", clip, pattern, n, shape, order)


def reaches() -> Iterator:
    """Every shape that several blocks share, in random orders too."""
    for cell, dtype, schedule in itertools.product(FEW, DTYPES, SHARED):
        for n, shape in SHARED[schedule]:
            yield Pass(cell, dtype, schedule, "unclipped", ALL_LIVE, n, shape)
            yield Pass(cell, dtype, schedule, "unclipped", RANDOM, n, shape, 1)
            yield Pass(cell, dtype, schedule, "both", RANDOM, n, shape, 2)
            yield Pass(cell, dtype, schedule, "norm", ALL_LIVE, n, shape, 3)


def tensor_cores() -> Iterator:
    """Sums by tensor cores, of every schedule that keeps W on the chip."""
    ways = (("block", 1, 1), ("cluster", 2, 0), ("group", 3, 99))
    for cell, product, (schedule, blocks, in_shared) in itertools.product(
        FEW, ("tf32", "bf16"), ways
    ):
        for samples, clip in ((8, "both"), (16, "unclipped")):
            shape = 4, 1, samples, in_shared, blocks
            yield Pass(cell, "float32", schedule, clip, RANDOM, 9, shape, samples, product)


def others() -> Iterator:
    """Kernels that know no cell, and the door."""
    for dtype in DTYPES:
        for formula, *_ in elementwise_cases():
            yield Elementwise(formula, dtype)
        yield Matvec(dtype)
        yield Training(dtype)


def scans() -> Iterator:
    """The way back in chunks, of cells that stand for all."""
    for cell, dtype, n in itertools.product(FEW, DTYPES, (4, 7, 32)):
        yield Scan(cell, dtype, n)
        yield Scan(cell, dtype, n, True, 2)


def small() -> Iterator:
    """Two kernels, for faults in their sources."""
    yield Pass("elman_tanh", "float32", "block")
    yield Pass("elman_tanh", "float32", "plain")


def small_shared(schedule: str) -> Iterator:
    """A case of a schedule that shares W out, likewise."""
    n, shape = SHARED[schedule][0]
    yield Pass("elman_tanh", "float32", schedule, "unclipped", MASKED, n, shape, 1)


class Faulty(Card):
    """A card that changes the text of one kernel it loads, and remembers all."""

    def __init__(self, place: int = -1, change=None, order=None):
        super().__init__(order)
        self.place, self.change, self.texts = place, change, []

    def load(self, code, entry, shared):
        text = code.decode()
        self.texts.append(text)
        changed = self.change(text) if len(self.texts) == self.place + 1 else text
        return super().load(changed.encode(), entry, shared)


PLANTED = (
    Pass("lstm", "float32", "block", "norm", RANDOM, 7, (2, 1, 2, 1, 1)),
    Pass("gru", "float32", "plain", "norm", RANDOM, 33),
    Pass("elman_tanh", "float64", "gemm", "norm"),
)
PLANTED_SHARED = tuple(
    Pass("elman_tanh", "float32", schedule, "norm", RANDOM, n, shape, 1)
    for schedule, ((n, shape), *_) in SHARED.items()
)


class Planted(NamedTuple):
    """A fault in one kernel of a case."""

    healthy: Pass
    place: int
    fault: Fault

    def line(self) -> dict:
        seed = self.healthy.order
        order = None if seed is None else np.random.default_rng(seed)
        faulty = Faulty(self.place, self.fault.change, order)
        with played_by(faulty):
            found = self.healthy.run()
        return found | {
            "fault": f"{self.healthy.schedule}, kernel {self.place}: {self.fault.name}",
            "expected": sorted(kind.name for kind in self.fault.expected),
            "kinds": sorted({one.kind.name for one in faulty.findings()}),
        }


def with_faults(passes) -> Iterator:
    """Every fault, in the kernels of each pass."""
    for case in passes:
        healthy = Faulty()
        with played_by(healthy):
            case.run()
        yield case
        for place, text in enumerate(healthy.texts):
            yield from (Planted(case, place, fault) for fault in faults(text))


def planted() -> Iterator:
    """In schedules whose blocks need no other."""
    return with_faults(PLANTED)


def planted_shared() -> Iterator:
    """In schedules whose blocks share a layer."""
    return with_faults(PLANTED_SHARED)


MANY = (schedules, cells, plans, tensor_cores, reaches, scans)
ALL = (quick, *MANY, others, small, planted, planted_shared)
GROUPS = {one.__name__: one for one in ALL}
GROUPS |= {f"small {schedule}": partial(small_shared, schedule) for schedule in SHARED}


def line(case, played: Card) -> dict:
    """What came of a case."""
    played.launches.clear()
    played.order = None if case.order is None else np.random.default_rng(case.order)
    found = case.run()
    runs = [launch.run for launch in played.launches]
    return found | {
        "case": " ".join(map(str, (type(case).__name__, *case))),
        "dtype": case.dtype,
        "product": getattr(case, "product", "fp32"),
        "launches": len(runs),
        "findings": [str(one) for one in played.findings()],
        "benign": sum(run.benign for run in runs),
    }


def main(group: str) -> int:
    if reason := Card().missing():
        print(reason, file=sys.stderr)
        return MISSING
    cases = list(GROUPS[group]())
    print(json.dumps({"planned": len(cases)}), flush=True)
    with card() as played:
        for case in cases:
            said = case.line() if isinstance(case, Planted) else line(case, played)
            print(json.dumps(said), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

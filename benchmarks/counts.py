"""What each path asks of a card, counted on the stand-in for CuPy: nothing here is a time.

python -m benchmarks counts            writes benchmarks/results/counts/host.json anew
python -m benchmarks counts LSTM       shows what it counts of the paths with LSTM in their names

Each number is how often, within one call that is not the first of its kind: `operations` of CuPy
that start something on the card, `views` that start nothing, `launches` of our kernels, `products`
of cuBLAS, `waits` of the host, `copies_to` the card and `copies_from` it, `allocations` from the
pool, `graphs` that are launched.  tests/test_counts.py holds every path to its line.
"""

import json
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from unittest.mock import patch

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # before the first import of numba

import numpy as np

from benchmarks.record import RESULTS
from rnn_gpu import GRU, LSTM, RNN, Dense, Network, Stream, optimizers
from rnn_gpu.device import resolve
from rnn_gpu.kernels.devices.cuda.schedules import NAMES, only
from rnn_gpu.kernels.emulator import arrays
from rnn_gpu.kernels.emulator.arrays.counts import Counts, counted
from rnn_gpu.kernels.emulator.simulated import strict
from rnn_gpu.training import Samples, Settings, Training

FILE = RESULTS / "counts" / "host.json"
KINDS = {"Elman": RNN, "GRU": GRU, "LSTM": LSTM}
SEGMENT = 4  # steps, of memory_budget
T, B, M, N, K = 16, 4, 5, 6, 3  # `gemm` asks for something at each of T steps, no other does
NAMED = ("operations", "waits", "copies_to", "copies_from", "launches")  # by what, too

Path = Callable[[], object]
PATHS: dict[str, Callable[[], Path]] = {}  # what is counted, made ready


def path(name: str):
    """The function makes ready what is counted under this name."""

    def known(f):
        PATHS[name] = f
        return f

    return known


def drawn(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("f")


def layer_paths():
    """The layers' own door, on arrays of the card and of the host."""
    for kind, layer in KINDS.items():
        PATHS[f"{kind} forward"] = lambda layer=layer: forward(layer)
        for schedule in NAMES:
            name = f"{kind} forward and backward, {schedule}"
            PATHS[name] = lambda layer=layer, schedule=schedule: training(layer, schedule)
    PATHS["LSTM forward, x of the host"] = lambda: forward(LSTM, arrays.asnumpy)
    PATHS["LSTM forward and backward, masked"] = lambda: training(LSTM, None, mask=True)
    PATHS["LSTM forward and backward, clipped"] = lambda: training(LSTM, None, clip=True)
    PATHS["LSTM forward and backward, noise"] = lambda: training(LSTM, None, noise=True)
    PATHS["LSTM forward and backward, TF32"] = lambda: training(LSTM, None, precision="tf32")


def forward(layer, of=arrays.asarray) -> Path:
    layer, x = layer(M, N, device="cuda"), of(arrays.asarray(drawn(T, B, M)))
    return lambda: layer(x)


def training(layer, schedule, mask=False, clip=False, noise=False, precision="fp32") -> Path:
    noisy = {"recurrent_dropout": 0.2, "zoneout": 0.1} if noise else {}
    layer = layer(M, N, device="cuda", precision=precision, **noisy)
    x, dy = arrays.asarray(drawn(T, B, M)), arrays.asarray(drawn(T, B, N))
    given = {"mask": drawn(T, B) > 0, "resets": drawn(T, B) > 1} if mask else {}
    back = {"clip_step_norm": 0.1} if clip else {}

    def passes():
        layer(x, training=noise, **given)
        layer.backward(dy, **back)

    def by_the_schedule():
        with only(schedule):
            passes()

    return by_the_schedule if schedule else passes


def network() -> Network:
    return Network([LSTM(M, N, device="cuda"), Dense(N, K, device="cuda")])


def samples(ragged: bool) -> tuple[list, list]:
    lengths = [T - (b % 3 if ragged else 0) for b in range(4 * B)]
    return [drawn(t, M) for t in lengths], [drawn(t, K) for t in lengths]


UPDATES = {
    "": {},
    ", clip_norm": {"clip_norm": 1e-3},
    ", clip_step_norm": {"clip_step_norm": 0.1},
    ", truncate": {"truncate": (T // 2, T // 2)},
    ", memory_budget": {"memory_budget": 20_000},
    ", masks": {"ragged": True},
    ", replayed": {"replayed": True},
    ", clip_norm, clip_step_norm, replayed": {
        "replayed": True,
        "clip_norm": 1e-3,
        "clip_step_norm": 0.1,
    },
}


def fit_paths():
    """One update of fit: its batch is put together, and goes to the card.  Call by call, but where
    its name says that a graph does it again.
    """
    for name, options in UPDATES.items():
        PATHS[f"fit, LSTM and Dense, Adam{name}"] = lambda options=options: update(**options)


def update(ragged=False, replayed=False, **settings) -> Path:
    model = network()
    settings = Settings(epochs=99, batch_size=B, shuffle=False, **settings)
    with instead("CHUNK_ROWS", SEGMENT * B):
        training = Training(model, Samples(model, *samples(ragged)), optimizers.Adam(), settings)
    updates = iter(training)

    def batch():
        with (
            instead("CHUNK_ROWS", SEGMENT * B) if settings.memory_budget else nullcontext(),
            nullcontext() if replayed else instead("captured", lambda action: None),
        ):
            while not next(updates).ends_batch:
                pass

    if replayed:  # the first goes call by call, the second is captured
        batch()
    return batch


def instead(name: str, value):
    """Another value of a name of the device's.  CHUNK_ROWS, rows of products at a time: segments
    of a batch begin with one, and there are none where a batch has no more.
    """
    return patch.object(resolve("cuda"), name, value)


@path("evaluate")
def evaluate() -> Path:
    model, (x, y) = network(), samples(False)
    return lambda: model.evaluate(x[:B], y[:B])


@path("predict")
def predict() -> Path:
    model, (x, _) = network(), samples(False)
    return lambda: model.predict(x[:B])


@path("gradient")
def gradient() -> Path:
    model, (x, y) = network(), samples(False)
    return lambda: model.gradient(x[:B], y[:B])


@path("Stream, a step of the host")
def step_of_the_host() -> Path:
    stream, x = Stream(network()), drawn(B, M)
    return lambda: stream(x)


@path("Stream, a step of the card")
def step_of_the_card() -> Path:
    stream, x = Stream(network()), arrays.asarray(drawn(B, M))
    return lambda: stream(x)


def torch_paths():
    """Modules of rnn_gpu.torch on tensors of the card; none where there is no torch."""
    if find_spec("torch") is None:
        return
    for kind in ("RNN", "GRU", "LSTM"):
        PATHS[f"torch {kind} forward"] = lambda kind=kind: torch_module(kind, back=False)
        PATHS[f"torch {kind} backward"] = lambda kind=kind: torch_module(kind, back=True)


def torch_module(kind: str, back: bool) -> Path:
    import torch

    from benchmarks._played import cuda_tensors, on_the_card
    from rnn_gpu import torch as ours

    module, went = on_the_card(getattr(ours, kind)(M, N)), []
    x = on_the_card(torch.zeros(T, B, M)).requires_grad_()

    def forward():
        with cuda_tensors():
            went.append(module(x)[0].sum())

    def backward():
        with cuda_tensors():
            went.pop().backward()

    if not back:
        return forward
    for _ in range(2):
        forward()
    return backward


layer_paths()
fit_paths()
torch_paths()


def measured(name: str) -> dict:
    """What the second call of a path asks for."""
    with strict():
        call = PATHS[name]()
        call()
        with counted() as counts:
            call()
    return row(counts)


def row(counts: Counts) -> dict:
    """The totals by field, and by name where a name says more."""
    totals = {field: number for field, number in counts.table().items() if number}
    return totals | {
        "by": {field: dict(sorted(counts.of[field].items())) for field in NAMED if counts.of[field]}
    }


def stored() -> dict[str, dict]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def write(rows: dict[str, dict]):
    """One path a line, so that two who improve two paths do not meet."""
    lines = (f"{json.dumps(name)}: {json.dumps(found)}" for name, found in rows.items())
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main(wanted: list[str]):
    rows = {}
    for name in PATHS:
        if all(word in name for word in wanted):
            rows[name] = found = measured(name)
            print(f"{name:45}", *(f"{key} {n}" for key, n in found.items() if key != "by"))
            for field, names in found["by"].items() if wanted else ():
                print(f"    {field}:", *(f"{what} {n}" for what, n in names.items()))
    if not wanted:
        write(rows)
        print(FILE)


if __name__ == "__main__":
    main(sys.argv[1:])

"""The first minute on a GPU: which libraries are there, whether each kind of kernel is right at
all, and how long a first call takes. A check a process.

    python -m benchmarks smoke [--seconds 90] [--resume] [--rehearse]

Kernels that benchmarks/precompile.py has left in RNN_GPU_CUBINS are taken; it says how many were.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from unittest.mock import patch

import numpy as np

import rnn_gpu
from benchmarks import _machine, _versions
from benchmarks._machine import REHEARSAL, first_line
from benchmarks._timing import synchronise

# relative to the largest number of an array, or to 1
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
T, B, M, N = (3, 2, 3, 5) if REHEARSAL else (7, 5, 3, 13)
CELLS = ("elman", "lstm", "gru")
NO_CARD = 3  # exit status: there is nothing to measure on, or it is too old
FIRST_CALL = 0.3  # seconds, where the store has the kernels
LARGE = {"lstm": 117, "gru": 128, "elman": 224}  # more than 48 KB of shared memory
SPREAD = {"lstm": 256, "gru": 256, "elman": 512}  # what no multiprocessor holds


def made(cell: str, n: int, dtype: str, device: str):
    kind = {"elman": rnn_gpu.RNN, "lstm": rnn_gpu.LSTM, "gru": rnn_gpu.GRU}[cell]
    return kind(M, n, device=device, dtype=dtype, seed=1, init="torch")


def outcome(layer, x, dy, lengths, parallel=False) -> dict:
    """Everything a call and its way back give, by name, as NumPy arrays."""
    y, state = layer(x, lengths=lengths, parallel=parallel)
    dx, dstate = layer.backward(dy)
    parts = {"y": y, "dx": dx, "delta": layer.delta}
    for name, states in (("state", state), ("dstate", dstate)):
        parts |= {
            f"{name}{k}": a
            for k, a in enumerate(states if isinstance(states, tuple) else (states,))
        }
    parts |= {f"d{name}": grad for name, grad in layer.grads.items()}
    return {name: layer.backend.numpy(a) for name, a in parts.items()}


def same(cell: str, schedule: str, dtype: str, n: int = N, on_the_device: bool = False) -> dict:
    """One layer on the GPU against the definition, ragged lengths: the largest relative error of
    each array.
    """
    from rnn_gpu.kernels.devices import cuda
    from rnn_gpu.kernels.devices.cuda.schedules import only

    rng = np.random.default_rng(2)
    x, dy = rng.normal(size=(T, B, M)).astype(dtype), rng.normal(size=(T, B, n)).astype(dtype)
    lengths = None if on_the_device else rng.integers(1, T + 1, B)
    layer = made(cell, n, dtype, "cuda")
    right = outcome(layer.copy(device="reference"), x, dy, lengths)
    if on_the_device:
        x, dy = cuda.array(x, dtype), cuda.array(dy, dtype)
    with only(schedule):
        it = cuda.choose(layer.cell, "forward", n, B, np.dtype(dtype).itemsize)
        got = outcome(layer, x, dy, lengths)
    errors = errors_of(got, right)
    ok = all(error <= TOLERANCE[dtype] for error in errors.values())
    return {"ok": ok, "ran": it.schedule, "shared": it.shared, "errors": errors}


def errors_of(got: dict, right: dict) -> dict:
    """The largest relative error of each array."""
    return {
        name: float(np.abs(got[name] - a).max() / max(1.0, np.abs(a).max()))
        for name, a in right.items()
    }


def scanned(cell: str, dtype: str) -> dict:
    """The way back of one layer by a scan over two chunks against the definition, step by step:
    samples of one length, and ragged ones, of which kernels look at flags.
    """
    rng, errors, chunks = np.random.default_rng(4), {}, []
    layer = made(cell, N, dtype, "cuda")
    x, dy = (rng.normal(size=(2 * T, B, size)).astype(dtype) for size in (M, N))
    for name, lengths in (("", None), ("ragged ", rng.integers(1, 2 * T + 1, B))):
        right = outcome(layer.copy(device="reference"), x, dy, lengths)
        got = outcome(layer, x, dy, lengths, ("scan", 2))
        errors |= {name + one: error for one, error in errors_of(got, right).items()}
        chunks.append(layer.parallel_report.scan)
    ok = chunks == [2, 2] and all(error <= TOLERANCE[dtype] for error in errors.values())
    return {"ok": ok, "chunks": chunks, "errors": errors}


def trained() -> dict:
    """Three epochs of a small network: the same losses on the GPU as by the definition."""
    rng = np.random.default_rng(3)
    x, y = [rng.normal(size=(t, M)).astype("float32") for t in (5, 3, 4, 2)], np.array([0, 1, 2, 1])

    def losses(device):
        layers = [rnn_gpu.LSTM(M, N, device=device), rnn_gpu.Dense(N, 3, device=device)]
        network = rnn_gpu.Network(layers, loss="softmax_cross_entropy", steps="last")
        history = network.fit(
            x,
            y,
            epochs=3,
            batch_size=2,
            learning_rate=1e-2,
            clip_norm=1.0,
            shuffle=False,
            progress=False,
        )
        return np.array(history["loss"])

    got, right = losses("cuda"), losses("reference")
    error = float(np.abs(got - right).max() / np.abs(right).max())
    return {"ok": error <= TOLERANCE["float32"], "errors": {"loss": error}}


def first_call() -> dict:
    """Seconds of the first call of an LSTM in a process, of its way back, and of a second call. The
    first product loads cuBLAS; before all that, CUDA has started and the layer is made.
    """
    n, batch, steps = (4, 2, 3) if REHEARSAL else (64, 32, 128)
    layer = rnn_gpu.LSTM(n, n, device="cuda", init="torch")
    x = layer.backend.zeros((steps, batch, n), "float32")
    dy = x + 1
    took = {}
    for what, call in (
        ("first_call", lambda: layer(x)),
        ("first_backward", lambda: layer.backward(dy)),
        ("second_call", lambda: layer(x)),
    ):
        synchronise()
        started = time.perf_counter()
        call()
        synchronise()
        took[f"{what}_seconds"] = time.perf_counter() - started
    return {"ok": True, "errors": {}, "wanted_seconds": FIRST_CALL, **took}


def imported(module: str) -> dict:
    """A library, and one operation of it on the GPU."""
    if module == "cupy":
        import cupy

        a = cupy.arange(6, dtype="float32").reshape(2, 3)
        ok = float((a @ a.T).sum()) == 83.0 and float((a * 2).sum()) == 30.0
    elif module == "torch":
        import torch

        device = "cpu" if REHEARSAL else "cuda"
        y, _ = torch.nn.LSTM(3, 5, device=device)(torch.zeros(2, 1, 3, device=device))
        ok = bool(torch.isfinite(y).all())
    elif module == "jax":
        import jax

        ok = float(jax.jit(lambda a: a @ a)(jax.numpy.ones((2, 2))).sum()) == 8.0 and (
            REHEARSAL or jax.default_backend() == "gpu"
        )
    else:
        from numba.cuda.cudadrv import driver, nvvm

        nvvm.NVVM()
        ok = driver._have_nvjitlink()
    return {"ok": bool(ok), "errors": {}}


def checks() -> dict:
    """name -> (function, arguments); those of one process share the part of the name before the
    first blank.
    """
    from rnn_gpu.kernels.devices.cuda.schedules import NAMES

    found = {}
    dtypes = ("float32",) if REHEARSAL else tuple(TOLERANCE)
    for cell in CELLS:
        for schedule in NAMES:
            for dtype in dtypes:
                found[f"{cell}/{schedule} {dtype}"] = (same, (cell, schedule, dtype))
        for dtype in dtypes:
            found[f"{cell}/scan {dtype}"] = (scanned, (cell, dtype))
        found[f"{cell}/block float32, arrays of the device"] = (
            same,
            (cell, "block", "float32", N, True),
        )
        if not REHEARSAL:
            large, spread = LARGE[cell], SPREAD[cell]
            found[f"{cell}/large float32 n={large}"] = (same, (cell, "block", "float32", large))
            for schedule in set(NAMES) & {"cluster", "group"}:  # a process each: it may hang
                name = f"{cell}/{schedule}-spread float32 n={spread}"
                found[name] = (same, (cell, schedule, "float32", spread))
    found["training"] = (trained, ())
    found["first-call"] = (first_call, ())
    rehearsed = ("torch",) if find_spec("torch") else ()
    for module in rehearsed if REHEARSAL else ("cupy", "torch", "jax", "numba.cuda"):
        found[f"import-{module}"] = (imported, (module,))
    return found


@contextmanager
def kernels_counted() -> Iterator[dict]:
    """How many kernels are found and how many compiled meanwhile, in how many seconds."""
    launching = import_module("rnn_gpu.kernels.devices.cuda.launch")
    compiling = import_module("rnn_gpu.kernels.devices.cuda.compiled")
    counts = {"loaded": 0, "compiled": 0, "seconds": 0.0}
    given, compiled = launching.compiled, compiling.compile_kernel

    def counting(*asked):
        counts["loaded"] += 1
        return given(*asked)

    def compiling_here(*asked):
        counts["loaded"] -= 1
        counts["compiled"] += 1
        started = time.perf_counter()
        try:
            return compiled(*asked)
        finally:
            counts["seconds"] += time.perf_counter() - started

    with (
        patch.object(launching, "compiled", counting),
        patch.object(compiling, "compile_kernel", compiling_here),
    ):
        yield counts


def run(name: str) -> dict:
    function, arguments = checks()[name]
    started = time.monotonic()
    with kernels_counted() as kernels:
        try:
            result = function(*arguments)
        except Exception as error:
            traceback.print_exc()
            lines = traceback.format_exc().strip().splitlines()
            result = {"ok": False, "errors": {}}
            result |= {"error": first_line(error), "traceback": lines[-12:]}
    seconds = time.monotonic() - started
    return {"name": name, "seconds": seconds, "kernels": kernels, **result}


def run_all(names: list[str], seconds: float) -> Iterator[dict]:
    """Each group of checks in a process of its own, all at once: what breaks the GPU for one leaves
    the others alone.
    """
    if REHEARSAL:
        yield from map(run, names)
        return
    groups = {name.split(" ")[0]: None for name in names}
    command = [sys.executable, "-m", "benchmarks.smoke", "--only"]
    processes = {
        group: subprocess.Popen([*command, group], stdout=subprocess.PIPE, text=True)
        for group in groups
    }
    end = time.monotonic() + seconds
    for group, process in processes.items():
        try:
            printed, _ = process.communicate(timeout=max(1.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            printed, _ = process.communicate()
        lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
        results = {one["name"]: one for one in lines}
        for name in names:
            if name.split(" ")[0] == group:
                yield results.get(name) or {"name": name, **LOST}


LOST = {
    "ok": False,
    "errors": {},
    "error": "its process ended, or hung, before this check was through",
}


def shown(one: dict) -> str:
    worst = f"largest error {max(one['errors'].values()):.1e}" if one["errors"] else ""
    ran = f"{one['ran']}, {one['shared']} bytes shared" if "ran" in one else ""
    took = ", ".join(
        f"{key.removesuffix('_seconds')} {value:.3f} s"
        for key, value in one.items()
        if key.endswith("_seconds")
    )
    details = "; ".join(filter(None, (worst, ran, took, one.get("error", ""))))
    return f"{'ok  ' if one['ok'] else 'FAIL'} {one['name']}: {details}"


def of_all(results: list[dict]) -> dict:
    """How many kernels all checks found and compiled, and in how many seconds of compiling."""
    kernels = [one["kernels"] for one in results if "kernels" in one]
    return {key: sum(one[key] for one in kernels) for key in ("loaded", "compiled", "seconds")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument(
        "--resume", action="store_true", help="keep the checks that were right; do the others"
    )
    parser.add_argument(
        "--only", default="", metavar="GROUP", help="run one group of checks here, and print JSON"
    )
    chosen = parser.parse_args()
    if chosen.only:
        for name in checks():
            if name.split(" ")[0] == chosen.only:
                print(json.dumps(_machine.plain(run(name))), flush=True)
        return
    versions, missing = _versions.packages() | _versions.of_cuda(), _versions.missing()
    print("versions: " + ", ".join(f"{name} {it or 'MISSING'}" for name, it in versions.items()))
    reason = _machine.why_no_card()
    if reason and not _machine.gpu():
        print(
            f"smoke: nothing can be measured here: {reason}. --rehearse runs the same code in the "
            "simulator.",
            file=sys.stderr,
        )
        sys.exit(NO_CARD)
    unfit = [] if "packaging" in missing else _versions.unfit(versions, _versions.bounds())
    stops = unfit and os.environ.get("RNN_GPU_VERSIONS") != "any"
    for sentence in unfit:
        print(f"smoke: {sentence}", file=sys.stderr)
    if stops:
        print("smoke: RNN_GPU_VERSIONS=any tries all the same", file=sys.stderr)
    # which tell why there is no device
    names = [name for name in checks() if not reason or name.startswith("import-")]
    old = (chosen.resume and _machine.earlier("smoke")) or {"results": []}
    results = [one for one in old["results"] if one["ok"] and one["name"] in names]
    waiting = [name for name in names if name not in {one["name"] for one in results}]
    head = {"versions": versions, "missing": missing, "unfit": unfit, "why_no_card": reason}

    def save():
        kernels = of_all(results)
        more = {"kernels": kernels, "complete": len(results) == len(names)}
        return _machine.write("smoke", results, **head, **more)

    path = save()
    for one in run_all(waiting, chosen.seconds) if not stops else ():
        results.append(one)
        print(shown(one), flush=True)
        path = save()
    failed, kernels = sum(not one["ok"] for one in results), of_all(results)
    carried = os.environ.get("RNN_GPU_CUBINS") or "none"
    print(
        f"smoke: {kernels['loaded']} kernels found (carried in {carried}), {kernels['compiled']} "
        f"compiled here in {kernels['seconds']:.1f} s"
    )
    print(
        f"smoke: {len(results) - failed} right, {failed} not; missing: "
        f"{', '.join(missing) or 'nothing'}; {reason or 'GPU there'} -> {path}"
    )
    sys.exit(NO_CARD if reason or stops else int(failed > 0))


if __name__ == "__main__":
    main()

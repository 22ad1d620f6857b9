"""The first minute on a GPU: which libraries are there, and whether each kind of kernel is right at
all. A check a process.

python -m benchmarks smoke [--seconds 90] [--rehearse]
"""

import argparse
import json
import subprocess
import sys
import time
import traceback
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import numpy as np

import rnn_gpu
from benchmarks import _machine
from benchmarks._machine import REHEARSAL, first_line

NEEDED = ("numpy", "numba", "numba-cuda", "tqdm", "typer", "cupy", "pytest")
PEERS = (
    "torch",
    "jax",
    "triton",
    "matplotlib",
    "cuda-bindings",
    "cuda-core",
    "pytest-xdist",
    "nvidia-nvvm",
    "nvidia-cudnn-cu13",
)
MODULES = {
    "numba-cuda": "numba_cuda",
    "cuda-bindings": "cuda.bindings",
    "cuda-core": "cuda.core",
    "pytest-xdist": "xdist",
}
# relative to the largest number of an array, or to 1
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
T, B, M, N = (3, 2, 3, 5) if REHEARSAL else (7, 5, 3, 13)
CELLS = ("elman", "lstm", "gru")
NO_CARD = 3  # exit status: there is nothing to measure on
LARGE = {"lstm": 117, "gru": 128, "elman": 224}  # more than 48 KB of shared memory


def found(package: str) -> str:
    """A package's version; what is known of it where it was not installed as a package; "" where it
    is missing.
    """
    name = "cupy-cuda13x" if package == "cupy" else package
    try:
        return version(name)
    except PackageNotFoundError:
        pass
    module = MODULES.get(package, package.replace("-", "_"))
    try:
        return "there, version unknown" if find_spec(module) else ""
    except ImportError:
        return ""


def made(cell: str, n: int, dtype: str, device: str):
    kind = {"elman": rnn_gpu.RNN, "lstm": rnn_gpu.LSTM, "gru": rnn_gpu.GRU}[cell]
    return kind(M, n, device=device, dtype=dtype, seed=1, init="torch")


def outcome(layer, x, dy, lengths) -> dict:
    """Everything a call and its way back give, by name, as NumPy arrays."""
    y, state = layer(x, lengths=lengths)
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
    from rnn_gpu.kernels.devices.cuda.schedules import choose, only

    rng = np.random.default_rng(2)
    x, dy = rng.normal(size=(T, B, M)).astype(dtype), rng.normal(size=(T, B, n)).astype(dtype)
    lengths = None if on_the_device else rng.integers(1, T + 1, B)
    layer = made(cell, n, dtype, "cuda")
    right = outcome(layer.copy(device="reference"), x, dy, lengths)
    if on_the_device:
        x, dy = cuda.array(x, dtype), cuda.array(dy, dtype)
    with only(schedule):
        it = choose(layer.cell, "forward", n, B, np.dtype(dtype).itemsize)
        got = outcome(layer, x, dy, lengths)
    errors = {
        name: float(np.abs(got[name] - a).max() / max(1.0, np.abs(a).max()))
        for name, a in right.items()
    }
    ok = all(error <= TOLERANCE[dtype] for error in errors.values())
    return {"ok": ok, "ran": it.schedule, "shared": it.shared, "errors": errors}


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
        found[f"{cell}/{NAMES[0]} float32, arrays of the device"] = (
            same,
            (cell, NAMES[0], "float32", N, True),
        )
        if not REHEARSAL:
            found[f"{cell}/large float32 n={LARGE[cell]}"] = (
                same,
                (cell, NAMES[0], "float32", LARGE[cell]),
            )
    found["training"] = (trained, ())
    rehearsed = ("torch",) if find_spec("torch") else ()
    for module in rehearsed if REHEARSAL else ("cupy", "torch", "jax", "numba.cuda"):
        found[f"import-{module}"] = (imported, (module,))
    return found


def run(name: str) -> dict:
    function, arguments = checks()[name]
    started = time.monotonic()
    try:
        result = function(*arguments)
    except Exception as error:
        traceback.print_exc()
        lines = traceback.format_exc().strip().splitlines()
        result = {"ok": False, "errors": {}, "error": first_line(error), "traceback": lines[-12:]}
    return {"name": name, "seconds": time.monotonic() - started, **result}


def run_all(names: list[str], seconds: float) -> list[dict]:
    """Each group of checks in a process of its own, all at once: what breaks the GPU for one leaves
    the others alone.
    """
    if REHEARSAL:
        return [run(name) for name in names]
    groups = {name.split(" ")[0]: None for name in names}
    command = [sys.executable, "-m", "benchmarks.smoke", "--only"]
    processes = {
        group: subprocess.Popen([*command, group], stdout=subprocess.PIPE, text=True)
        for group in groups
    }
    end, results = time.monotonic() + seconds, {}
    for process in processes.values():
        try:
            printed, _ = process.communicate(timeout=max(1.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            printed, _ = process.communicate()
        for line in printed.splitlines():
            if line.startswith("{"):
                one = json.loads(line)
                results[one["name"]] = one
    lost = {
        "ok": False,
        "errors": {},
        "error": "its process ended, or hung, before this check was through",
    }
    return [results.get(name) or {"name": name, **lost} for name in names]


def shown(one: dict) -> str:
    worst = f"largest error {max(one['errors'].values()):.1e}" if one["errors"] else ""
    ran = f"{one['ran']}, {one['shared']} bytes shared" if "ran" in one else ""
    details = "; ".join(filter(None, (worst, ran, one.get("error", ""))))
    return f"{'ok  ' if one['ok'] else 'FAIL'} {one['name']}: {details}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument(
        "--only", default="", metavar="GROUP", help="run one group of checks here, and print JSON"
    )
    chosen = parser.parse_args()
    if chosen.only:
        for name in checks():
            if name.split(" ")[0] == chosen.only:
                print(json.dumps(_machine.plain(run(name))), flush=True)
        return
    packages = {package: found(package) for package in (*NEEDED, *PEERS)}
    missing = [package for package in NEEDED if not packages[package]]
    print(
        "packages: " + ", ".join(f"{package} {it or 'MISSING'}" for package, it in packages.items())
    )
    reason = _machine.why_no_card()
    if reason and not _machine.gpu():
        print(
            f"smoke: nothing can be measured here: {reason}. --rehearse runs the same code in the "
            "simulator.",
            file=sys.stderr,
        )
        sys.exit(NO_CARD)
    # which tell why there is no device
    names = [name for name in checks() if not reason or name.startswith("import-")]
    results = run_all(names, chosen.seconds)
    for one in results:
        print(shown(one))
    path = _machine.write("smoke", results, packages=packages, missing=missing, why_no_card=reason)
    failed = sum(not one["ok"] for one in results)
    print(
        f"smoke: {len(results) - failed} right, {failed} not; missing: "
        f"{', '.join(missing) or 'nothing'}; {reason or 'GPU there'} -> {path}"
    )
    sys.exit(NO_CARD if reason else int(failed > 0))


if __name__ == "__main__":
    main()

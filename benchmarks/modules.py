"""rnn_gpu.torch against torch.nn on the CPU: inference and training steps, eager and compiled.

python -m benchmarks modules [--quick] [--threads 1] [--backend inductor]

A training step empties gradients, goes forward, sums the output and goes back, to the input too.
Contenders take turns, in rounds; of each the least and the median of the clock. torch.nn is eager:
torch.compile takes none of its recurrent modules. Ours is compared with it first. Threads are those
of torch, of its libraries and of Numba, which read their number when they are loaded: so the
program starts itself anew with it.
"""

import argparse
import os
import sys
import time
from statistics import median

SIZES = ((64, 1, 1), (64, 16, 1), (64, 1, 100), (64, 16, 100), (256, 16, 100))  # n, B, T
KINDS = ("RNN", "GRU", "LSTM")
VARIABLES = [f"{name}_NUM_THREADS" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")]
ROUNDS, SECONDS = 7, 0.05  # of each contender: rounds, and how long it is called in each
MOST = 300  # calls of a round


def contenders(kind: str, n: int, backend: str) -> dict:
    """Modules of n features and units with the same parameters, by name."""
    import torch

    import rnn_gpu.torch

    torch.manual_seed(0)
    theirs, mine = getattr(torch.nn, kind)(n, n), getattr(rnn_gpu.torch, kind)(n, n)
    mine.load_state_dict(theirs.state_dict())
    compiled = torch.compile(mine, backend=backend, fullgraph=True)
    return {"torch.nn": theirs, "ours": mine, "ours compiled": compiled}


def works(module, x) -> dict:
    """What is timed of a module: () -> its output, by name."""
    import torch

    asked = [x.clone().requires_grad_(), *module.parameters()]

    def inference():
        with torch.no_grad():
            return module(x)[0]

    def step():
        for a in asked:
            a.grad = None
        y, _ = module(asked[0])
        y.sum().backward()
        return asked[0].grad

    return {"inference": inference, "step": step}


def microseconds(work) -> float:
    """Of a call, in a row of them."""
    start, calls = time.perf_counter(), 0
    while calls < MOST and time.perf_counter() - start < SECONDS:
        work()
        calls += 1
    return 1e6 * (time.perf_counter() - start) / calls


def measured(kind: str, n: int, B: int, T: int, backend: str) -> dict:
    """Microseconds of a call by contender, and how far results are from torch's."""
    import torch

    x, found = torch.randn(T, B, n), {}
    made = {name: works(module, x) for name, module in contenders(kind, n, backend).items()}
    for what in ("inference", "step"):
        calls = {name: work[what] for name, work in made.items()}
        results = {name: work().detach() for name, work in calls.items()}
        scale = float(results["torch.nn"].abs().max())
        error = max(float((a - results["torch.nn"]).abs().max()) for a in results.values()) / scale
        rows = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, work in calls.items():
                work()
                rows[name].append(microseconds(work))
        times = {
            name: {"least_us": min(row), "median_us": median(row)} for name, row in rows.items()
        }
        found[what] = {"error": error} | times
    return found


def line(name: str, row: dict) -> str:
    """torch's microseconds, then ours and how many times as fast."""
    said = []
    for what, found in row.items():
        theirs = found["torch.nn"]["least_us"]
        others = (found[each]["least_us"] for each in ("ours", "ours compiled"))
        ours = ", ".join(f"{us:.0f} ({theirs / us:.2f})" for us in others)
        said.append(f"{what} torch.nn {theirs:.0f} µs, ours {ours}")
    return f"{name:20} {'; '.join(said)}"


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the least size alone, not recorded")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    chosen = parser.parse_args()
    asked = dict.fromkeys(VARIABLES, str(chosen.threads))
    if {name: os.environ.get(name) for name in asked} != asked:
        again = [sys.executable, "-m", "benchmarks", "modules", *sys.argv[1:]]
        os.execve(sys.executable, again, os.environ | asked)
    rows, load = {}, [os.getloadavg()[0]]
    for n, B, T in SIZES[:1] if chosen.quick else SIZES:
        for kind in KINDS:
            name = f"{kind} n={n} B={B} T={T}"
            rows[name] = measured(kind, n, B, T, chosen.backend)
            print(line(name, rows[name]), flush=True)
    load.append(os.getloadavg()[0])
    print(f"load {load[0]:.2f} before, {load[1]:.2f} after")
    if not chosen.quick:
        from benchmarks import record

        results = {"threads": chosen.threads, "backend": chosen.backend, "load": load}
        print(record.write("modules", "cpu", results | {"calls": rows}))


if __name__ == "__main__":
    main()

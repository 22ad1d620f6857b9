"""A training pass of a recurrent policy over time, with episodes that begin anywhere: rnn_gpu.rl
against torchrl's own modules.

    python -m benchmarks rl [--quick]

One call and its way back for a batch of 64 × 128 steps, n = 128, where 2 % of the steps begin an
episode, which goes on from a state that is stored; float32, one thread. In turn, in one run.
Medians of ratios: above 1 ours is quicker. Processor time beside the clock's, whatever else the
machine does.
"""

import argparse
import os
import time

SIZES = {"B": 64, "T": 128, "n": 128, "often": 0.02}
KEYS = {
    "LSTM": {
        "in_keys": ["x", "h", "c"],
        "out_keys": ["y", ("next", "h"), ("next", "c")],
    },
    "GRU": {"in_keys": ["x", "h"], "out_keys": ["y", ("next", "h")]},
}


def seconds(module, steps) -> tuple[float, float]:
    """The clock's and the processor's, of a call over time and its way back."""
    began = time.perf_counter(), time.process_time()
    module(steps.copy())["y"].square().mean().backward()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def compared(kind: str, times: int, B: int, T: int, n: int, often: float) -> dict[str, float]:
    """Milliseconds of ours, and how often longer torchrl's ways take."""
    import numpy as np
    import torch
    import torchrl.modules
    from tensordict import TensorDict

    from rnn_gpu import rl

    torch.manual_seed(0)
    values = {name: torch.randn(B, T, 1, n) for name in KEYS[kind]["in_keys"][1:]}
    values["x"] = torch.randn(B, T, n)
    steps = TensorDict({**values, "is_init": torch.rand(B, T, 1) < often}, [B, T])
    own = getattr(torchrl.modules, f"{kind}Module")
    ways = {
        "ours": getattr(rl, f"{kind}Module")(n, n, default_recurrent_mode=True, **KEYS[kind]),
        "pad": own(n, n, default_recurrent_mode=True, **KEYS[kind]),
        "pad, python": own(n, n, default_recurrent_mode=True, python_based=True, **KEYS[kind]),
    }
    rows = np.array([[seconds(way, steps) for way in ways.values()] for _ in range(times + 2)])[2:]
    clock, processor = (np.median(a / a[:1], 1) for a in rows.transpose(2, 1, 0))
    found = {"ours, ms": 1e3 * float(np.median(rows[:, 0, 0]))}
    for k, name in enumerate(ways):
        if k:
            found |= {name: float(clock[k]), f"{name}, processor time": float(processor[k])}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="small, three times")
    quick = parser.parse_args().quick
    import torch

    torch.set_num_threads(1)
    sizes = SIZES | ({"B": 4, "T": 16, "n": 16} if quick else {})
    for kind in KEYS:
        found = compared(kind, 3 if quick else 7, **sizes)
        print(f"{kind}:", ", ".join(f"{name} {value:.3g}" for name, value in found.items()))
    print("load", *(f"{a:.1f}" for a in os.getloadavg()))


if __name__ == "__main__":
    main()

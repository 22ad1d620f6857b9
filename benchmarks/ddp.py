"""A training step of an LSTM on two processes, each with half of the batch, against one process.

    python -m benchmarks ddp [--quick]

In turn, in one run: one process alone, by one thread and by two; two processes of one thread each,
whose gradients DistributedDataParallel averages over gloo. Medians of ratios: above 1 two are
quicker. Processor time beside the clock's: of all threads of a process, whatever else the machine
does; what two processes take less than one of it they can win where each has a core of its own.
"""

import argparse
import os
import subprocess
import sys
import time

SIZES = (32, 128, 256)  # n = m
B, T = 64, 100


def seconds(step, start) -> tuple[float, float]:
    """The clock's and the processor's, of one step that all processes begin together."""
    time.sleep(0.02)  # threads of the last step have ceased to look for more
    start()
    began = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def compared(n: int, times: int) -> dict[str, float]:
    """Milliseconds of two processes, how often longer one takes, and what is sent."""
    import numpy as np
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    import rnn_gpu.torch

    torch.manual_seed(0)
    model, rank = rnn_gpu.torch.LSTM(n, n), dist.get_rank()
    parallel, x = DistributedDataParallel(model), torch.randn(T, B, n)

    def step(module, x, threads=1):
        torch.set_num_threads(threads)
        module(x)[0].square().mean().backward()

    def alone(threads):
        if rank == 0:
            step(model, x, threads)

    half = x.chunk(2, 1)[rank].contiguous()
    rows = []
    for _ in range(times + 2):
        ways = (lambda: step(parallel, half), lambda: alone(1), lambda: alone(2))
        rows.append([seconds(way, dist.barrier) for way in ways])
    two, one, threads = np.array(rows[2:]).transpose(1, 2, 0)
    return {
        "ms": 1e3 * np.median(two[0]),
        "one thread": np.median(one[0] / two[0]),
        "two threads": np.median(threads[0] / two[0]),
        "one thread, processor time": np.median(one[1] / two[1]),
        "MB": sum(θ.numel() for θ in model.parameters()) * 4e-6,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the smallest size, three times")
    quick = parser.parse_args().quick
    if "RANK" not in os.environ:
        launch = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"
        command = [sys.executable, *launch, "-m", "benchmarks.ddp", *sys.argv[1:]]
        sys.exit(subprocess.run(command, check=False).returncode)
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for n in SIZES[: 1 if quick else None]:
        row = compared(n, 3 if quick else 12)
        if dist.get_rank() == 0:
            print(f"n = {n}:", ", ".join(f"{name} {value:.3g}" for name, value in row.items()))
    if dist.get_rank() == 0:
        print("load", *(f"{a:.1f}" for a in os.getloadavg()))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

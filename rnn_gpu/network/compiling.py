"""Kernels compiled before training begins: by one batch of each kind that there will be."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ..kernels.tally import counted
from .batches import Batch, Samples
from .evaluation import run


@dataclass
class Compiled:
    """What was done before training could begin."""

    compiled: int = 0  # kernels
    found: int = 0  # kernels that were on disk
    seconds: float = 0.0


@contextmanager
def compiling() -> Iterator[Compiled]:
    """A context that counts the kernels that are compiled meanwhile, or found on disk."""
    done, begun, before = Compiled(), time.perf_counter(), dict(counted)
    yield done
    done.compiled = counted["compiled"] - before["compiled"]
    done.found = counted["found"] - before["found"]
    done.seconds = time.perf_counter() - begun


def kinds(samples: Samples, batch_size: int) -> Iterator[Batch]:
    """A batch of each kind that an epoch has: a full one, and the last, smaller one; where lengths
    differ each of long sequences, one short among them, and of short ones.

    What is compiled depends on sizes: threads share large work, and a card's table chooses by size.
    """
    lengths = [len(x) for x in samples.x]
    by_length = np.argsort(lengths, kind="stable")
    count = len(by_length)
    for size in sorted({min(batch_size, count), count % batch_size} - {0}, reverse=True):
        long = by_length[count - size :].copy()
        if lengths[by_length[0]] < lengths[long[0]]:
            yield samples.batch(by_length[:size])
            long[: size > 1] = by_length[0]
        yield samples.batch(long)


def rehearse_evaluation(network, batch: Batch):
    """The outputs of a batch and their loss, whatever comes out."""
    o, device = run(network, batch), network.backend
    _, sums = device.loss(network.objective.loss, o, batch.target, batch.weight, batch.total)
    device.numpy(sums)  # which waits

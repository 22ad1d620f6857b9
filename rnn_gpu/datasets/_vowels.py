"""Japanese vowels: whole sequences, to tell speakers apart."""

from importlib.resources import files

import numpy as np

from ._sequences import Sequences

TRAIN = 270  # the published split: the first 270 sequences


def vowels(dtype="float32", standardise=False) -> tuple[Sequences, Sequences]:
    """Japanese vowels: tell nine speakers apart by 640 utterances of /ae/, each 7 to 29 frames of
    12 LPC cepstrum coefficients.

    Returns (train, test), the published split in the published order: 270 and 370 sequences, x[i]
    of shape (T_i, 12) and of `dtype` ("float32" or "float64"), y int64 of shape (N,) with the
    speakers 0..8. `standardise=True` subtracts the mean of the training frames and divides by their
    standard deviation, channel by channel, in both splits.

    Source: M. Kudo, J. Toyama, M. Shimbo, Japanese Vowels, UCI Machine Learning Repository (1999),
    doi:10.24432/C5NS47. Licence: CC BY 4.0, see vowels.LICENSE.txt beside this file.
    """
    if dtype not in ("float32", "float64", np.float32, np.float64):
        raise ValueError(f"dtype is {dtype!r}, expected 'float32' or 'float64'")
    if not isinstance(standardise, (bool, np.bool_)):
        raise ValueError(f"standardise is {standardise!r}, expected True or False")

    with (
        files("rnn_gpu.datasets").joinpath("vowels.npz").open("rb") as file,
        np.load(file) as stored,
    ):
        planes, lengths = stored["planes"], stored["lengths"]
        labels = stored["labels"].astype(np.int64)
    # The published values have six decimals. They are stored as millionths plus 2**22, one plane
    # per byte, low byte first: exact, and a third smaller compressed than float32.
    frames = (planes.T @ np.array([1, 256, 65536]) - 2**22) / 1e6
    ends = np.cumsum(lengths, dtype=np.int64)
    if standardise:
        train = frames[: ends[TRAIN - 1]]
        frames = (frames - train.mean(0)) / train.std(0)
    x = np.split(frames.astype(dtype, order="C"), ends[:-1])
    return Sequences(x[:TRAIN], labels[:TRAIN]), Sequences(x[TRAIN:], labels[TRAIN:])

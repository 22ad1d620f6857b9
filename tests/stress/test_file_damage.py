"""2,000 damaged files and 200 kills: `pytest -m stress tests/stress/test_file_damage.py -s` prints
what became of them.
"""

import os

import pytest

from damage import CHECKPOINTS, SAVES, apart, damaged_checkpoints, damaged_models, killed
from rnn_gpu import (
    GRU,
    LSTM,
    RNN,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    Network,
    Recurrent,
    load,
)
from small_run import fresh, goes_on, stopped

pytestmark = pytest.mark.stress
ON = {"device": "reference"}
posix = pytest.mark.skipif(os.name != "posix", reason="kills of POSIX")


@pytest.mark.parametrize("seed", range(5))
def test_200_damaged_models_are_refused_or_read_as_they_are(seed, tmp_path):
    layers = [
        [LSTM(3, 4, zoneout=(0.1, 0.2), **ON), Dense(4, 2, "tanh", **ON)],
        [Embedding(5, 3, **ON), GRU(3, 4, **ON), Dropout(0.5, **ON), Dense(4, 2, **ON)],
        [Bidirectional(RNN(3, 4, "relu", **ON)), Dense(8, 1, **ON)],
        [Recurrent("elman_elu", 3, 4, recurrent_dropout=0.5, **ON)],
        [Dense(3, 4, **ON)],
    ]
    print(damaged_models(Network(layers[seed]), tmp_path / "model", times=200, seed=seed))


@pytest.mark.parametrize("seed", range(5))
def test_200_damaged_checkpoints_are_refused_or_gone_on_from(seed, tmp_path):
    path = tmp_path / "checkpoint"
    stopped(fresh()[0], 2 * seed + 1, path, epochs=3)
    print(damaged_checkpoints(path.read_bytes(), path, fresh, goes_on, times=200, seed=seed))


@posix
def test_100_kills_of_a_process_that_saves(tmp_path):
    for path in killed(SAVES, tmp_path, times=100):
        load(path, device="reference")


@posix
def test_100_kills_of_a_process_that_trains_with_a_checkpoint(tmp_path):
    done = 0
    for path in killed(CHECKPOINTS, tmp_path, times=100):
        before, done = done, len(apart(path)[1]["position"]["history"]["step_loss"])
        assert done >= before

"""Options: one table says which value of which option is refused at which door; who is called with
an option by place is refused too.
"""

import inspect

import numpy as np
import pytest

import rnn_gpu
from door import REFERENCE, K, M, N, X, draw, network, refuses, rnn
from refused import OPTIONS, PLACES, cases, fit
from rnn_gpu import (
    GRU,
    LSTM,
    RNN,
    ArgumentError,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    Network,
    Recurrent,
    Stream,
    gradcheck,
    load,
    optimizers,
    stack,
)


@pytest.mark.parametrize("row", cases())
def test_an_option_is_refused(row):
    refuses(row.error, row.message, lambda: row.door(**row.options))


@pytest.mark.parametrize(
    ("option", "doors"), [(name, doors) for name, kind, doors in OPTIONS if kind == "flag"]
)
def test_numpys_booleans_are_flags(option, doors):
    for door in doors.values():
        for value in (True, False) if option not in ("apart", "progress") else (option == "apart",):
            door(**PLACES[0], **{option: np.bool_(value)})


# what is no option: data, layers and models, files, and what is left to tests of its own
ELSEWHERE = {"self", "x", "y", "state", "lengths", "mask", "resets", "validation"}
ELSEWHERE |= {"kind", "layers", "model", "network", "options", "checkpoint", "resume", "tolerance"}
ELSEWHERE |= {"reset_state", "sample_weight", "class_weight", "ignore_index", "metrics"}


def test_every_option_of_the_door_is_in_the_table():
    made = (RNN, LSTM, GRU, Recurrent, Dense, Embedding, Dropout, Network, stack, gradcheck)
    made += (optimizers.SGD, optimizers.RMSprop, optimizers.Adam, optimizers.AdamW, Network.fit)
    named = {name for one in made for name in inspect.signature(one).parameters}
    assert named - {option.name for option in OPTIONS} <= ELSEWHERE


@pytest.mark.parametrize("option", ["clip_norm", "clip_value", "clip_step_norm", "clip_step_value"])
def test_no_bound_is_none(option):
    same = [
        fit(**PLACES[0], **options)["step_loss"] for options in ({}, {option: None}, {option: 1e30})
    ]
    assert same[0] == same[1] == same[2]


@pytest.mark.parametrize("kind", [None, 3, "lstm"])
def test_what_a_stack_is_of_makes_layers(kind):
    refuses(ArgumentError, f"^kind is {kind!r}, expected RNN, LSTM, GRU", lambda: stack(kind, M, N))


# By name alone

BY_PLACE = {
    "Recurrent": lambda: Recurrent("lstm", M, N, 2),
    "RNN": lambda: RNN(M, N, "tanh", True),
    "LSTM": lambda: LSTM(M, N, True),
    "GRU": lambda: GRU(M, N, "cpu"),
    "Dense": lambda: Dense(M, K, "tanh", "cpu"),
    "Embedding": lambda: Embedding(M, K, "cpu"),
    "Dropout": lambda: Dropout(0.5, True),
    "Network": lambda: Network([rnn()], "squared_error"),
    "stack": lambda: stack(LSTM, M, N, 2),
    "Stream": lambda: Stream(network(), None),
    "SGD": lambda: optimizers.SGD(0.1, 0.9),
    "RMSprop": lambda: optimizers.RMSprop(0.1, 0.9),
    "Adam": lambda: optimizers.Adam(0.1, 0.9),
    "AdamW": lambda: optimizers.AdamW(0.1, 0.9),
    "load": lambda: load("model", "cpu"),
    "gradcheck": lambda: gradcheck(network(), X, X, None),
    "call of a layer": lambda: rnn()(X, None, [5, 1, 3]),
    "call of a network": lambda: network()(X, None, [5, 1, 3]),
    "call of Dense": lambda: Dense(M, K, **REFERENCE)(X, True),
    "backward of a layer": lambda: rnn().backward(X, None, True),
    "backward of a network": lambda: network().backward(X, None, True),
}


@pytest.mark.parametrize("call", BY_PLACE.values(), ids=BY_PLACE)
def test_options_are_given_by_name(call):
    with pytest.raises(TypeError, match="positional argument"):
        call()


def test_torchs_form_of_a_state_stays():
    layer, h = rnn(), draw(3, N)
    assert np.array_equal(layer(X, h)[0], layer(X, state=h)[0])


# Signatures

MADE = (RNN, LSTM, GRU, Recurrent, Bidirectional, Dense, Embedding, Dropout, Network, Stream)
MADE += (
    optimizers.SGD,
    optimizers.RMSprop,
    optimizers.Adam,
    optimizers.AdamW,
    load,
    gradcheck,
    rnn_gpu.cell,
)


@pytest.mark.parametrize("made", MADE, ids=lambda made: made.__name__)
def test_a_signature_names_and_types_every_option(made):
    for name, parameter in inspect.signature(made).parameters.items():
        assert parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        assert parameter.annotation is not parameter.empty, name


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_every_recurrent_layer_has_the_options_of_all(kind):
    def options(made):
        return {
            name: p
            for name, p in inspect.signature(made).parameters.items()
            if p.kind is p.KEYWORD_ONLY
        }

    assert options(kind) == options(Recurrent)
    given = {
        "batch_first": True,
        "device": "reference",
        "dtype": "float64",
        "seed": 3,
        "init": "torch",
        "reverse": True,
    }
    given |= {"precision": "fp32", "recurrent_dropout": 0.25, "zoneout": 0.5}
    assert set(given) == set(options(kind))
    layer = kind(M, N, **given)
    got = layer.config() | {"device": layer.device, "dtype": layer.dtype}
    assert {name: got[name] for name in given} == given

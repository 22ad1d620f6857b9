"""Options: one table says which value of which option is refused at which door; who is called with
an option by place is refused too.
"""

import inspect
import re

import numpy as np
import pytest

import rnn_gpu
from door import REFERENCE, K, M, N, X, draw, network, refuses, rnn
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

# kind of option: (what is none of it, what the message says)
KINDS = {
    "flag": (["False", "no", "", 0, 1, 1.0, None, [], np.array([True])], "expected True or False"),
    "bound": (
        ["", "1", 0, 0.0, -1, np.nan, np.inf, [], [1.0], True, False],
        "expected a number above 0, or None",
    ),
    "rate": (["", "half", 1, 7, -0.1, np.nan, None, True, False], "expected a number from 0"),
    "seed": (["", "a", -1, 1.0, None, True], "expected an integer of at least 0"),
    "count": (["", "2", 0, 1.5, None, True, False], "expected an integer of at least 1"),
}


SAMPLES = [draw(3, M)], np.zeros((1, 3, K), "float32")


def fit(**options):
    return network().fit(*SAMPLES, **({"epochs": 1, "progress": False} | options))


def backward(model, **options):
    return model.backward(model(X)[0], **options)


def stacked(**options):
    return stack(LSTM, M, N, **REFERENCE, **options)


def checked(**options):
    net = network().copy(dtype="float64")
    return gradcheck(net, draw(3, 2, M, dtype="float64"), draw(3, 2, K, dtype="float64"), **options)


def custom_cell(**options):
    gru = GRU(1, 1, **REFERENCE).cell
    return rnn_gpu.cell(
        "own", gates=3, states=1, kept=gru.kept, step=gru.step, back=gru.back, **options
    )


RECURRENT = {
    "RNN": rnn,
    "LSTM": lambda **options: LSTM(M, N, **REFERENCE, **options),
    "GRU": lambda **options: GRU(M, N, **REFERENCE, **options),
    "Recurrent": lambda **options: Recurrent("lstm", M, N, **REFERENCE, **options),
}
CALL = {
    "layer": lambda **options: rnn()(X, **options),
    "network": lambda **options: network()(X, **options),
}
BACK = {
    "layer": lambda **options: backward(rnn(), **options),
    "network": lambda **options: backward(network(), **options),
}
STATELESS = {
    "Dense": lambda **options: Dense(M, K, **REFERENCE)(X, **options),
    "Embedding": lambda **options: Embedding(M, K, **REFERENCE)(X, **options),
    "Dropout": lambda **options: Dropout(0.5, **REFERENCE)(X, **options),
}

# option: (its kind, every door that has it)
OPTIONS = {
    "batch_first": ("flag", RECURRENT),
    "reverse": ("flag", RECURRENT),
    "recurrent_dropout": ("rate", RECURRENT),
    "training": ("flag", CALL | STATELESS),
    "tape": ("flag", BACK),
    "clip_step_norm": ("bound", BACK | {"fit": fit}),
    "clip_step_value": ("bound", BACK | {"fit": fit}),
    "clip_norm": ("bound", {"fit": fit}),
    "clip_value": ("bound", {"fit": fit}),
    "shuffle": ("flag", {"fit": fit}),
    "progress": ("flag", {"fit": fit}),
    "variational": ("flag", {"Dropout": lambda **options: Dropout(0.5, **REFERENCE, **options)}),
    "nesterov": ("flag", {"SGD": lambda **options: optimizers.SGD(0.1, momentum=0.9, **options)}),
    "momentum": ("rate", {"SGD": lambda **options: optimizers.SGD(0.1, **options)}),
    "allow_blind": ("flag", {"gradcheck": checked}),
    "bidirectional": ("flag", {"stack": stacked}),
    "dropout": (
        "rate",
        {"stack": stacked, "stack of one": lambda **options: stacked(num_layers=1, **options)},
    ),
    "num_layers": ("count", {"stack": stacked}),
    "apart": ("flag", {"cell": custom_cell}),
    "ragged": ("flag", {"plan": lambda **options: network().plan(5, 3, **options)}),
    "inputs": ("flag", {"plan": lambda **options: network().plan(5, 3, **options)}),
    "seed": ("seed", RECURRENT | {"fit": fit, "stack": stacked, "gradcheck": checked}),
}


ROWS = [
    pytest.param(option, kind, value, call, id=f"{where} {option}={value!r}")
    for option, (kind, doors) in OPTIONS.items()
    for value in KINDS[kind][0]
    for where, call in doors.items()
]


@pytest.mark.parametrize(("option", "kind", "value", "call"), ROWS)
def test_an_option_is_refused(option, kind, value, call):
    refuses(
        ArgumentError,
        rf"^{option} is {re.escape(repr(value))}, {KINDS[kind][1]}",
        lambda: call(**{option: value}),
    )


@pytest.mark.parametrize(
    ("option", "doors"),
    [(option, doors) for option, (kind, doors) in OPTIONS.items() if kind == "flag"],
)
def test_numpys_booleans_are_flags(option, doors):
    for call in doors.values():
        for value in (True, False) if option not in ("apart", "progress") else (option == "apart",):
            call(**{option: np.bool_(value)})


@pytest.mark.parametrize("option", ["clip_norm", "clip_value", "clip_step_norm", "clip_step_value"])
def test_no_bound_is_none(option):
    same = [fit(**options)["step_loss"] for options in ({}, {option: None}, {option: 1e30})]
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

"""The one table of options: what each must be, which value is none of it, at which doors it stands,
and which error says so.  Tests of the door are drawn from it: every value at every door, and the
first of them on every device and dtype.
"""

import re
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest

import rnn_gpu
from door import B, K, M, N, T, X, draw
from rnn_gpu import (
    GRU,
    LSTM,
    RNN,
    ArgumentError,
    Dense,
    DeviceError,
    Dropout,
    DtypeError,
    Embedding,
    Network,
    Recurrent,
    gradcheck,
    optimizers,
    stack,
)


class Kind(NamedTuple):
    """What an option must be."""

    refused: list  # values that are none of it
    expected: str  # what the message says after "OPTION is VALUE, "
    error: type[Exception] = ArgumentError  # exactly this one


KINDS = {
    "flag": Kind(["False", "no", "", 0, 1, 1.0, None, [], np.array([True])], "True or False"),
    "bound": Kind(
        ["", "1", 0, 0.0, -1, np.nan, np.inf, [], [1.0], True, False], "a number above 0, or None"
    ),
    "tolerance": Kind(["", "1", 0, -1, np.nan, np.inf, None, True], "a number above 0"),
    "rate": Kind(["", "half", 1, 7, -0.1, np.nan, None, True, False], "a number from 0 to below 1"),
    "number": Kind([-0.1, np.nan, np.inf, "fast", True], "a number from 0 to below inf"),
    "number or inf": Kind([None, -1, "", np.nan, True], "a number from 0 to inf"),
    "seed": Kind(["", "a", -1, 1.0, 1.5, None, True], "an integer of at least 0"),
    "count": Kind(["", "2", 0, -1, 1.5, 2.0, None, True, False], "an integer of at least 1"),
    "count or None": Kind(["", 0, -1, 1.5, True], "an integer of at least 1"),
    "bytes": Kind([0, -5, True], "an integer of at least 1"),
    "bytes in words": Kind(["", "much"], "bytes, or words as '512MB'"),
    "cut": Kind(["", 0, 3, (1,)], "a pair (k1, k2) of numbers of steps"),
    "way": Kind(["", "yes", 0, 1, None, (2,), 2.5], "True, False, 'auto', or a pair"),
    "precision": Kind(["tf16", 1, None], "one of 'fp32', 'tf32'"),
    "hook of epochs": Kind(["", 0, 3], "a function of (network, history)"),
    "callbacks": Kind(["", 0, 3], "a list of them"),
    "hook of updates": Kind(["", 0, 3], "a function of (network, number of the update)"),
    "device": Kind(
        ["gpu", "CPU", 0, "cuda:0"], "one of 'auto', 'cpu', 'cuda', 'reference'", DeviceError
    ),
    "dtype": Kind(["float16", int, "single_", None], "'float32' or 'float64'", DtypeError),
    "init": Kind(["xavier", 3], "one of 'default', 'torch', 'tutorial'"),
    "activation's name": Kind(["tanhh"], "one of identity, .*tanh.*, or a pair (f, df)"),
    "activation": Kind(
        [None, np.tanh, (np.tanh,)], "a name, an Activation or a pair (f, df) with df"
    ),
    "cell's name": Kind(["lstmm"], "one of .*'lstm'"),
    "cell": Kind([LSTM], "a Cell (made by rnn_gpu.cell) or one of .*lstm"),
    "loss": Kind(["mse", None, ["squared_error"]], "one of 'squared_error'"),
    "steps": Kind(["first", -1], "one of 'every', 'last'"),
    "optimizer": Kind(["adamax", optimizers.Adam, ["adam"], None], "one of 'sgd'"),
}


# Doors: each takes the option, and the device and dtype to be on


def maker(made: Callable, **needed) -> Callable:
    """A door that makes something of what it needs and the option."""
    return lambda **options: made(**needed | options)


def anywhere(made: Callable) -> Callable:
    """A door that is on no device and of no dtype."""

    def door(device, dtype, **options):
        return made(**options)

    door.anywhere = True
    return door


def network(device, dtype, **options):
    on = {"device": device, "dtype": dtype}
    return Network([RNN(M, N, **on), Dense(N, K, **on)], **options)


def calling(made: Callable) -> Callable:
    return lambda device, dtype, **options: made(device=device, dtype=dtype)(
        X.astype(dtype), **options
    )


def going_back(made: Callable) -> Callable:
    def door(device, dtype, **options):
        model = made(device=device, dtype=dtype)
        y, _ = model(X.astype(dtype))
        return model.backward(y, **options)

    return door


SAMPLE, TARGET = draw(3, M), np.zeros((1, 3, K))


def fit(device, dtype, **options):
    samples = [SAMPLE.astype(dtype)], TARGET.astype(dtype)
    return network(device, dtype).fit(*samples, **{"epochs": 1, "progress": False} | options)


def evaluate(device, dtype, **options):
    samples = [SAMPLE.astype(dtype)], TARGET.astype(dtype)
    return network(device, dtype).evaluate(*samples, **options)


def predict(device, dtype, **options):
    return network(device, dtype).predict([SAMPLE.astype(dtype)], **options)


def checked(device, dtype, **options):
    net = network(device, "float64")
    return gradcheck(net, draw(3, 2, M, dtype="float64"), draw(3, 2, K, dtype="float64"), **options)


def copied(device, dtype):
    return RNN(M, N, device="reference", dtype=dtype).copy(device=device)


def custom_cell(**options):
    gru = GRU(1, 1, device="reference").cell
    return rnn_gpu.cell(
        "own", gates=3, states=1, kept=gru.kept, step=gru.step, back=gru.back, **options
    )


SIZES = {"input_size": M, "hidden_size": N}
RNN_DOOR, LSTM_DOOR = maker(RNN, **SIZES), maker(LSTM, **SIZES)
RECURRENT = {
    "RNN": RNN_DOOR,
    "LSTM": LSTM_DOOR,
    "GRU": maker(GRU, **SIZES),
    "Recurrent": maker(Recurrent, **{"cell": "lstm"} | SIZES),
}
DENSE = {"Dense": maker(Dense, input_size=M, output_size=K)}
EMBEDDING = {"Embedding": maker(Embedding, symbols=M, size=K)}
DROPOUT = {"Dropout": maker(Dropout, rate=0.5)}
STATELESS = DENSE | EMBEDDING | DROPOUT
CALLS = {name: calling(door) for name, door in STATELESS.items()}
CALLS |= {"layer": calling(RNN_DOOR), "network": calling(network)}
BACK = {"layer": going_back(RNN_DOOR), "network": going_back(network)}
FIT, NETWORK, CHECK = {"fit": fit}, {"Network": network}, {"gradcheck": checked}
STACK = {"stack": maker(stack, kind=LSTM, **SIZES)}
TIMED = {name: CALLS[name] for name in ("layer", "network")}
TIMED |= FIT | {"evaluate": evaluate, "predict": predict}
PLAN = {"plan": lambda device, dtype, **options: network(device, dtype).plan(T, B, **options)}
SGD, RMSPROP = {"SGD": anywhere(optimizers.SGD)}, {"RMSprop": anywhere(optimizers.RMSprop)}
ADAMS = {"Adam": anywhere(optimizers.Adam), "AdamW": anywhere(optimizers.AdamW)}


class Option(NamedTuple):
    name: str
    kind: str
    doors: dict[str, Callable]


OPTIONS = [
    Option("input_size", "count", RECURRENT | DENSE | STACK),
    Option("hidden_size", "count", RECURRENT | STACK),
    Option("output_size", "count", DENSE),
    Option("symbols", "count", EMBEDDING),
    Option("size", "count", EMBEDDING),
    Option("num_layers", "count", STACK),
    Option("epochs", "count or None", FIT),
    Option("updates", "count or None", FIT),
    Option("batch_size", "count", {"evaluate": evaluate, "predict": predict}),
    Option("batch_size", "count or None", FIT),
    Option("burn_in", "seed", FIT | {"evaluate": evaluate}),
    Option("stateful", "flag", {"fit in order": partial(fit, shuffle=False, batch_size=1)}),
    Option("cell", "cell", {"Recurrent": RECURRENT["Recurrent"]}),
    Option("cell", "cell's name", {"Recurrent": RECURRENT["Recurrent"]}),
    Option("activation", "activation", {"RNN": RNN_DOOR} | DENSE),
    Option("activation", "activation's name", {"RNN": RNN_DOOR} | DENSE),
    Option("init", "init", RECURRENT | DENSE),
    Option(
        "device",
        "device",
        RECURRENT
        | STATELESS
        | STACK
        | {"copy": copied, "device": lambda device, dtype: rnn_gpu.device(device)},
    ),
    Option("dtype", "dtype", RECURRENT | STATELESS | STACK),
    Option("seed", "seed", RECURRENT | DENSE | EMBEDDING | DROPOUT | STACK | FIT | CHECK),
    Option("batch_first", "flag", RECURRENT),
    Option("reverse", "flag", RECURRENT),
    Option("recurrent_dropout", "rate", RECURRENT),
    Option("zoneout", "rate", RECURRENT),
    Option("precision", "precision", RECURRENT | DENSE | EMBEDDING),
    Option("rate", "rate", DROPOUT),
    Option("variational", "flag", DROPOUT),
    Option("dropout", "rate", STACK | {"stack of one": maker(STACK["stack"], num_layers=1)}),
    Option("bidirectional", "flag", STACK),
    Option("training", "flag", CALLS),
    Option("tape", "flag", BACK),
    Option("clip_step_norm", "bound", BACK | FIT),
    Option("clip_step_value", "bound", BACK | FIT),
    Option("clip_norm", "bound", FIT),
    Option("clip_value", "bound", FIT),
    Option("memory_budget", "bytes", FIT | PLAN),
    Option("memory_budget", "bytes in words", FIT | PLAN),
    Option("truncate", "cut", FIT),
    Option("parallel", "way", TIMED),
    Option("tolerance", "tolerance", TIMED),
    Option("checkpoint_every", "count or None", FIT),
    Option("on_epoch", "hook of epochs", FIT),
    Option("callbacks", "callbacks", FIT),
    Option("watch", "hook of updates", FIT),
    Option("shuffle", "flag", FIT),
    Option("progress", "flag", FIT),
    Option("optimizer", "optimizer", FIT),
    Option("learning_rate", "number", FIT | SGD | RMSPROP | ADAMS),
    Option("weight_decay", "number", ADAMS),
    Option("nesterov", "flag", {"SGD": anywhere(lambda **o: optimizers.SGD(momentum=0.9, **o))}),
    Option("momentum", "rate", SGD),
    Option("decay", "rate", RMSPROP),
    Option("beta1", "rate", ADAMS),
    Option("beta2", "rate", ADAMS),
    Option("epsilon", "number or inf", RMSPROP | ADAMS),
    Option("loss", "loss", NETWORK),
    Option("steps", "steps", NETWORK),
    Option("samples", "count or None", CHECK),
    Option("allow_blind", "flag", CHECK),
    Option("apart", "flag", {"cell": anywhere(custom_cell)}),
    Option("ragged", "flag", PLAN),
    Option("inputs", "flag", PLAN),
]

PLACES = [
    {"device": device, "dtype": dtype}
    for device, dtype in product(("reference", "cpu", "cuda"), ("float32", "float64"))
]


class Refusal(NamedTuple):
    """A call that must be refused: with exactly this error, and a message that begins so."""

    door: Callable
    options: dict
    error: type[Exception]
    message: str


def refusals(door_name=None):
    """(id, Refusal): every value at every door on the reference in float32, and the first value of
    each option on every device and dtype; or every value at the doors of one name, once.
    """
    for option, kind, doors in OPTIONS:
        refused, expected, error = KINDS[kind]
        expected = re.escape(expected).replace(r"\.\*", ".*")
        for name, door in doors.items():
            if door_name not in (None, name):
                continue
            for i, value in enumerate(refused):
                message = f"^{option} is {re.escape(repr(value))}, expected {expected}"
                once = i > 0 or door_name or hasattr(door, "anywhere")
                for on in PLACES[: 1 if once else None]:
                    where = f"{name} {option}={value!r} {on['device']} {on['dtype']}"
                    yield where, Refusal(door, on | {option: value}, error, message)


def cases(door_name=None):
    """The same as parameters of a test."""
    return [pytest.param(row, id=where) for where, row in refusals(door_name)]

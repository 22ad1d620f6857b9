"""What the tests of the door share: how a call is refused, all that a model gives, and when two
results are the same.
"""

import numpy as np
import pytest

from rnn_gpu import GRU, LSTM, RNN, Dense, Dropout, Network, Recurrent

T, B, M, N, K = 5, 3, 4, 6, 2  # all different, so that a message cannot name the wrong one
REFERENCE = {"device": "reference"}
RNG = np.random.default_rng(0)


def draw(*shape, dtype="float32"):
    return RNG.normal(size=shape).astype(dtype)


X = draw(T, B, M)
H = draw(B, N)


def but(a, place, value):
    """a with another value at one place."""
    a = a.copy()
    a[place] = value
    return a


def frozen(a):
    """a, of the same layout, read-only."""
    a = a.copy(order="K")
    a.flags.writeable = False
    return a


def rnn(**options):
    return RNN(**({"input_size": M, "hidden_size": N} | REFERENCE | options))


def network(**options):
    return Network([rnn(), Dense(N, K, **REFERENCE)], **options)


MODELS = {
    "RNN": rnn,
    "LSTM": lambda: LSTM(M, N, **REFERENCE),
    "GRU": lambda: GRU(M, N, **REFERENCE),
    "Recurrent": lambda: Recurrent("elman_elu", M, N, **REFERENCE),
    "Network": network,
}
# recurrent layers share one way in, a network has its own
DOORS = {name: MODELS[name] for name in ("LSTM", "Network")}
STATELESS = {
    "Dense": lambda: Dense(M, K, "tanh", **REFERENCE),
    "Dropout": lambda: Dropout(0.5, **REFERENCE),
}


def table(*rows):
    """(name, value, error, message): the value is refused with exactly this error, and the message
    says this.
    """
    return [pytest.param(*row, id=name) for name, *row in rows]


def refuses(error, message, call):
    with pytest.raises(error, match=message) as caught:
        call()
    assert caught.type is error


def results(
    model,
    x,
    dy,
    state=None,
    dstate=None,
    lengths=None,
    mask=None,
    resets=None,
    reset_state=None,
    training=False,
    **back,
):
    """Everything one pass forward and back gives, by name, as NumPy arrays."""
    call = {"lengths": lengths, "mask": mask, "resets": resets, "training": training}
    y, last = model(x, state, reset_state=reset_state, **call)
    found = {"y": y} | named("last", last) | way_back(model, dy, dstate, **back)
    return found | ({} if reset_state is None else named("dgiven", model.dreset_state))


def explained(model, taped=False):
    """What the way back computed at every step, by name, as NumPy arrays: δ, how many were clipped,
    and the tape.
    """
    found = {"clipped_steps": np.array(model.clipped_steps)}
    for i, layer in enumerate(model.recurrent):
        tape = layer.tape._asdict() if taped else {}
        arrays = {f"delta[{i}]": layer.delta} | {f"tape[{i}].{name}": a for name, a in tape.items()}
        found |= {name: layer.backend.numpy(a) for name, a in arrays.items()}
    return found


def way_back(model, dy, dstate=None, **back):
    dx, first = model.backward(dy, dstate, **back)
    return (
        {"dx": dx}
        | named("first", first)
        | {f"d{name}": model.backend.numpy(a) for name, a in model.grads.items()}
    )


def named(name, states):
    if not isinstance(states, (list, tuple)):
        return {name: states}
    return {
        key: a for i, part in enumerate(states) for key, a in named(f"{name}[{i}]", part).items()
    }


def parameters_of(model):
    return {name: model.backend.numpy(a).copy() for name, a in model.parameters.items()}


def same(got, expected):
    """Assert that two dicts of arrays, or two arrays, are bitwise the same."""
    if not isinstance(expected, dict):
        got, expected = {"it": got}, {"it": expected}
    assert list(got) == list(expected)
    for name, a in expected.items():
        assert type(got[name]) is type(a) and got[name].dtype == a.dtype, name
        assert np.array_equal(got[name], a), name

"""Every public path of the cuda device's host side on arrays as strict as CuPy's: what CuPy refuses
is nowhere asked of it, and the results are those of the simulator on NumPy's arrays, to the last
bit.
"""

import copy
import pickle
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from threading import Thread

import numpy as np
import pytest

import rnn_gpu
from conftest import STRICT
from door import same
from own_cells import LEAKY, MINE
from rnn_gpu import (
    GRU,
    LSTM,
    RNN,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    Network,
    NonFiniteError,
    Recurrent,
    Stream,
    callbacks,
    gradcheck,
    optimizers,
)
from rnn_gpu.device import resolve
from rnn_gpu.kernels.devices.cuda.launch import SIMULATED
from rnn_gpu.kernels.devices.cuda.schedules import NAMES, only
from rnn_gpu.kernels.emulator import arrays as played
from rnn_gpu.kernels.emulator.arrays.counts import counted
from rnn_gpu.kernels.emulator.arrays.order import ordered
from rnn_gpu.kernels.emulator.simulated import strict

pytestmark = pytest.mark.skipif(
    not SIMULATED or STRICT, reason="compared with the simulator on NumPy's arrays"
)

T, B, M, N, K = 5, 3, 4, 6, 2
RNG = np.random.default_rng(0)
ON_CUDA = {"device": "cuda"}
X, DY = RNG.normal(size=(T, B, M)).astype("f"), RNG.normal(size=(T, B, N)).astype("f")
MASK, RESETS = RNG.random((T, B)) < 0.7, RNG.random((T, B)) < 0.4
XS = [RNG.normal(size=(t, M)).astype("f") for t in (5, 3, 6)]
YS = [RNG.normal(size=(t, K)).astype("f") for t in (5, 3, 6)]


def found(value):
    """All numbers of a result, as NumPy's arrays and words, by place; but for seconds."""
    if is_dataclass(value):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {
            f"{key}.{inner}": a
            for key, one in value.items()
            if "seconds" not in key
            for inner, a in found(one).items()
        }
    if isinstance(value, (list, tuple)):
        return found(dict(zip(map(str, range(len(value))), value, strict=True)))
    return {"": value.get() if isinstance(value, played.ndarray) else np.asarray(value)}


PATHS = {}


def path(f):
    PATHS[f.__name__] = f
    return f


def layers():
    yield "RNN", lambda **options: RNN(M, N, **options)
    yield "LSTM", lambda **options: LSTM(M, N, **options)
    yield "GRU", lambda **options: GRU(M, N, **options)
    yield "leaky", lambda **options: Recurrent(LEAKY, M, N, **options)
    yield "mine", lambda **options: Recurrent(MINE, M, N, **options)


def passes(layer, x=X, dy=DY, call=(), back=(), given=False):
    reset_state = (DY,) * layer.cell.states if layer.cell.states > 1 else DY
    y, s = layer(x, reset_state=reset_state if given else None, **dict(call))
    dx, ds = layer.backward(dy, **dict(back))
    tape = [a for a in layer.tape if a is not None] if "tape" in dict(back) else []
    dgiven = layer.dreset_state if given else ()
    return y, s, dx, ds, layer.grads, layer.delta, tape, layer.clipped_steps, dgiven


OPTIONS = {
    "plain": {},
    "float64": {"build": {"dtype": "float64"}},
    "lengths": {"call": {"lengths": [5, 2, 3]}},
    "mask": {"call": {"mask": MASK, "resets": RESETS}},
    "clip": {"back": {"clip_step_norm": 0.3, "clip_step_value": 0.2}},
    "tape": {"back": {"tape": True}, "call": {"mask": MASK, "resets": RESETS}},
    "given": {
        "call": {"mask": MASK, "resets": RESETS},
        "given": True,
    },
    "given tape": {
        "call": {"resets": RESETS},
        "back": {"tape": True},
        "given": True,
    },
    "reverse": {"build": {"reverse": True}, "call": {"mask": MASK, "resets": RESETS}},
    "noise": {"build": {"recurrent_dropout": 0.3, "zoneout": 0.2}, "call": {"training": True}},
    "zoneout": {"build": {"zoneout": 0.2}},
    "tf32": {"build": {"precision": "tf32"}},
    "rows": {"build": {"batch_first": True}, "turned": True},
}
for kind, make in layers():
    for name, option in OPTIONS.items():

        def one(make=make, build=(), call=(), back=(), turned=False, given=False):
            layer = make(**ON_CUDA, **dict(build))
            x, dy = (a.swapaxes(0, 1) if turned else a for a in (X, DY))
            return passes(layer, x.astype(layer.dtype), dy.astype(layer.dtype), call, back, given)

        PATHS[f"{kind} {name}"] = lambda one=one, option=option: one(**option)
    for schedule in NAMES:

        def scheduled(make=make, schedule=schedule):
            with only(schedule):
                return passes(make(**ON_CUDA))

        PATHS[f"{kind} by {schedule}"] = scheduled


@path
def arrays_of_the_card():
    """x and dy on the card: results are there too."""
    layer, to = LSTM(M, N, **ON_CUDA), layer_arrays()
    states = [(to(DY[0]), to(DY[1]))]
    network = Network([layer, Dense(N, K, **ON_CUDA)])
    y, s = network(to(X), states, lengths=to(np.array([5, 2, 3])))
    assert type(y) is type(s[0][0]) is type(to(X))
    dx, ds = network.backward(y)
    y1, s1 = layer(to(X), mask=to(MASK), resets=to(RESETS))
    layer.parameters["U"] = to(np.ones((4 * N, M), "f"))
    return y, s, dx, ds, network.grads, y1, s1, layer.parameters


def layer_arrays():
    """What makes an array of the cuda device."""
    return lambda a: resolve("cuda").array(a, a.dtype)


@path
def bidirectional():
    there, back = LSTM(M, N, **ON_CUDA), LSTM(M, N, **ON_CUDA, reverse=True)
    layer = Bidirectional(there, back)
    y, s = layer(X, mask=MASK)
    return y, s, layer.backward(np.ones_like(y)), layer.grads


@path
def dense():
    layer = Dense(M, K, "tanh", **ON_CUDA)
    y = layer(X)
    return y, layer.backward(np.ones_like(y)), layer.grads, layer.delta, layer(X[0])


@path
def embedding():
    layer = Embedding(5, M, **ON_CUDA)
    y = layer(np.array([[0, 4, 1], [2, 3, 3]]))
    return y, layer.backward(np.ones_like(y)), layer.grads, layer(layer_arrays()(np.array([1, 2])))


@path
def dropout():
    layer = Dropout(0.4, variational=True, **ON_CUDA)
    y = layer(X, training=True)
    return y, layer.backward(y), layer(X)


@path
def an_error_names_its_place():
    said = []
    layer = LSTM(M, N, **ON_CUDA)
    for bad in (np.full_like(X, np.nan), layer_arrays()(np.full_like(X, np.inf))):
        with pytest.raises(rnn_gpu.ArgumentError) as caught:
            layer(bad)
        said.append(str(caught.value))
    layer(X)
    layer.parameters["W"][0, 0] += 1
    with pytest.raises(rnn_gpu.OrderError) as caught:
        layer.backward(DY)
    return [*said, str(caught.value)]


def network(loss="squared_error", **options):
    options = {"seed": 3} | ON_CUDA | options
    return Network([GRU(M, N, **options), LSTM(N, N, **options), Dense(N, K, **ON_CUDA)], loss=loss)


def fitted(x=XS, y=YS, loss="squared_error", **options):
    model = network(loss)
    history = model.fit(x, y, **{"epochs": 2, "batch_size": 2, "progress": False} | options)
    return history, model.parameters


LABELS = [np.array([t % K for t in range(len(x))]) for x in XS]
OPTIMIZERS = {
    "sgd": optimizers.SGD,
    "momentum": lambda: optimizers.SGD(momentum=0.9),
    "nesterov": lambda: optimizers.SGD(momentum=0.9, nesterov=True, weight_decay=0.1),
    "rmsprop": optimizers.RMSprop,
    "adam": optimizers.Adam,
    "adamw": optimizers.AdamW,
}
FITS = {f"by {name}": {"optimizer": name} for name in OPTIMIZERS} | {
    "softmax": {"loss": "softmax_cross_entropy", "y": LABELS},
    "binary": {"loss": "binary_cross_entropy", "y": [(y > 0).astype("f") for y in YS]},
    "clipped": {"clip_norm": 0.1, "clip_value": 0.05, "clip_step_norm": 0.1},
    "truncated": {"truncate": (2, 3)},
    "within memory": {"memory_budget": 17_000},
    "validated": {"validation": (XS[:2], YS[:2])},
    "of the card": {"x": "card"},
}
for name, option in FITS.items():

    def fit(option=option):
        given = dict(option)
        if given.get("optimizer") in OPTIMIZERS:
            given["optimizer"] = OPTIMIZERS[given["optimizer"]]()
        if given.get("x") == "card":
            given |= {"x": list(map(layer_arrays(), XS)), "y": list(map(layer_arrays(), YS))}
        return fitted(**given)

    PATHS[f"fit {name}"] = fit


@path
def fit_with_callbacks():
    best, norms = callbacks.BestModel(), []

    def watch(network, number):
        norms.append([tape.weight_gradient_norms for tape in network.tapes])

    result = fitted(callbacks=[best], validation=(XS, YS), watch=watch)
    return result, norms, best.value


@path
def fit_goes_on(tmp_path):
    file = tmp_path / "checkpoint"
    fitted(epochs=1, checkpoint=file)
    return fitted(epochs=3, resume=file)


@path
def fit_finds_what_is_not_finite():
    said = []
    for name in ("W", "U"):
        model = network()
        model.layers[0].parameters[name][0, 0] = np.inf
        with pytest.raises(NonFiniteError) as caught:
            model.fit(XS, YS, progress=False)
        said.append(str(caught.value))
    return said


@path
def evaluate_and_predict():
    model = network()
    E, grads = model.gradient(XS, YS, truncate=(2, 4))
    return model.evaluate(XS, YS), model.predict(XS), E, grads


@path
def gradient_flow():
    report = network().gradient_flow(XS, YS)
    return [layer._asdict() for layer in report.layers], str(report)


@path
def checked_gradients():
    layer = LSTM(2, 2, dtype="float64", **ON_CUDA)
    return gradcheck(layer, X[:3, :1, :2].astype("d"), DY[:3, :1, :2].astype("d")).worst


@path
def stream():
    model = network()
    flow = Stream(model)
    first = [flow(X[0]), flow(X[1:3]), flow.state]
    flow.reset([DY[0], (DY[1], DY[2])])
    return first, flow(X[3]), flow(layer_arrays()(X[4]))


@path
def copies():
    model = network()
    others = [
        copy.copy(model),
        copy.deepcopy(model),
        model.copy(),
        pickle.loads(pickle.dumps(model)),
    ]
    return [other.predict(XS) for other in others], repr(model), str(others[-1].layers[0])


@path
def files(tmp_path):
    model = network()
    for suffix in ("npz", "safetensors"):
        model.save(tmp_path / f"model.{suffix}")
    models = [rnn_gpu.load(file, **ON_CUDA) for file in sorted(tmp_path.iterdir())]
    return [model.predict(XS) for model in models]


@path
def weights_of_torch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = LSTM(M, N, **ON_CUDA)
    layer.load_torch(torch.nn.LSTM(M, N).state_dict())
    return layer(X), layer.to_torch(), [a for _, a in layer.as_keras(layer.parameters)]


def taken(name, tmp_path):
    """What a path gives, with a folder where it asks for one."""
    path = PATHS[name]
    return found(path(tmp_path) if "tmp_path" in path.__code__.co_varnames else path())


# what a quicker path goes through too
SLOW = ("fit by m", "fit by n", "fit by r", "fit by adamw", "fit binary", "fit validated", "mine ")


def paths():
    for name in PATHS:
        yield pytest.param(name, marks=pytest.mark.slow if name.startswith(SLOW) else ())


@pytest.mark.parametrize("name", list(paths()))
def test_a_path_is_cupys_to_the_last_bit(name, tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "strict").mkdir()
    expected = taken(name, tmp_path / "plain")
    with strict(), ordered(), counted() as counts:
        got = taken(name, tmp_path / "strict")
    assert counts.operations and counts.allocations
    same(got, expected)


def test_memory_that_nobody_has_is_given_back():
    device, pool = resolve("cuda"), played.get_default_memory_pool()
    assert device.release() == 0  # NumPy's
    with strict():
        layer = LSTM(M, N, **ON_CUDA)
        layer(X)
        before = pool.total_bytes()
        assert 0 < device.release() == before - pool.total_bytes()
        assert pool.total_bytes() == pool.used_bytes() > 0
        assert layer.backward(DY)[0].shape == X.shape


def test_threads_train_side_by_side():
    """Each its own network; both on the stream of all, and each captures its updates."""
    options = {"x": [x[:3] for x in XS], "y": [y[:3] for y in YS], "epochs": 3, "batch_size": 1}
    with strict(), ordered():
        (expected,) = alone = [found(fitted(**options))]
        threads = [Thread(target=lambda: alone.append(found(fitted(**options)))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(alone) == 3
    for got in alone:
        same(got, expected)

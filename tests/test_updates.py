"""One update of the weights: what is written, what is refused, and how often somebody waits."""

import numpy as np
import pytest

import rnn_gpu
from conftest import close
from rnn_gpu import LSTM, Bidirectional, Dense, Network, optimizers
from rnn_gpu.callbacks import Callback
from rnn_gpu.device import resolve
from rnn_gpu.kernels import Change, Limits, Report
from rnn_gpu.kernels.devices.cuda import reductions
from rnn_gpu.kernels.devices.cuda.launch import SIMULATED
from rnn_gpu.kernels.emulator.arrays.counts import counted
from rnn_gpu.kernels.emulator.simulated import strict
from rnn_gpu.kernels.losses import LOSSES
from rnn_gpu.layers import steps
from rnn_gpu.network.callbacks import run
from rnn_gpu.network.update import Clipping, enqueued, scalars_of
from rnn_gpu.training import Samples, Settings, Training, Ways, forward_backward, train_step

M, N, K = 3, 4, 5
OPTIMIZERS = {
    "sgd": lambda: optimizers.SGD(0.1, weight_decay=0.01),
    "nesterov": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda: optimizers.RMSprop(0.1),
    "adam": lambda: optimizers.Adam(0.1, weight_decay=0.01),
    "adamw": lambda: optimizers.AdamW(0.1),
}
CLIPPINGS = {
    "": Clipping(),
    "norm": Clipping(norm=0.05),
    "loose": Clipping(norm=1e6, value=1e6),
    "value": Clipping(value=0.003),
    "both": Clipping(norm=0.01, value=0.003),
}


on_strict_arrays = pytest.mark.skipif(not SIMULATED, reason="counted in the simulator")


def network(device="cpu", dtype="float32", loss="softmax_cross_entropy", steps="every"):
    on = {"device": device, "dtype": dtype}
    return Network([LSTM(M, N, **on), Dense(N, K, **on)], loss=loss, steps=steps)


def samples(net, lengths=(4, 2, 4)):
    rng = np.random.default_rng(1)
    x = [rng.normal(size=(T, M)).astype(net.dtype) for T in lengths]
    rows = [(T, K) if net.steps == "every" else (K,) for T in lengths]
    return Samples(net, x, [rng.dirichlet(np.ones(K), row[:-1]).astype(net.dtype) for row in rows])


def arrays_of(net, optimizer):
    """Copies of everything that an update may write, by name."""
    number = net.backend.numpy
    found = {f"θ {name}": np.array(number(a)) for name, a in net.parameters.items()}
    for name, moments in optimizer.state.items():
        found |= {f"moment {k} of {name}": np.array(number(a)) for k, a in enumerate(moments)}
    return found


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name], equal_nan=True), name


# One update is the formulas


def update_by_hand(net, batch, optimizer, clipping):
    """(loss, share of right answers, norm) of an update as one would write it down, array after
    array, each looked at as soon as it is there.
    """
    twin, number, zero = (
        net.copy(device="reference"),
        net.backend.numpy,
        np.dtype(net.dtype).type(0),
    )
    x, target, weight = (number(a) for a in (batch.x, batch.target, batch.weight))
    o, _ = twin(x, lengths=batch.lengths)
    target = np.eye(o.shape[-1], dtype=o.dtype)[target] if target.ndim < 3 else target
    total = float(weight.sum())
    loss, log_sum = LOSSES[net.loss], o
    if loss.classes == "exclusive":
        largest = o.max(-1, keepdims=True)
        log_sum = largest + np.log(np.exp(o - largest).sum(-1, keepdims=True))
    E, do = np.empty_like(o), np.empty_like(o)
    twin.backend.elementwise(
        lambda o, t, s: (loss.value(o, t, s), loss.slope(o, t, s)), (E, do), (o, target, log_sum)
    )
    live = weight[:, :, None] != 0
    summed = float((np.where(live, E, zero).astype("float64") * weight[:, :, None]).sum())
    hit = o.argmax(-1) == target.argmax(-1)
    if loss.classes == "binary":
        hit = ((o > 0) == (target > 0.5)).all(-1)
    correct = float((hit * weight).sum() / weight.sum()) if loss.classes else None
    twin.backward(np.where(live, do * (weight[:, :, None] / o.dtype.type(total)), zero))
    grads = {name: np.array(g) for name, g in twin.grads.items()}

    def norm_of_all():
        return sum(float((g.astype("float64") ** 2).sum()) for g in grads.values()) ** 0.5

    norm = norm_of_all()
    if clipping.value:
        grads = {name: np.clip(g, -clipping.value, clipping.value) for name, g in grads.items()}
    if clipping.norm and (now := norm_of_all()) > clipping.norm:
        grads = {name: g * g.dtype.type(clipping.norm / now) for name, g in grads.items()}
    θ = {name: number(a) for name, a in net.parameters.items()}
    optimizer.step(twin.backend, θ, grads)
    return summed / total, correct, norm, grads


CASES = [("adam", clipping) for clipping in CLIPPINGS]
CASES += [(optimizer, "both") for optimizer in OPTIMIZERS if optimizer != "adam"]


@pytest.mark.parametrize(("optimizer", "clipping"), CASES)
def test_an_update_is_its_formulas(optimizer, clipping, device):
    """To the last bit on the device where the formulas are written down."""
    clipping, found = CLIPPINGS[clipping], []
    for by_hand in (False, True):
        net, taken = network("reference" if by_hand else device), OPTIMIZERS[optimizer]()
        batch, numbers = samples(net).batch(range(3)), []
        for _ in range(3):
            if by_hand:
                *own, grads = update_by_hand(net, batch, taken, clipping)
            else:
                made, norm = train_step(net, batch, taken, clipping)
                own = made.loss, made.correct, norm
                grads = {name: net.backend.numpy(g) for name, g in net.grads.items()}
            numbers.append(np.array([*own]))
        arrays = arrays_of(net, taken) | {f"∇{name}": g for name, g in grads.items()}
        found.append(arrays | {"numbers": np.array(numbers), "steps": np.array(taken.steps)})
    if device == "reference":
        same(*found)
    for name in found[1]:
        close(found[0][name], found[1][name], "float32")


@pytest.mark.parametrize("steps", ["every", "last"])
@pytest.mark.parametrize("loss", LOSSES)
def test_an_update_follows_its_loss(loss, steps, device, dtype):
    found = []
    for by_hand in (False, True):
        net, sgd = (
            network("reference" if by_hand else device, dtype, loss, steps),
            optimizers.SGD(1),
        )
        batch = samples(net).batch(range(3))
        if by_hand:
            *numbers, _ = update_by_hand(net, batch, sgd, Clipping())
        else:
            made, norm = train_step(net, batch, sgd)
            numbers = [made.loss, made.correct, norm]
        found.append(arrays_of(net, sgd) | {"numbers": np.array(numbers, float)})
    for name in found[1]:
        close(np.nan_to_num(found[0][name]), np.nan_to_num(found[1][name]), dtype)


# What the devices give for a loss


def rows(T, B, k, dtype, seed=0):
    """o, target, weight, total: with equal numbers in o, steps that do not count, and NaN there."""
    rng = np.random.default_rng(seed)
    o = rng.integers(-2, 3, (T, B, k)).astype(dtype)
    target = rng.dirichlet(np.ones(k), (T, B)).astype(dtype)
    target[0] = 1 / k
    weight = (rng.random((T, B)) < 0.7).astype(dtype)
    weight[0, 0] = 1
    o[weight == 0] = np.nan
    return o, target, weight, np.array([weight.sum()])


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 2), (3, 5, 3), (1, 7, 4), (3, 3, 13)], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("other", ["cpu", "cuda"])
def test_devices_agree_on_a_loss(loss, shape, other, dtype):
    found = []
    for name in (other, "reference"):
        d = resolve(name)
        do, sums = d.loss(LOSSES[loss], *(d.array(a, dtype) for a in rows(*shape, dtype)))
        found.append((d.numpy(do), d.numpy(sums).sum(0)))
        assert found[-1][1].dtype == "float64"
    for a, b in zip(*found, strict=True):
        close(a, b, dtype)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 2), (3, 5, 3), (1, 7, 4), (3, 3, 70)], ids=str)
def test_labels_are_their_rows_to_the_last_bit(shape, device, dtype):
    """A class's number in place of k numbers; a row that does not count may have any label."""
    d, kind = resolve(device), LOSSES["softmax_cross_entropy"]
    o, _, weight, total = rows(*shape, dtype)
    weight *= np.random.default_rng(2).choice([1, 0.5, 3], weight.shape)
    labels = np.random.default_rng(1).integers(0, shape[-1], shape[:2])
    whole = {"float32": "int32", "float64": "int64"}[dtype]
    given = [d.array(a, dtype) for a in (o, np.eye(shape[-1])[labels], weight, total)]
    expected = [d.numpy(a) for a in d.loss(kind, *given)]
    labels[weight == 0] = -1
    given[1] = d.array(labels, whole)
    for got, a in zip(d.loss(kind, *given), expected, strict=True):
        assert d.numpy(got).dtype == a.dtype and np.array_equal(d.numpy(got), a)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_that_counts_what_is_not_finite_is_not(loss, bad, device):
    d = resolve(device)
    o, target, weight, total = rows(2, 3, 4, "float32")
    o[0, 0, 2] = bad
    target[0, 0] = [0.4, 0.1, 0.2, 0.3]
    with np.errstate(all="ignore"):
        _, sums = d.loss(LOSSES[loss], *(d.array(a, "float32") for a in (o, target, weight, total)))
    assert not np.isfinite(d.numpy(sums).sum(0)[0])


@pytest.mark.parametrize(
    "o", [[1, 3, 3, 2], [np.nan, 1, np.nan, 2], [1, np.nan, 5, np.nan], [0] * 4]
)
def test_of_equal_outputs_the_first_is_the_answer(o, device):
    """As NumPy's argmax has it, for which NaN is the largest."""
    d, o = resolve(device), np.array(o, "float32")
    for place in range(4):
        given = o[None, None], np.eye(4)[place][None, None], np.ones((1, 1)), np.ones(1)
        with np.errstate(all="ignore"):
            loss = LOSSES["softmax_cross_entropy"]
            _, sums = d.loss(loss, *(d.array(a, "float32") for a in given))
        assert d.numpy(sums).sum(0)[1] == (o.argmax() == place)


# What is refused

LIMITS = [Limits(), Limits(norm=0.5), Limits(value=0.2), Limits(0.3, 0.4), Limits(9, 9, 1e3)]


def change_of(d, dtype="float32", limits=LIMITS[0], sizes=((3, 2), (7,), (2, 2, 2)), seed=3):
    """An update by Adam of some arrays."""
    rng = np.random.default_rng(seed)

    def drawn(k):
        return tuple(d.array(abs(k - rng.normal(size=size)), dtype) for size in sizes)

    adam = optimizers.Adam(0.1)
    adam.steps = 3
    scalars = d.array(np.array([*limits, *adam.scalars()]), "float64")
    moments = tuple(zip(drawn(1), drawn(2), strict=True))
    return Change(adam.formula, drawn(0), moments, drawn(0), scalars)


def every_array(d, change):
    moments = [m for pair in change.moments for m in pair]
    arrays = (*change.parameters, *moments, *change.grads)
    return {str(k): np.array(d.numpy(a)) for k, a in enumerate(arrays)}


def updated(d, change, sums=(3.0, 1.0), changes=True):
    """(its Report, every array after it)"""
    with np.errstate(all="ignore"):
        norms = d.norms(change.grads, change.scalars)
        report = d.update(change, d.array(np.array([sums]), "float64"), norms, changes)
    return Report(*d.numpy(report).tolist()), every_array(d, change)


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("other", ["cpu", "cuda"])
def test_devices_agree_on_an_update(limits, other, dtype):
    (mine, arrays), (expected, theirs) = (
        updated(d, change_of(d, dtype, limits)) for d in map(resolve, (other, "reference"))
    )
    close(mine, expected, dtype)
    assert mine.taken == 1
    for name in arrays:
        close(arrays[name], theirs[name], dtype)


REFUSED = {
    "loss NaN": (Limits(), None, (np.nan, 0.0)),
    "loss inf": (Limits(), None, (np.inf, 0.0)),
    "gradient NaN": (Limits(), np.nan, (1.0, 0.0)),
    "gradient inf": (Limits(0.1, 0.1), -np.inf, (1.0, 0.0)),
    "gradient too large": (Limits(largest=1e4), -1.1e4, (1.0, 0.0)),
    "still too large": (Limits(2e4, 3e4, 1e4), 1e9, (1.0, 0.0)),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_refused_writes_nothing(why, device):
    limits, bad, sums = REFUSED[why]
    d = resolve(device)
    change = change_of(d, "float32", limits)
    if bad is not None:
        change.grads[1][4] = bad
    before = every_array(d, change)
    report, after = updated(d, change, sums)
    assert report.taken == 0
    same(before, after)


def test_what_clipping_makes_small_enough_is_taken(device):
    d = resolve(device)
    for limits in (Limits(value=0.9e4, largest=1e4), Limits(norm=0.9e4, largest=1e4)):
        change = change_of(d, "float32", limits)
        change.grads[1][4] = 1e9
        report, _ = updated(d, change)
        assert report.taken == 1
        assert float(d.numpy(change.grads[1])[4]) == pytest.approx(0.9e4)


def test_an_update_can_be_asked_what_it_would_do(device):
    d = resolve(device)
    change = change_of(d, "float32", Limits(0.3, 0.4))
    before = every_array(d, change)
    asked, after = updated(d, change, changes=False)
    same(before, after)
    assert asked == updated(d, change)[0]
    assert every_array(d, change)["0"].tolist() != before["0"].tolist()


def test_an_update_has_the_same_bits_every_time_and_whatever_the_grid(monkeypatch):
    d, found = resolve("cuda"), []
    for blocks in (None, None, 1, 2):
        if blocks:
            monkeypatch.setattr(reductions, "MOST_BLOCKS", blocks)
        found.append(updated(d, change_of(d, "float32", Limits(0.3, 0.4), ((9, 5), (11,)))))
    for report, arrays in found[1:]:
        assert report == found[0][0]
        same(arrays, found[0][1])


def test_parameters_that_one_launch_cannot_take_are_taken_by_several(monkeypatch):
    d, found, starts = resolve("cuda"), [], []
    launch = reductions.launch
    monkeypatch.setattr(reductions, "launch", lambda *a: (starts.append(a[0]), launch(*a)))
    for most in (60, 9, 4):
        starts.clear()
        monkeypatch.setattr(reductions, "MOST_ARRAYS", most)
        sizes = ((2,), (3,), (1,), (2, 2), (1, 1))
        report, arrays = updated(d, change_of(d, "float32", Limits(0.3, 0.4), sizes))
        found.append(arrays | {"report": np.array(report)})
        assert len(starts) == {60: 1 + 1, 9: 1 + 3, 4: 2 + 5}[most]
    for arrays in found[1:]:
        for name in arrays:
            close(arrays[name], found[0][name], "float32")


# What the optimizer keeps


def spoiled(net):
    """Whose loss is not finite."""
    net.parameters["1.b"][0] = np.inf
    return net


def test_an_update_that_is_refused_is_no_step(device):
    net, adam = network(device), optimizers.Adam()
    batch = samples(net).batch(range(3))
    with pytest.raises(rnn_gpu.NonFiniteError, match="update 4: parameter b of layer 1"):
        train_step(spoiled(net), batch, adam, number=4)
    assert adam.steps == 0 and adam.state == {}
    net.parameters["1.b"][0] = 0
    train_step(net, batch, adam)
    before = arrays_of(net, adam)
    net.parameters["1.b"][0] = np.inf
    with pytest.raises(rnn_gpu.NonFiniteError):
        train_step(net, batch, adam)
    net.parameters["1.b"][0] = before["θ 1.b"][0]
    assert adam.steps == 1
    same(arrays_of(net, adam), before)


def test_squares_that_would_overflow_are_refused(device):
    net = network(device, loss="squared_error")
    batch = samples(net).batch(range(3))
    net.parameters["1.V"][...] = 1e19
    before = arrays_of(net, adam := optimizers.Adam())
    with pytest.raises(rnn_gpu.NonFiniteError, match=r"Adam keeps squares of .* beyond 1.84e\+19"):
        train_step(net, batch, adam)
    same(arrays_of(net, adam), before)
    train_step(net, batch, optimizers.SGD(0.0))
    train_step(net, batch, adam, Clipping(norm=1.0))


def test_whoever_looks_sees_gradients_before_they_are_clipped(device):
    """And may set them, as the learning rate."""
    net, adam = network(device), optimizers.Adam(0.1)
    batch = samples(net).batch(range(3))
    forward_backward(net, batch)
    expected = {name: np.array(net.backend.numpy(g)) for name, g in net.grads.items()}
    before = arrays_of(net, adam)

    def look(number):
        assert number == 7
        same({name: net.backend.numpy(g) for name, g in net.grads.items()}, expected)
        same(arrays_of(net, adam), before)
        adam.learning_rate = 0.2
        for g in net.grads.values():
            g *= 3

    clipping = Clipping(norm=0.01)
    _, norm = train_step(net, batch, adam, clipping, number=7, look=look)
    twin, its = network(device), optimizers.Adam(0.2)
    # three times the gradient has the same direction
    _, norm_of_twin = train_step(twin, batch, its, clipping)
    assert norm == norm_of_twin
    found, other = arrays_of(net, adam), arrays_of(twin, its)
    for name in found:
        close(found[name], other[name], "float32")


# How often somebody waits


def asked(action):
    """What is asked of a card meanwhile."""
    with counted() as counts:
        action()
    return counts


RAGGED = pytest.mark.parametrize("lengths", [(4, 4, 4), (4, 2, 3)], ids=str)
STEPS = Clipping(1.0, 1.0, rnn_gpu.kernels.Clip(0.1, 0.1))


@on_strict_arrays
@RAGGED
def test_an_update_waits_once(lengths):
    with strict():
        net, adam = network("cuda"), optimizers.Adam()
        batch = samples(net, lengths).batch(range(3))
        train_step(net, batch, adam, STEPS)  # a row of ones is made, which stays
        for look, waits in ((None, 1), (lambda number: None, 2)):
            counts = asked(lambda look=look: train_step(net, batch, adam, STEPS, look=look))
            assert (counts.waits, counts.copies_from) == (waits, waits)
            assert counts.copies_to == waits  # of the optimizer's numbers


@on_strict_arrays
@RAGGED
def test_between_a_batch_and_its_report_nobody_waits_and_nothing_is_copied(lengths):
    """What a graph could hold."""
    with strict():
        net, adam = network("cuda"), optimizers.Adam()
        batch = samples(net, lengths).batch(range(3))
        train_step(net, batch, adam, STEPS)
        moments = adam.moments_of(net.backend, net.parameters)
        given = adam.formula, moments, scalars_of(net, adam, STEPS)
        counts = asked(lambda: enqueued(net, batch, *given, Ways(clip=STEPS.step)))
        assert (counts.waits, counts.copies_from, counts.copies_to) == (0, 0, 0)
        assert counts.of["launches"]["update"] == 1


@on_strict_arrays
@RAGGED
def test_a_batch_is_one_copy_and_its_flags_another(lengths):
    with strict():
        own = samples(network("cuda"), lengths)
        own.batch(range(3))
        counts = asked(lambda: own.batch([2, 0, 1]))
        # of samples that end together flags are found again
        assert (counts.waits, counts.copies_to) == (0, 1 + (len(set(lengths)) > 1))


@on_strict_arrays
def test_fit_evaluate_and_predict_wait_once_a_batch():
    class Looks(Callback):
        def on_gradients(self, training, number):
            """Looks at nothing."""

    with strict():
        net = network("cuda", steps="last")
        x, y = np.zeros((6, 4, M), "float32"), np.zeros(6, int)
        own = Samples(net, x, y)
        own.batch(range(3))
        assert asked(lambda: net.evaluate(x, y, batch_size=3)).waits == 2
        assert asked(lambda: net.predict(x, batch_size=3)).waits == 2
        for callback, waits in ((Callback(), 2), (Looks(), 4)):
            training = Training(net, own, optimizers.Adam(), Settings(epochs=1, batch_size=3))
            training.history["compile_seconds"] = [0.0]
            assert asked(lambda t=training, c=callback: run(t, [c])).waits == waits


class OnCard(np.ndarray):
    """An array that says that it is a GPU's."""

    device = None


class Device:
    """The reference as a GPU: its arrays are no host's."""

    name = "cuda"

    def __init__(self):
        self.asked = []

    def __getattr__(self, name):
        return getattr(resolve("reference"), name)

    def array(self, x, dtype):
        return np.array(x, dtype).view(OnCard)

    def finite(self, a):
        self.asked.append(type(a))
        return bool(np.isfinite(a).all())


@pytest.mark.parametrize("mask", [None, np.array([[True, False], [True, True]])], ids=str)
def test_arrays_of_the_host_are_looked_at_on_the_host(mask):
    device, x = Device(), np.ones((2, 2, M), "float32")
    if mask is not None:
        x[~mask] = np.nan
    a, its = steps.enter(device, x, M, "float32", None, mask=mask)
    assert type(a) is OnCard and np.isfinite(a).all()
    steps.entered(device, "dy", x, "float32", its.dead)
    assert device.asked == [np.ndarray] * 2
    steps.entered(device, "dy", np.ones_like(x).view(OnCard), "float32")
    assert device.asked[2:] == [OnCard]
    x[1, 1, 2] = np.inf
    with pytest.raises(rnn_gpu.ArgumentError, match=r"dy is inf at \(1, 1, 2\)"):
        steps.entered(device, "dy", x, "float32", its.dead)


def test_how_often_steps_were_clipped_is_read_when_somebody_looks(device):
    on = {"device": device}
    net = Network([Bidirectional(LSTM(M, N, **on)), Dense(2 * N, K, **on)])
    batch = samples(net).batch(range(3))
    clip = rnn_gpu.kernels.Clip(1e-6)
    made, _ = train_step(net, batch, optimizers.SGD(0.0), Clipping(step=clip))
    assert type(made.back.clipped_steps) is int
    # each direction of each step that is there
    assert made.back.clipped_steps == net.clipped_steps == 2 * (4 + 2 + 4)
    assert type(net.clipped_steps) is int
    forward_backward(net, batch)
    assert net.clipped_steps == 0

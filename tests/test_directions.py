"""Bidirectional layers, and stacks of them: by their definitions, on every device. Reverse is
defined in test_combinations.
"""

import numpy as np
import pytest

import rnn_gpu
from conftest import close
from door import named, parameters_of, refuses, results, same, table, way_back
from rnn_gpu import (
    GRU,
    LSTM,
    RNN,
    ArgumentError,
    Bidirectional,
    Dense,
    Dropout,
    Network,
    load,
    stack,
    training,
)

T, B, M, N = 5, 3, 4, 7
LENGTHS = [3, 5, 1]
KINDS = {"RNN": RNN, "LSTM": LSTM, "GRU": GRU}


def draw(*shape, dtype="float64"):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(dtype)


def state(layer, scale=1.0):
    parts = tuple(scale * (k + 1) * draw(B, layer.hidden_size) for k in range(layer.cell.states))
    return parts if len(parts) > 1 else parts[0]


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request):
    return request.param


def test_bidirectional_is_two_layers_side_by_side(kind, device):
    both = Bidirectional(
        kind(M, N, device=device, dtype="float64"),
        kind(M, 5, device=device, dtype="float64", seed=3, reverse=True),
    )
    x, dy = draw(T, B, M), draw(T, B, N + 5)
    forward, reverse = both.recurrent
    s0, ds = ([state(layer, scale) for layer in both.recurrent] for scale in (1.0, 0.3))
    got = results(both, x, dy, s0, ds, LENGTHS)
    one = results(forward, x, dy[..., :N], s0[0], ds[0], LENGTHS)
    other = results(reverse, x, dy[..., N:], s0[1], ds[1], LENGTHS)
    expected = {"y": np.concatenate([one["y"], other["y"]], 2), "dx": one["dx"] + other["dx"]}
    for name in ("U", "W", "b"):
        expected |= {f"d{name}": one[f"d{name}"], f"d{name}_reverse": other[f"d{name}"]}
    for i, alone in enumerate((one, other)):
        for end in ("last", "first"):
            expected |= {
                name.replace(end, f"{end}[{i}]", 1): a
                for name, a in alone.items()
                if name.startswith(end)
            }
    same({name: got[name] for name in expected}, expected)


def reversed_by_hand(layer, x, dy, s0, cut):
    """What a layer gives for one sample (T, 1, ·), whose pieces of steps each begin with s0, by
    calls of the same layer forward.
    """
    y, dx, grads = np.zeros((T, 1, N)), np.zeros_like(x), {}
    for piece in cut:
        back = [*reversed(piece)]
        found = results(layer, x[back], dy[back], s0)
        y[back], dx[back] = found["y"], found["dx"]
        grads = {
            name: grads.get(name, 0) + a
            for name, a in found.items()
            if name.startswith("d") and name != "dx"
        }
    return y, dx, grads


# of T = 5 steps: what is said at the call, and the pieces of each sample, in the order in which a
# reverse layer takes them
PIECES = {
    "lengths": ({"lengths": LENGTHS}, [[range(3)], [range(5)], [range(1)]]),
    "resets": (
        {"resets": np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]], bool)},
        [
            [range(2, 5), range(2)],
            [range(4, 5), range(1, 4), range(1)],
            [range(2, 5), range(1, 2), range(1)],
        ],
    ),
    "both": (
        {
            "lengths": LENGTHS,
            "resets": np.array([[0, 0, 0], [0, 1, 1], [1, 0, 0], [1, 0, 0], [0, 1, 0]], bool),
        },
        [[range(2, 3), range(2)], [range(4, 5), range(1, 4), range(1)], [range(1)]],
    ),
}


@pytest.mark.parametrize(("said", "pieces"), PIECES.values(), ids=PIECES)
def test_a_reverse_layer_goes_from_the_last_step_of_each_piece_to_its_first(kind, said, pieces):
    """The first step that it takes of a sample is the last of its length; a sequence that begins at
    step t has the steps from t on, and the one before it begins, in reverse, with step t − 1.
    """
    layer, turned = (
        kind(M, N, device="reference", dtype="float64", reverse=reverse)
        for reverse in (False, True)
    )
    x, dy, s0 = draw(T, B, M), draw(T, B, N), state(layer)
    got, total = results(turned, x, dy, s0, **said), {}
    for b, cut in enumerate(pieces):
        begin = tuple(part[b : b + 1] for part in s0) if isinstance(s0, tuple) else s0[b : b + 1]
        y, dx, grads = reversed_by_hand(layer, x[:, b : b + 1], dy[:, b : b + 1], begin, cut)
        close(got["y"][:, b : b + 1], y)
        close(got["dx"][:, b : b + 1], dx)
        total = {name: total.get(name, 0) + a for name, a in grads.items()}
    for name, a in total.items():
        close(got[name], a)


@pytest.mark.quick_on_devices("cpu")
def test_gradients_of_a_bidirectional_network_are_slopes(device):
    options = {"device": device, "dtype": "float64"}
    network = Network(
        [
            *stack(GRU, M, 3, num_layers=2, bidirectional=True, **options),
            LSTM(6, 3, reverse=True, **options),
        ]
    )
    assert len(network.recurrent) == 5
    rnn_gpu.gradcheck(network, draw(4, B, M), draw(4, B, 3), lengths=[4, 1, 3], samples=2)


def test_batch_first_turns_a_bidirectional_layer():
    first, major = (
        Bidirectional(LSTM(M, N, batch_first=value, device="reference", dtype="float64"))
        for value in (True, False)
    )
    x, dy = draw(T, B, M), draw(T, B, 2 * N)
    got = results(first, x.swapaxes(0, 1), dy.swapaxes(0, 1), lengths=LENGTHS)
    same(
        got | {name: got[name].swapaxes(0, 1) for name in ("y", "dx")},
        results(major, x, dy, lengths=LENGTHS),
    )


def test_the_states_of_a_network_go_in_and_come_out_by_layer_and_direction():
    network = Network(
        [*stack(LSTM, M, N, num_layers=2, bidirectional=True, device="reference", dtype="float64")]
    )
    x = draw(T, B, M)
    s0 = [state(layer, 1 + i) for i, layer in enumerate(network.recurrent)]
    _, last = network(x, s0)
    below, above = network.layers
    middle, lower = below(x, s0[:2])
    _, upper = above(middle, s0[2:])
    same(named("last", last), named("last", lower + upper))


def test_a_stack_has_layers_of_its_sizes_and_no_two_alike():
    layers = stack(
        LSTM, M, N, num_layers=3, bidirectional=True, dropout=0.25, device="reference", seed=4
    )
    assert [type(layer) for layer in layers] == [
        Bidirectional,
        Dropout,
        Bidirectional,
        Dropout,
        Bidirectional,
    ]
    network = Network(layers)
    assert [layer.input_size for layer in network.recurrent] == [M, M, 2 * N, 2 * N, 2 * N, 2 * N]
    seeds = [layer.seed for layer in network.recurrent]
    assert len(set(seeds)) == 6 and layers[1].seed != layers[3].seed
    assert [type(layer) for layer in stack(RNN, M, N, num_layers=2, device="reference")] == [
        RNN,
        RNN,
    ]


def test_a_bidirectional_network_is_saved_copied_and_trained(tmp_path, device):
    network = Network(
        [Bidirectional(RNN(M, 3, "relu", device=device)), Dense(6, 2, device=device)], steps="every"
    )
    assert {"0.U", "0.W_reverse", "1.V"} <= set(network.parameters)
    x = [draw(t, M, dtype="float32") for t in (4, 2, 3)]
    before = parameters_of(network)
    network.fit(x, [a[:, :2] for a in x], epochs=1, progress=False)
    assert all((a != before[name]).any() for name, a in parameters_of(network).items())
    network.save(tmp_path / "model")
    for other in (load(tmp_path / "model", device=device), network.copy()):
        assert other.config() == network.config()
        same(other.predict(x)[0], network.predict(x)[0])


def test_a_formula_of_ones_own_comes_back_within_a_bidirectional_layer(tmp_path):
    own = rnn_gpu.activation(np.arctan, lambda y: np.cos(y) ** 2, name="own")
    network = Network([Bidirectional(RNN(M, 3, own, device="reference"))])
    network.save(tmp_path / "model")
    again = load(tmp_path / "model", device="reference", custom=[own])
    x = draw(T, B, M, dtype="float32")
    same(again(x)[0], network(x)[0])


def test_a_call_of_one_direction_leaves_the_pass_of_the_network_alone():
    network = Network([Bidirectional(LSTM(M, N, device="reference"))])
    x = draw(T, B, M, dtype="float32")
    y, _ = network(x)
    expected = way_back(network, y)
    network(x)
    network.layers[0].recurrent[1](2 * x)
    same(way_back(network, y), expected)


def test_what_is_not_finite_in_a_reverse_layer_is_named_by_its_time_step():
    """The state of the reverse direction, 1e26, 1e39, … from step 4 on, breaks at step 3 and stays
    so.
    """
    network = Network([Bidirectional(RNN(1, 1, "relu", device="cpu")), Dense(2, 1, device="cpu")])
    for name, a in network.parameters.items():
        a[...] = 1e13 if name == "0.W_reverse" else 0 if name == "0.U" else 1
    network.parameters["0.b_reverse"][...] = 0
    x = np.array([[0], [0], [0], [0], [1e26]], "float32")
    batch = training.Samples(network, [x], [np.zeros((5, 1), "float32")]).batch([0])
    with pytest.raises(
        rnn_gpu.NonFiniteError, match=r"layer 0 \(RNN\) gives inf at time step 3, sample 0"
    ):
        training.train_step(network, batch, rnn_gpu.optimizers.SGD())


FORWARD = RNN(M, N, device="reference")


@pytest.mark.parametrize(
    ("build", "error", "message"),
    table(
        (
            "no layer",
            lambda: Bidirectional(3),
            ArgumentError,
            "forward is 3, expected a recurrent layer with reverse=False",
        ),
        (
            "in reverse",
            lambda: Bidirectional(RNN(M, N, reverse=True)),
            ArgumentError,
            "forward is .*reverse=False",
        ),
        (
            "twice forward",
            lambda: Bidirectional(FORWARD, FORWARD),
            ArgumentError,
            "reverse is .*reverse=True",
        ),
        (
            "sizes",
            lambda: Bidirectional(FORWARD, RNN(3, N, device="reference", reverse=True)),
            ArgumentError,
            "reverse has input_size=3, but forward has 4",
        ),
        (
            "layers",
            lambda: stack(RNN, M, N, num_layers=0),
            ArgumentError,
            "num_layers is 0, expected an integer of at least 1",
        ),
        (
            "dropout",
            lambda: stack(RNN, M, N, num_layers=2, dropout=1.0),
            ArgumentError,
            "dropout is 1.0, expected a number from 0",
        ),
    ),
)
def test_what_makes_no_directions_is_refused(build, error, message):
    refuses(error, f"^{message}", build)

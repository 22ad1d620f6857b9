"""BPTT as the tutorial derives it: 式3 as a product of Jacobians, 式5, 式6, and 式7's recursion;
then finite differences for all.
"""

import numpy as np
import pytest

import rnn_gpu
from conftest import REPRESENTATIVE, close
from own_cells import LEAKY, leaky_back, leaky_step
from rnn_gpu.kernels import Activation, Cell
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.cells.lstm import back as lstm_back
from rnn_gpu.kernels.losses import LOSSES

T, B, M, N = 5, 1, 3, 4


def elman(device, activation="tanh", T=T):
    """A layer after one pass with a loss at the last step alone, and what the formulas need."""
    rng = np.random.default_rng(5)
    layer = rnn_gpu.RNN(M, N, activation, device=device, dtype="float64", seed=2)
    x, s0 = rng.normal(size=(T, B, M)), rng.normal(size=(B, N))
    y, _ = layer(x, s0)
    dy = np.zeros_like(y)
    dy[-1] = rng.normal(size=(B, N))
    layer.backward(dy)
    to_numpy = layer.backend.numpy
    W, δ, dW = (to_numpy(a) for a in (layer.parameters["W"], layer.delta, layer.grads["W"]))
    s = np.concatenate([s0[None], y])[:, 0]  # s[t] is the state before step t
    return W, s, δ[:, 0, 0], dW


def test_delta_is_the_product_of_jacobians(device):
    """式3: δ_kᵀ = δ_Tᵀ Π W diag[f′(net_i)], i = k … T−1."""
    W, s, δ, _ = elman(device)
    for k in range(T):
        product = np.eye(N)
        for i in range(T - 2, k - 1, -1):  # net_i gives s[i + 1]
            product = product @ W @ np.diag(1 - s[i + 1] ** 2)
        close(δ[k], δ[-1] @ product)


def test_delta_is_of_the_last_forward_or_an_error(device):
    layer, x = rnn_gpu.RNN(3, 4, device=device), np.ones((3, 2, 3), "float32")
    y, _ = layer(x)
    layer.backward(np.ones_like(y))
    assert layer.delta.shape == (3, 2, 1, 4)
    layer(x)
    with pytest.raises(rnn_gpu.OrderError, match="delta is known after backward"):
        _ = layer.delta


def test_gradient_is_the_sum_over_steps(device):
    """式5 and 式6: ∇W = Σ_t δ_t s_{t-1}ᵀ."""
    _, s, δ, dW = elman(device)
    close(dW, sum(np.outer(δ[t], s[t]) for t in range(T)))


def test_the_sum_is_the_recursion_of_formula_7(device):
    """式7: ∂net_t/∂W = (∂W/∂W) s_{t-1} + W diag[f′(net_{t-1})] ∂net_{t-1}/∂W, and ∇W = δ_Tᵀ
    ∂net_T/∂W.
    """
    W, s, δ, dW = elman(device)
    dnet = np.zeros((N, N, N))  # ∂net_i/∂w_jk
    for t in range(T):
        direct = np.einsum("ij,k->ijk", np.eye(N), s[t])
        through_time = np.einsum("ia,ajk->ijk", W * (1 - s[t] ** 2), dnet) if t else 0
        dnet = direct + through_time
    close(dW, np.einsum("i,ijk->jk", δ[-1], dnet))


LENGTHS = [7, 3, 5]
EVERY_OTHER = "every", "last"


def blind(cell):
    return cell.name == "elman_identity"


@pytest.mark.parametrize(
    "cell, lengths",
    [
        pytest.param(cell, lengths, id=f"{name}-{which}")
        for which, lengths in (("full", None), ("ragged", LENGTHS))
        for name, cell in CELLS.items()
        if which == "full" or name in REPRESENTATIVE
    ],
)
def test_gradients_are_slopes(cell, device, lengths):
    rng = np.random.default_rng(11)
    network = rnn_gpu.Network(
        [
            rnn_gpu.Recurrent(cell, 5, 4, device=device, dtype="float64"),
            rnn_gpu.Dense(4, 2, "softsign", device=device, dtype="float64"),
        ]
    )
    rnn_gpu.gradcheck(
        network,
        rng.normal(size=(7, 3, 5)),
        rng.normal(size=(7, 3, 2)),
        lengths=lengths,
        samples=4,
        allow_blind=blind(cell),
    )


@pytest.mark.quick_on_devices("cpu", "squared_error")
@pytest.mark.parametrize(
    "loss, steps",
    [("squared_error", "last"), *((loss, EVERY_OTHER[k % 2]) for k, loss in enumerate(LOSSES))],
)
def test_losses_of_a_deep_network(device, loss, steps):
    rng = np.random.default_rng(2)
    options = {"device": device, "dtype": "float64"}
    layers = [
        rnn_gpu.GRU(3, 5, **options),
        rnn_gpu.RNN(5, 4, "elu", **options),
        rnn_gpu.Dense(4, 3, "softplus", **options),
        rnn_gpu.LSTM(3, 4, **options),
    ]
    network = rnn_gpu.Network(layers, loss=loss, steps=steps)
    y = rng.dirichlet(np.ones(4), (3, 2))
    rnn_gpu.gradcheck(network, rng.normal(size=(3, 2, 3)), y, lengths=[3, 1], samples=2)


# What users bring: plain Python, with `if`, with math's names, with a helper of their own.


def helper(z):
    import math

    return math.atan(z) if z < 0 else z


def swish_like(z):
    return z / (1 + abs(z)) if z > 0 else 0.5 * z / (1 - z)


def dswish_like(y):
    return (1 - y) ** 2 if y > 0 else 0.5 * (1 + 2 * y) ** 2


def test_a_users_activation_on_every_device(device):
    rng = np.random.default_rng(3)
    layer = rnn_gpu.RNN(3, 4, (swish_like, dswish_like), device=device, dtype="float64")
    x = rng.normal(size=(5, 2, 3))
    rnn_gpu.gradcheck(layer, x, rng.normal(size=(5, 2, 4)), samples=6)
    s, θ = np.zeros((2, 4)), {name: layer.backend.numpy(a) for name, a in layer.parameters.items()}
    y, _ = layer(x)
    for t in range(5):
        s = np.vectorize(swish_like)(x[t] @ θ["U"].T + s @ θ["W"].T + θ["b"])
        close(y[t], s)


def test_a_users_cell_on_every_device(device, dtype):
    rng = np.random.default_rng(3)
    layer = rnn_gpu.Recurrent(LEAKY, 3, 4, device=device, dtype=dtype)
    x = rng.normal(size=(5, 2, 3)).astype(dtype)
    s, θ = np.zeros((2, 4)), {name: layer.backend.numpy(a) for name, a in layer.parameters.items()}
    y, _ = layer(x)
    for t in range(5):
        s = s + 0.25 * (np.tanh(x[t] @ θ["U"].T + s @ θ["W"].T + θ["b"]) - s)
        close(y[t], s, dtype)
    rnn_gpu.gradcheck(
        layer.copy(dtype="float64"), x.astype("float64"), rng.normal(size=(5, 2, 4)), samples=6
    )


def test_a_wrong_derivative_is_refused():
    with pytest.raises(rnn_gpu.DerivativeError, match=r"z = .*slope there is"):
        rnn_gpu.activation(np.tanh, lambda y: 1 - y)
    with pytest.raises(rnn_gpu.DerivativeError, match=r"dE/ds\[0\]"):
        rnn_gpu.cell(
            "leaky",
            gates=1,
            states=1,
            kept=1,
            step=leaky_step,
            back=lambda d, k, s, s1: (*leaky_back(d, k, s, s1)[:2], (0.5 * d[0],)),
        )


def test_a_formula_that_no_kernel_can_have_is_refused():
    with pytest.raises(
        rnn_gpu.ArgumentError,
        match=r"activation 'clipped': .* uses np.clip, which kernels do not have: they have .*tanh",
    ):
        rnn_gpu.activation(
            lambda z: np.clip(z, 0, 1),
            lambda y: np.where((y > 0) & (y < 1), 1.0, 0.0),
            name="clipped",
        )


def test_a_cell_with_a_wrong_count_is_refused():
    with pytest.raises(rnn_gpu.ArgumentError, match="kept of step has 1 numbers, expected 2"):
        rnn_gpu.cell("leaky", gates=1, states=1, kept=2, step=leaky_step, back=leaky_back)


# gradcheck itself must be able to fail.


def wrong(cell: Cell, monkeypatch, **changes):
    """A layer of a cell that is wrong on purpose, past the check at the door."""
    monkeypatch.setattr("rnn_gpu.derivatives.check_cell", lambda cell: None)
    return rnn_gpu.Recurrent(
        cell._replace(name="wrong", **changes), 3, 4, device="reference", dtype="float64"
    )


def state_instead_of_slope(ds, kept, s, s_next):
    """The widely copied mistake: δ times the state instead of f′(net)."""
    δ = ds[0] * s_next[0]
    return (δ,), (δ,), (0.0,)


def no_path_through_c(ds, kept, s, s_next):
    dp, dq, (dh, dc) = lstm_back(ds, kept, s, s_next)
    return dp, dq, (dh, 0.0 * dc)


@pytest.mark.parametrize(
    ("name", "back"), [("elman_tanh", state_instead_of_slope), ("lstm", no_path_through_c)]
)
def test_gradcheck_finds_wrong_formulas(name, back, monkeypatch):
    rng = np.random.default_rng(0)
    with pytest.raises(rnn_gpu.GradientError, match="the slope of the loss is"):
        rnn_gpu.gradcheck(
            wrong(CELLS[name], monkeypatch, back=back),
            rng.normal(size=(4, 2, 3)),
            rng.normal(size=(4, 2, 4)),
        )


def blind_case(**changes):
    rng = np.random.default_rng(0)
    case = {
        "model": rnn_gpu.RNN(3, 4, device="reference", dtype="float64"),
        "x": rng.normal(size=(4, 2, 3)),
        "y": rng.normal(size=(4, 2, 4)),
    }
    return case | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.ones((2, 2, 3)), "y": np.ones((2, 2, 4))}, "T = 2 time steps"),
        ({"state": [np.zeros((2, 4))]}, r"state\[0\] is zero"),
        ({"lengths": [2, 1]}, "lengths are at most 2"),
        ({"model": rnn_gpu.RNN(3, 4, "identity", device="reference", dtype="float64")}, "identity"),
    ],
)
def test_gradcheck_refuses_blind_settings(changes, message):
    with pytest.raises(rnn_gpu.ArgumentError, match=message):
        rnn_gpu.gradcheck(**blind_case(**changes))
    assert rnn_gpu.gradcheck(**blind_case(**changes), allow_blind=True).worst < 1e-6


def test_gradcheck_wants_float64():
    with pytest.raises(rnn_gpu.ArgumentError, match="float32, expected float64"):
        rnn_gpu.gradcheck(**blind_case(model=rnn_gpu.RNN(3, 4, device="reference")))


def test_a_kink_is_no_mistake():
    rnn_gpu.activation(
        lambda z: np.where(z > 0.3, z - 0.3, 0.0),
        lambda y: np.where(y > 0, 1.0, 0.0),
        name="shifted",
    )


def test_built_in_activations_are_slopes():
    from rnn_gpu.derivatives import check_activation
    from rnn_gpu.kernels.activations import ACTIVATIONS

    for activation in ACTIVATIONS.values():
        check_activation.__wrapped__(activation)
        with pytest.raises(rnn_gpu.DerivativeError):
            check_activation.__wrapped__(
                Activation(activation.name, activation.f, lambda y, df=activation.df: df(y) + 1e-3)
            )


def test_built_in_cells_are_slopes(cell):
    from rnn_gpu.derivatives import check_cell

    check_cell.__wrapped__(cell)

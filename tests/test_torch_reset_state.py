"""States that are given where samples begin anew, in rnn_gpu.torch: by the operators, and by
modules, whose gradients autograd takes.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from conftest import close
from rnn_gpu.bridges.torch.operators import BACKWARD, FORWARD
from rnn_gpu.kernels import LIVE
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.layers import Recurrent

T, B, M, N = 5, 3, 4, 6
KINDS = ("lstm", "gru", "elman_tanh")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(params=[False, True], ids=["ahead", "reverse"])
def reverse(request):
    return request.param


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def tensors(name):
    """x, s0 with given states behind it, U, W, b and c of a cell."""
    cell = CELLS[name]
    G, c = cell.gates, drawn(cell.gates * N) if cell.apart else None
    x, s0 = drawn(T, B, M), drawn(cell.states, 1 + T, B, N)
    return x, s0, drawn(G * N, M), drawn(G * N, N), drawn(G * N), c


def pattern():
    flags = torch.randint(0, 4, (T, B), dtype=torch.uint8)
    flags[0] &= LIVE
    return flags


def how(name, reverse):
    return name, "", reverse, True, True, None, None


@pytest.mark.parametrize(("name", "reverse"), [("lstm", False), ("gru", True)])
def test_operators_take_given_states(name, reverse):
    """Schemas, fake shapes, what AOTAutograd makes of them; and the slope."""
    given, flags, options = tensors(name), pattern(), how(name, reverse)
    torch.library.opcheck(FORWARD, (*given, flags, *options))
    y, last, s, kept = (a.detach() for a in FORWARD(*given, flags, *options))
    assert s.shape[1] == 2 * T + 1
    x, _, U, W, *_ = (a if a is None else a.detach() for a in given)
    back = torch.randn_like(y), torch.randn_like(last), x, U, W, s, kept, flags
    torch.library.opcheck(BACKWARD, (*back, *options))
    some = [a for a in given if a is not None]

    def outputs(*a):
        return FORWARD(*(a if len(a) == 6 else (*a, None)), flags, *options)[:2]

    assert torch.autograd.gradcheck(outputs, some)


@pytest.mark.parametrize("name", KINDS)
def test_operators_give_what_layers_do(name, reverse):
    x, s0, U, W, b, c = tensors(name)
    flags = pattern() | LIVE
    y, last, *_ = FORWARD(x, s0, U, W, b, c, flags, *how(name, reverse))
    dy = torch.randn_like(y)
    dx, ds0 = torch.autograd.grad(y, (x, s0), dy)
    θ = {"U": U, "W": W, "b": b} | ({} if c is None else {"c": c})
    arrays = {key: a.detach().numpy() for key, a in θ.items()}
    options = {"dtype": "float64", "device": "reference", "reverse": reverse}
    layer = Recurrent.of(arrays, CELLS[name], M, N, **options)
    first, *given = np.moveaxis(s0.detach().numpy(), 1, 0)
    given = np.stack(given, 1)
    states = [tuple(a) if len(a) > 1 else a[0] for a in (first, given)]
    expected, _ = layer(
        x.detach().numpy(), states[0], resets=flags.numpy() > 1, reset_state=states[1]
    )
    close(y.detach().numpy(), expected)
    expected, first = layer.backward(dy.numpy())
    close(dx.numpy(), expected)
    whole = np.concatenate(
        [np.reshape(first, (-1, 1, B, N)), np.reshape(layer.dreset_state, (-1, T, B, N))], 1
    )
    close(ds0.numpy(), whole)
    assert ds0[:, 1:].any()

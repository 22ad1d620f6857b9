"""differentiable_twice=True: the slow way, which autograd differentiates as often as asked."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import rnn_gpu
import rnn_gpu.torch as ours
from conftest import close
from rnn_gpu import ArgumentError, UnsupportedError
from torch_pairs import draw, passed

T, B, M, N = 4, 2, 3, 4


def pair(cell, **options):
    """A module on kernels, and the same one that can be differentiated twice."""
    torch.manual_seed(0)
    quick = ours.Recurrent(cell, M, N, dtype=torch.float64, **options)
    slow = ours.Recurrent(cell, M, N, dtype=torch.float64, differentiable_twice=True, **options)
    slow.load_state_dict(quick.state_dict())
    return quick, slow


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru", "elman_tanh", "elman_hard_sigmoid"])
def test_both_ways_agree(cell, masked):
    more = {name: draw(T, B, 1)[..., 0] > 0 for name in ("mask", "resets")} if masked else {}
    quick, slow = pair(cell, num_layers=2, bidirectional=True)
    results = (passed(module, draw(T, B, M), **more) for module in (quick, slow))
    for a, b in zip(*results, strict=True):
        close(a, b, "float64")


@pytest.mark.parametrize("cell", ["lstm", "gru", "elman_tanh", "elman_softplus"])
def test_gradients_have_the_gradients_of_finite_differences(cell):
    _, slow = pair(cell)
    names, θ = zip(*slow.named_parameters(), strict=True)

    def results(x, *θ):
        y, last = torch.func.functional_call(slow, dict(zip(names, θ, strict=True)), (x,))
        return (y, *last) if isinstance(last, tuple) else (y, last)

    given = [draw(T, B, M), *(value.detach() for value in θ)]
    assert torch.autograd.gradgradcheck(results, [a.requires_grad_() for a in given])


def test_packed_sequences_and_projections_go_that_way_too():
    torch.manual_seed(0)
    options = {"dtype": torch.float64, "proj_size": 2}
    quick = ours.LSTM(M, N, **options)
    slow = ours.LSTM(M, N, **options, differentiable_twice=True)
    slow.load_state_dict(quick.state_dict())
    packed = torch.nn.utils.rnn.pack_padded_sequence(draw(T, B, M), torch.tensor([4, 2]))
    for a, b in zip(passed(quick, packed), passed(slow, packed), strict=True):
        close(a, b, "float64")


def test_a_formula_that_takes_no_tensors_is_refused():
    def step(p, q, s):
        z = p[0] + q[0]
        return (z if z > 0.0 else 0.1 * z,), ()

    def back(ds, kept, s, s_next):
        δ = ds[0] if s_next[0] > 0.0 else 0.1 * ds[0]
        return (δ,), (δ,), (0.0,)

    cell = rnn_gpu.cell("sharp", gates=1, states=1, kept=0, step=step, back=back)
    _, slow = pair(cell)
    with pytest.raises(UnsupportedError, match=r"^differentiable_twice=True, but .*'sharp'"):
        slow(draw(T, B, M))


def test_a_number_in_a_formula_keeps_the_dtype():
    def step(p, q, s):
        z = p[0] + q[0]
        return (np.where(z > 0.0, 1.0, 0.1) * z,), ()

    def back(ds, kept, s, s_next):
        δ = ds[0] * np.where(s_next[0] > 0.0, 1.0, 0.1)
        return (δ,), (δ,), (0.0,)

    cell = rnn_gpu.cell("bent", gates=1, states=1, kept=0, step=step, back=back)
    quick, slow = pair(cell)
    for a, b in zip(passed(quick, draw(T, B, M)), passed(slow, draw(T, B, M)), strict=True):
        close(a, b, "float64")
    single = slow.float()(draw(T, B, M).float())[0]
    assert single.dtype == torch.float32


@pytest.mark.parametrize(
    "more", [{"clip_step_norm": 1.0}, {"clip_step_value": 1.0}, {"precision": "tf32"}]
)
def test_what_kernels_alone_do_is_refused_with_it(more):
    (name,) = more
    with pytest.raises(ArgumentError, match=f"^{name} is .*differentiable_twice=True"):
        ours.GRU(M, N, differentiable_twice=True, **more)


def test_it_keeps_no_tape():
    with pytest.raises(UnsupportedError, match=r"^tape=True.*differentiable_twice=True"):
        ours.GRU(M, N, differentiable_twice=True)(draw(T, B, M).float(), tape=True)

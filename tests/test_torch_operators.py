"""The operators that torch.compile, torch.export and torch.func see in place of our modules."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn.utils.rnn import pack_padded_sequence

import rnn_gpu.torch as ours
from rnn_gpu import OrderError, ShapeError, UnsupportedError
from rnn_gpu.bridges import registry
from rnn_gpu.bridges.torch.operators import BACKWARD, FORWARD
from rnn_gpu.kernels import Cell
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.once import forget

T, B, M, N = 5, 3, 4, 6
KINDS = ("lstm", "gru", "elman_tanh")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def tensors(name, *batch, steps=T):
    """x, s0, U, W, b and c of a cell; batch: of x and s0, before their own axes."""
    G, S, apart = CELLS[name].gates, CELLS[name].states, CELLS[name].apart
    weights = drawn(G * N, M), drawn(G * N, N), drawn(G * N), drawn(G * N) if apart else None
    return drawn(*batch, steps, B, M), drawn(*batch, S, B, N), *weights


def pattern(masked):
    """Flags of some steps that do not happen and of some that begin anew, or None."""
    if not masked:
        return None
    flags = torch.randint(0, 4, (T, B), dtype=torch.uint8)
    flags[0] &= 1
    return flags


def how(name, reverse=False, masked=False, clip=None):
    return name, "", reverse, masked, masked, None, clip


EVERY = list(itertools.product(KINDS, (False, True), (False, True)))


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch itself looks at it
@pytest.mark.parametrize(("name", "reverse", "masked"), EVERY[::3])
def test_torch_finds_nothing_wrong(name, reverse, masked):
    """Schemas, shapes of fake tensors, the slope, and what AOTAutograd makes of all that, where T
    and B are free.
    """
    given, flags = tensors(name), pattern(masked)
    options = how(name, reverse, masked, clip=0.5)
    torch.library.opcheck(FORWARD, (*given, flags, *options))
    y, last, s, kept, _ = (a.detach() for a in FORWARD(*given, flags, *options))
    x, _, U, W, *_ = (a if a is None else a.detach() for a in given)
    back = torch.randn_like(y), torch.randn_like(last), x, U, W, s, kept, flags, None
    torch.library.opcheck(BACKWARD, (*back, *options))


@pytest.mark.parametrize(("name", "reverse", "masked"), EVERY)
def test_the_slope_is_that_of_finite_differences(name, reverse, masked):
    flags, given = pattern(masked), [a for a in tensors(name) if a is not None]

    def outputs(*a):
        whole = a if len(a) == 6 else (*a, None)
        return FORWARD(*whole, flags, *how(name, reverse, masked))[:2]

    assert torch.autograd.gradcheck(outputs, given)


@pytest.mark.parametrize("name", KINDS)
def test_results_share_no_memory(name):
    results = [a.detach().numpy() for a in FORWARD(*tensors(name), None, *how(name))]
    for a, b in itertools.combinations(results, 2):
        assert not np.shares_memory(a, b)


def test_a_way_back_counts_what_it_clips():
    given = tensors("gru")
    y, last, s, kept, _ = (a.detach() for a in FORWARD(*given, None, *how("gru")))
    x, _, U, W, *_ = given
    back = torch.randn_like(y), torch.randn_like(last), x, U, W, s, kept, None, None
    counts = [int(BACKWARD(*back, *how("gru", clip=clip))[-1]) for clip in (None, 1e-3)]
    assert counts == [0, T * B]


@pytest.mark.parametrize("which", ["dy", "dlast", "U", "W", "s", "kept"])
def test_a_way_back_refuses_tensors_that_do_not_fit(which):
    given = tensors("lstm")
    y, last, s, kept, _ = (a.detach() for a in FORWARD(*given, None, *how("lstm")))
    x, _, U, W, *_ = given
    back = {"dy": y, "dlast": last, "x": x, "U": U, "W": W, "s": s, "kept": kept}
    for a in back[which].float(), back[which][:, 1:]:
        with pytest.raises((OrderError, ShapeError), match=which):
            BACKWARD(*(back | {which: a}).values(), None, None, *how("lstm"))


def test_a_way_back_has_no_slope():
    x, *others = tensors("lstm")
    y = FORWARD(x, *others, None, *how("lstm"))[0]
    (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(UnsupportedError, match=r"^double backward"):
        dx.sum().backward()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("in_dims", [(0, None), (1, 0), (None, 1)])
def test_examples_that_share_weights_are_samples(name, masked, in_dims, monkeypatch):
    V, (x, s0, *θ), flags = 4, tensors(name), pattern(masked)
    x, s0 = (
        a if dim is None else torch.randn(V, *a.shape).double().movedim(0, dim)
        for a, dim in zip((x, s0), in_dims, strict=True)
    )
    calls = []
    monkeypatch.setattr(
        "rnn_gpu.bridges.torch.operators.one_by_one", lambda *given: calls.append(given)
    )
    f = lambda x, s0: FORWARD(x, s0, *θ, flags, *how(name, masked=masked))[:2]  # noqa: E731
    y, last = torch.func.vmap(f, in_dims)(x, s0)
    for i in range(V):
        one = (a if d is None else a.select(d, i) for a, d in zip((x, s0), in_dims, strict=True))
        for a, b in zip((y[i], last[i]), f(*one), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert not calls


def test_examples_with_weights_of_their_own():
    V, given = 3, tensors("gru")
    stacked = [torch.stack([a * (1 + i) for i in range(V)]).detach() for a in given]
    f = lambda *a: FORWARD(*a, None, *how("gru"))[0]  # noqa: E731
    for i, y in enumerate(torch.func.vmap(f)(*stacked)):
        torch.testing.assert_close(y, f(*(a[i] for a in stacked)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", KINDS)
def test_gradients_of_each_example(name):
    """torch.func's way to them, of x, of the states and of weights that all examples share."""
    V, (_, _, *θ) = 3, tensors(name)
    x, s0, *_ = tensors(name, V)

    def loss(x, s0, U):
        y, last, *_ = FORWARD(x, s0, U, *θ[1:], None, *how(name))
        return (y**2).sum() + last.sin().sum()

    slopes = torch.func.grad(loss, (0, 1, 2))
    found = torch.func.vmap(slopes, (0, 0, None))(x, s0, θ[0])
    for i in range(V):
        for a, b in zip(found, slopes(x[i], s0[i], θ[0]), strict=True):
            torch.testing.assert_close(a[i], b, rtol=0, atol=1e-12)


# Cells by name


def soft(p, q, s):
    return (np.tanh(p[0] + q[0]),), ()


def soft_back(ds, kept, s, s_next):
    δ = ds[0] * (1.0 - s_next[0] * s_next[0])
    return (δ,), (δ,), (0.0,)


def cell_of(step=soft, back=soft_back):
    return Cell("soft", gates=1, states=1, kept=0, step=step, back=back)


def shifted_by(shift):
    def step(p, q, s):
        return (np.tanh(p[0] + q[0] + shift),), ()

    return cell_of(step)


def test_built_in_cells_have_their_own_names():
    assert [ours.register(cell) for cell in CELLS.values()] == list(CELLS)


def test_a_formula_of_the_same_source_has_the_same_name():
    assert ours.register(shifted_by(0.5)) == ours.register(shifted_by(0.5))
    names = {ours.register(cell) for cell in (cell_of(), shifted_by(0.5), shifted_by(0.25))}
    assert len(names) == 3 and all(name.startswith("soft@") for name in names)


def test_a_cell_of_ones_own_goes_by_its_name():
    x, s0, U, W, b, _ = tensors("elman_tanh")
    found = FORWARD(x, s0, U, W, b, None, None, *how(ours.register(cell_of())))
    expected = FORWARD(x, s0, U, W, b, None, None, *how("elman_tanh"))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_cell_that_is_not_here_is_asked_for():
    with pytest.raises(UnsupportedError, match=r"^cell 'soft@none' is not known.*register\(cell\)"):
        FORWARD(*tensors("elman_tanh"), None, *how("soft@none"))


SHIFT = 0.5


def of_a_global(p, q, s):
    return (np.tanh(p[0] + q[0] + SHIFT),), ()


def test_a_formula_that_has_changed_is_not_taken_for_what_it_was(monkeypatch):
    name = ours.register(cell_of(of_a_global))
    monkeypatch.setitem(globals(), "SHIFT", 0.25)
    forget()
    try:
        with pytest.raises(UnsupportedError, match=r"^cell 'soft@.*has changed since"):
            FORWARD(*tensors("elman_tanh"), None, *how(name))
    finally:
        forget()


def test_a_formula_that_cannot_be_told_has_a_name_in_this_process():
    table = np.ones(1)

    def step(p, q, s):
        return (np.tanh(p[0] + q[0]) * table[0],), ()

    cell = cell_of(step)
    name = ours.register(cell)
    assert "of this process" in name
    forget()
    assert ours.register(cell) == name and registry.cell_named(name) is cell


def test_a_name_of_one_process_is_no_others_in_another(monkeypatch):
    table, names = np.ones(1), []
    for sign in 1, -1:

        def step(p, q, s, sign=sign):
            return (np.tanh(p[0] + q[0]) * sign * table[0],), ()

        monkeypatch.setattr(registry, "UNTOLD", {})  # as in a process that has just begun
        names.append(ours.register(cell_of(step)))
    assert names[0] != names[1]  # else a saved program computes another cell in silence


def test_a_default_device_is_not_where_lengths_are():
    module, x = ours.GRU(M, N), pack_padded_sequence(torch.randn(T, B, M), [T, 3, 1])
    expected, _ = module(x)
    torch.set_default_device("meta")
    try:
        assert torch.allclose(module(x)[0].data, expected.data, atol=1e-6)
    finally:
        torch.set_default_device(None)

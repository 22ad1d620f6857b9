"""What our modules for torchrl do without it: which of ours they take, and how a batch over time
goes through all layers.
"""

import pytest

torch = pytest.importorskip("torch")

import rnn_gpu.torch as ours
from rnn_gpu import ArgumentError, OrderError, UnsupportedError
from rnn_gpu.bridges.torch.episodes import Later, checked, over_time

T, B, M, N, L = 6, 3, 4, 5, 2


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: torch.nn.GRU(M, N), ArgumentError, "gru is a GRU, expected a module of rnn_gpu"),
        (lambda: ours.LSTM(M, N), ArgumentError, "gru carries 2 states, expected 1"),
        (lambda: ours.GRU(M, N, bidirectional=True), UnsupportedError, "gru is bidirectional or"),
        (lambda: ours.GRU(M, N, differentiable_twice=True), UnsupportedError, "gru has diff"),
    ],
    ids=["of torch", "of two states", "both ways", "twice"],
)
def test_what_cannot_do_it_is_refused(make, error, message):
    with pytest.raises(error, match=f"^{message}"):
        checked("gru", make(), 1)


def test_projections_are_refused():
    with pytest.raises(UnsupportedError, match=r"^lstm is bidirectional or has a projection"):
        checked("lstm", ours.LSTM(M, N, proj_size=2), 2)


@pytest.fixture
def stretch():
    """(module, x (T, B, m), given (S, L, T, B, n), begins (T, B))"""
    torch.manual_seed(0)
    lstm = ours.LSTM(M, N, L, batch_first=True, dtype=torch.float64, clip_step_norm=1e-3)
    x, given = torch.randn(T, B, M).double(), torch.randn(2, L, T, B, N).double()
    begins = torch.rand(T, B) < 0.4
    begins[0, 0] = True
    return lstm, x, given.requires_grad_(), begins


def test_a_batch_over_time_is_the_modules_call(stretch):
    lstm, x, given, begins = stretch
    found = []
    hx = tuple(given[:, :, 0])
    y, last, every = over_time(lstm, x, given, begins)
    found.append([y, last, *torch.autograd.grad(y.sum() + last.square().sum(), [given])])
    rows_first = {"resets": begins.T, "reset_state": tuple(given.transpose(2, 3))}
    y, last = lstm(x.transpose(0, 1), hx, **rows_first)
    y, last = y.transpose(0, 1), torch.stack(last)
    found.append([y, last, *torch.autograd.grad(y.sum() + last.square().sum(), [given])])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert torch.equal(every[:, :, -1], found[0][1])


def test_nothing_of_an_earlier_call_is_taken_for_it(stretch):
    lstm, x, given, begins = stretch
    lstm(x.transpose(0, 1), tape=True)[0].sum().backward()
    assert lstm.clipped_steps > 0 and len(lstm.tapes) == L

    def nothing_is_left():
        for what in ("tapes", "clipped_steps"):
            with pytest.raises(OrderError, match=r"is known of eager calls alone: .* rnn_gpu\.rl"):
                getattr(lstm, what)

    *_, every = over_time(lstm, x, given, begins)
    nothing_is_left()
    # which calls the module for each step
    Later.apply(lstm, begins, every, x, given, *lstm.parameters()).sum().backward()
    nothing_is_left()

"""Whole training scripts with torch.nn's modules, with ours, and with ours compiled: the same
losses. Skipped without torch.
"""

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnn_gpu.torch as ours

RTOL = {torch.float64: 1e-9, torch.float32: 1e-5}  # of the losses of a run
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def numbers(*shape, high=None, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    if high is not None:
        return torch.randint(0, high, shape, generator=generator)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


class Tagger(nn.Module):
    """A tag for every word of sentences of several lengths."""

    def __init__(self, kinds, words=20, tags=4):
        super().__init__()
        self.embedding = nn.Embedding(words, 6)
        self.lstm = kinds.LSTM(6, 8, 2, bidirectional=True, batch_first=True, dropout=0.2)
        self.scores = nn.Linear(16, tags)

    def forward(self, words, lengths):
        x = self.embedding(words)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.scores(y)


def tag(model, call):
    """Tags are sums of two neighbouring words, modulo 4; padding is not scored."""
    words, lengths = numbers(24, 9, high=20), numbers(24, high=7, seed=1) + 3
    lengths[0] = 9
    tags = (words + words.roll(1, 1)) % 4
    tags[torch.arange(9) >= lengths[:, None]] = -100
    for batch in torch.arange(24).split(8):
        T = int(lengths[batch].max())
        scores = call(words[batch, :T], lengths[batch])
        yield nn.functional.cross_entropy(scores.flatten(0, 1), tags[batch, :T].flatten())


class Translator(nn.Module):
    """An encoder, and a decoder that looks at all it wrote before each of its steps."""

    def __init__(self, kinds, symbols=10, units=8):
        super().__init__()
        self.source, self.target = nn.Embedding(symbols, 5), nn.Embedding(symbols, 5)
        self.encoder = kinds.GRU(5, units, bidirectional=True)
        self.bridge = nn.Linear(2 * units, units)
        self.cell = kinds.LSTMCell(5 + 2 * units, units)
        self.look = nn.Linear(units, 2 * units, bias=False)
        self.scores = nn.Linear(3 * units, symbols)

    def forward(self, source, target):
        memory, last = self.encoder(self.source(source))
        h = torch.tanh(self.bridge(torch.cat([last[0], last[1]], 1)))
        c, scores, context = torch.zeros_like(h), [], memory[-1]
        for word in target:
            h, c = self.cell(torch.cat([self.target(word), context], 1), (h, c))
            weights = torch.einsum("tbn,bn->tb", memory, self.look(h)).softmax(0)
            context = torch.einsum("tb,tbn->bn", weights, memory)
            scores.append(self.scores(torch.cat([h, context], 1)))
        return torch.stack(scores)


def translate(model, call):
    """The same sequence, backwards; the decoder is told what should have come before."""
    source = numbers(6, 24, high=9) + 1
    wanted = source.flip(0)
    told = torch.cat([torch.zeros_like(wanted[:1]), wanted[:-1]])
    for batch in torch.arange(24).split(12):
        scores = call(source[:, batch], told[:, batch])
        yield nn.functional.cross_entropy(scores.flatten(0, 1), wanted[:, batch].flatten())


class Forecaster(nn.Module):
    """Mean and scale of the next value (as DeepAR: Salinas, Flunkert and Gasthaus, 2017)."""

    def __init__(self, kinds):
        super().__init__()
        self.lstm = kinds.LSTM(2, 10, 2)
        self.out = nn.Linear(10, 2)

    def forward(self, x, state):
        y, state = self.lstm(x, state)
        mean, scale = self.out(y).unbind(-1)
        return mean, nn.functional.softplus(scale) + 1e-3, state


def forecast(model, call):
    """A sine with noise, in windows that go on from each other."""
    t = torch.arange(33.0, dtype=torch.float64)
    series = torch.sin(t[:, None] * torch.tensor([0.5, 0.7, 0.9])) + 0.1 * numbers(33, 3)
    series = series.to(model.out.weight.dtype)
    state = (torch.zeros(2, 3, 10, dtype=series.dtype),) * 2
    x = torch.stack([series, series.square()], 2)
    for start in range(0, 32, 8):
        mean, scale, state = call(x[start : start + 8], state)
        state = tuple(part.detach() for part in state)
        to_come = series[start + 1 : start + 9]
        yield nn.functional.gaussian_nll_loss(mean, to_come, scale.square())


SCRIPTS = {
    "tagger": (Tagger, tag, 4),
    "translator": (Translator, translate, 4),
    "forecaster": (Forecaster, forecast, 6),
}


def losses(name, kinds, dtype, compiled=None):
    """Of every update of a script."""
    make, batches, epochs = SCRIPTS[name]
    torch.manual_seed(0)
    model = make(kinds).to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    call = model if compiled is None else compiled(model)
    found = []
    for epoch in range(epochs):
        torch.manual_seed(epoch)
        for loss in batches(model, call):
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            found.append(loss.item())
    return found


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_learns_what_it_learns_with_torch(name, dtype):
    expected = losses(name, nn, dtype)
    assert losses(name, ours, dtype) == pytest.approx(expected, rel=RTOL[dtype])
    assert expected[-1] < 0.98 * expected[0]


# of tensors that dynamo looks at, not of the script
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    "name",
    [
        "forecaster",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("tagger", "translator")),
    ],
)
def test_a_compiled_script_learns_what_it_learns_with_torch(name):
    def compiled(model):
        return torch.compile(model, backend="aot_eager")

    expected = losses(name, nn, torch.float64)
    assert losses(name, ours, torch.float64, compiled) == pytest.approx(expected, rel=1e-9)

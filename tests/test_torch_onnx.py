"""torch.onnx.export of a model that has our modules: ONNX's own operators, with T and B free."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
runtime = pytest.importorskip("onnxruntime")

import rnn_gpu.torch as ours
from rnn_gpu import UnsupportedError

M, N = 3, 5


class Tagger(torch.nn.Module):
    """A recurrent module, and a layer of torch's behind it."""

    def __init__(self, recurrent, width):
        super().__init__()
        self.recurrent, self.dense = recurrent, torch.nn.Linear(width, 2)

    def forward(self, x, mask=None):
        y, last = self.recurrent(x, mask=mask)
        return self.dense(y), last


def exported(model, *given, dynamic=True):
    T, B = torch.export.Dim("T", min=2), torch.export.Dim("B", min=2)
    sizes = ({0: T, 1: B}, *({0: T, 1: B} for _ in given[1:]))
    options = {"dynamo": True, "custom_translation_table": ours.onnx_translations()}
    return torch.onnx.export(model, given, dynamic_shapes=sizes, verbose=False, **options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("build", "width"),
    [
        (lambda: ours.LSTM(M, N, bidirectional=True), 2 * N),
        (lambda: ours.GRU(M, N, 2), N),
        (lambda: ours.RNN(M, N, nonlinearity="softsign"), N),
    ],
    ids=["LSTM", "GRU", "RNN"],
)
def test_the_graph_computes_what_the_model_does(build, width, tmp_path):
    torch.manual_seed(0)
    model = Tagger(build(), width).eval()
    path = str(tmp_path / "model.onnx")
    exported(model, torch.randn(4, 3, M)).save(path)
    session = runtime.InferenceSession(path)
    x = torch.randn(7, 2, M)
    y, last = model(x)
    expected = [y, *(last if isinstance(last, tuple) else (last,))]
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=0, atol=1e-5)


def causes(error):
    while error is not None:
        yield error
        error = error.__cause__


@pytest.mark.filterwarnings("ignore")
def test_what_onnx_has_not_is_refused():
    model, x = Tagger(ours.GRU(M, N), N), torch.randn(4, 3, M)
    with pytest.raises(torch.onnx.OnnxExporterError) as caught:
        exported(model, x, torch.ones(4, 3, dtype=torch.bool))
    assert any(isinstance(one, UnsupportedError) for one in causes(caught.value))

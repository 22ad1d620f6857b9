"""To look at: a network in a table, pictures of training, and what shows itself in a notebook."""

import base64
import re
import sys

import numpy as np
import pytest

import rnn_gpu
from rnn_gpu import GRU, LSTM, ArgumentError, Dense, Dropout, Embedding, Network, stack
from rnn_gpu.bridges import plots
from rnn_gpu.training import History

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 4, 3)).astype("float32")
Y = RNG.integers(0, 2, 8)
ON = {"device": "reference"}


def network(steps="last", dtype="float32"):
    layers = [GRU(3, 5, dtype=dtype, **ON), Dropout(0.5, dtype=dtype, **ON)]
    last = Dense(5, 2, dtype=dtype, **ON)
    return Network([*layers, last], loss="softmax_cross_entropy", steps=steps)


def fit(net=None, **options):
    given = {"epochs": 3, "batch_size": 4, "progress": False, "validation": (X, Y)}
    return (net or network()).fit(X, Y, **given | options)


# In a table


def test_a_summary_has_shapes_parameters_and_bytes():
    net = network(dtype="float64")
    found = net.summary()
    gru, dropout, dense = found.layers
    assert gru.shapes == {"U": (15, 3), "W": (15, 5), "b": (15,), "c": (15,)} and gru.bytes == 1200
    assert (gru.parameters, dropout.parameters, dense.parameters) == (150, 0, 12)
    assert [layer.output for layer in found.layers] == ["(T, B, 5)", "(T, B, 5)", "(T, B, 2)"]
    assert (found.parameters, found.bytes) == (162, 162 * 8)
    assert found.parameters == sum(a.size for a in net.parameters.values())


def test_a_summary_is_a_table():
    head, names, *rows, end = str(network().summary()).splitlines()
    assert head == "Network on reference, float32; loss softmax_cross_entropy, steps last"
    assert names.split() == ["layer", "output", "parameters", "shapes"]
    columns = [row.index("(T, B, ") for row in rows]
    assert columns == [names.index("output")] * 3
    assert rows[0].startswith("0  GRU(3, 5)") and rows[1].startswith("1  Dropout(0.5)")
    assert end == "162 parameters, 648 bytes; predict gives (N, 2)"
    assert repr(network().summary()) == str(network().summary())


@pytest.mark.parametrize(
    "net, output",
    [
        (network("every"), "N of (T, 2)"),
        (Network([Dense(3, 2, **ON)]), "(N, 2)"),
        (Network([Embedding(9, 3, **ON), *stack(LSTM, 3, 4, bidirectional=True, **ON)]), "N of (T"),
    ],
)
def test_a_summary_says_what_predict_gives(net, output):
    assert f"predict gives {output}" in str(net.summary())


# Pictures


def panels(figure):
    return {axis.get_ylabel(): axis for axis in figure.axes}


def test_a_picture_of_training_has_loss_accuracy_norm_and_rate():
    history = fit(learning_rate=rnn_gpu.schedules.cosine(0.1, 6))
    found = panels(rnn_gpu.plot(history))
    assert list(found) == ["loss", "accuracy", "‖∇‖ before clipping", "learning rate"]
    drawn = [list(line.get_ydata()) for line in found["loss"].lines[:2]]
    assert drawn == [history["loss"], history["validation_loss"]]
    assert found["loss"].lines[0].get_xdata().tolist() == [1, 2, 3]
    best = 1 + int(np.argmin(history["validation_loss"]))
    assert list(found["loss"].lines[2].get_xdata()) == [best, best]
    assert list(found["‖∇‖ before clipping"].lines[0].get_ydata()) == history["gradient_norm"]
    assert len(set(history["learning_rate"])) == 3
    assert list(found["learning rate"].lines[0].get_ydata()) == history["learning_rate"]


def test_the_rate_of_an_epoch_is_that_of_its_last_update():
    rate = rnn_gpu.schedules.cosine(0.1, 6)
    assert fit(learning_rate=rate)["learning_rate"] == [rate(k) for k in (1, 3, 5)]
    assert fit(learning_rate=0.25)["learning_rate"] == [0.25] * 3


def test_a_picture_of_less_than_an_epoch():
    history = fit(updates=1, epochs=None)
    assert list(panels(rnn_gpu.plot(history))) == ["loss", "‖∇‖ before clipping"]


def test_what_is_measured_has_a_panel_and_nan_is_no_best():
    norms = {"gradient_norm": [1.0] * 200, "step_loss": [1.0] * 200}
    history = History(loss=[np.nan, 2.0], winter_loss=[3.0, 4.0], **norms)
    found = panels(rnn_gpu.plot(history))
    assert list(found) == ["loss", "winter loss", "‖∇‖ before clipping"]
    assert list(found["loss"].lines[1].get_xdata()) == [2, 2]
    assert len(found["‖∇‖ before clipping"].lines) == 2  # and medians


def test_a_picture_is_written_and_shows_itself(tmp_path):
    figure = rnn_gpu.plot(fit(), tmp_path / "training.png")
    assert (tmp_path / "training.png").read_bytes()[:4] == b"\x89PNG"
    assert figure._repr_png_()[:4] == b"\x89PNG"


def test_a_report_of_gradient_flow_is_plotted_too(tmp_path):
    report = network().gradient_flow(X, Y)
    assert len(rnn_gpu.plot(report, tmp_path / "flow.png").axes) == 3
    assert (tmp_path / "flow.png").exists()


def test_nothing_else_is_plotted():
    for wrong in ([1.0], {"loss": [1.0]}, network()):
        with pytest.raises(ArgumentError, match="expected what fit or gradient_flow returned"):
            rnn_gpu.plot(wrong)


# In a notebook


def test_a_history_and_a_report_show_text_and_picture():
    for made in (fit(), network().gradient_flow(X, Y)):
        found = re.fullmatch(r"<pre>(.*)</pre><img .*base64,(.*)\"/>", made._repr_html_(), re.S)
        text, picture = found.groups()
        assert base64.b64decode(picture)[:4] == b"\x89PNG"
        assert "loss" in text and "<" not in text


@pytest.fixture
def no_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    plots.kind_of_figure.cache_clear()
    yield
    plots.kind_of_figure.cache_clear()


def test_without_matplotlib_the_text_is_shown_and_a_plot_says_what_to_install(no_matplotlib):
    history, report = fit(), network().gradient_flow(X, Y)
    for made in (history, report):
        assert re.fullmatch(r"<pre>.*</pre>", made._repr_html_(), re.S)
        with pytest.raises(ImportError, match=r"pip install 'rnn_gpu\[plot\]'"):
            rnn_gpu.plot(made)


def test_a_history_in_lines():
    history = History(loss=[3.0, 1.0, 2.0], seconds=[])
    shown = "<pre>loss          3  last 2, 1 … 3\nseconds       0</pre>"
    assert plots.html("\n".join(rnn_gpu.outline.series(history)), no_picture) == shown


def no_picture():
    raise ImportError

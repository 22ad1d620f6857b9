"""What training says as it goes on: the bar, the lines that stay, and that they fit."""

import io
import re
import time

import numpy as np
import pytest

from rnn_gpu import GRU, Dense, Network, optimizers
from rnn_gpu.callbacks import Callback, Progress
from rnn_gpu.network import bar
from rnn_gpu.network.progress import best_epoch
from rnn_gpu.training import Samples, Settings, Training

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 4, 3)).astype("float32")
Y = RNG.integers(0, 2, 20)


class Terminal(io.StringIO):
    """A file that says that somebody looks on; `screen` is what is seen there."""

    encoding = "utf-8"

    def isatty(self):
        return True

    def screen(self, columns):
        lines, at = [[]], 0
        for letter in self.getvalue():
            if letter == "\n":
                lines.append([])
            if letter in "\r\n":
                at = 0
                continue
            assert at < columns, "a line is broken"
            lines[-1][at : at + 1] = letter
            at += 1
        return ["".join(line).rstrip() for line in lines]


def network():
    layers = [GRU(3, 5, device="reference"), Dense(5, 2, device="reference")]
    return Network(layers, loss="softmax_cross_entropy", steps="last")


def fit(file, *callbacks, columns=80, **options):
    given = {"epochs": 3, "batch_size": 4, "progress": False, "validation": (X, Y)}
    told = [Progress(file, columns), *callbacks]
    return network().fit(X, Y, callbacks=told, **given | options)


class Seen(Callback):
    """The last line of the screen after each update."""

    def __init__(self, file, columns):
        self.file, self.columns, self.lines = file, columns, []

    def on_update(self, training, update):
        self.lines.append(self.file.screen(self.columns)[-1])


@pytest.fixture
def always(monkeypatch):
    """The bar is drawn after each update."""
    monkeypatch.setattr("rnn_gpu.network.progress.REDRAWN", 0.0)


@pytest.mark.parametrize("columns", [80, 60, 40, 20])
def test_all_lines_fit_the_columns_and_one_of_an_epoch_stays(columns, always):
    """One column is free: a terminal that is full begins another line."""
    file = Terminal()
    seen = Seen(file, columns - 1)
    history = fit(file, seen, columns=columns)
    *kept, last = file.screen(columns - 1)
    assert last == "" and [line[:9] for line in kept] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert len(seen.lines) == 15 and all(line.startswith("epoch ") for line in seen.lines)
    if columns >= 60:
        for line, loss, held_out in zip(
            kept, history["loss"], history["validation_loss"], strict=True
        ):
            assert f"loss {loss:#.4g} (val. {held_out:#.4g})" in line


def test_the_bar_says_loss_norm_and_the_time_that_is_left(always):
    file = Terminal()
    seen = Seen(file, 79)
    history = fit(file, seen, epochs=1)
    losses, norms = history["step_loss"], history["gradient_norm"]
    for k, line in enumerate(seen.lines, 1):
        expected = rf"epoch 1/1  (━*)(─*) +{20 * k}%  loss (\S+)  ‖∇‖ (\S+)  \S+ s left"
        full, empty, loss, norm = re.fullmatch(expected, line).groups()
        assert len(full) == round(k / 5 * len(full + empty))
        assert float(loss) == pytest.approx(np.mean(losses[:k]), rel=1e-3)
        assert float(norm) == pytest.approx(norms[k - 1], rel=1e-3)
    assert seen.lines[-1].endswith("0.0 s left")


def test_the_time_left_is_that_of_all_epochs(always, monkeypatch):
    """A second an update, of 15."""
    clock = iter(range(1000))
    monkeypatch.setattr("rnn_gpu.network.progress.perf_counter", lambda: next(clock))
    file = Terminal()
    seen = Seen(file, 79)
    fit(file, seen)
    left = [re.search(r"(\S+) s left", line)[1] for line in seen.lines]
    assert left == [f"{k:.1f}" for k in range(14, -1, -1)]


def test_the_best_so_far_is_marked(always):
    class Measured(Callback):
        def on_measure(self, training):
            return {"validation_loss": [3.0, np.nan, 2.0, 2.5, 2.0][training.position.epoch]}

    file = Terminal()
    fit(file, Measured(), epochs=5, validation=None)
    marked = [line.endswith("★ best") for line in file.screen(79)[:-1]]
    assert marked == [True, False, True, False, False]
    assert best_epoch({"loss": [2.0, 1.0], "validation_loss": [np.nan, np.nan]}) == 0
    assert best_epoch({"loss": [2.0, 1.0, 1.0]}) == 2


def test_a_log_gets_a_line_an_epoch_and_no_control_characters(always):
    """Whole lines, however long."""
    file = io.StringIO()
    fit(file, columns=20)
    said = file.getvalue()
    assert all(letter == "\n" or letter.isprintable() for letter in said)
    number = r"\d\.\d+(e-\d+)?"
    of_epoch = rf"loss {number} \(val. {number}\)  accuracy {number} \(val. {number}\)  \d+\.\d s"
    lines = said.splitlines()
    assert [re.fullmatch(rf"epoch \d/3  {of_epoch}(  ★ best)?", line) for line in lines].count(
        None
    ) == 0
    assert len(lines) == 3


def test_what_is_done_of_an_epoch_that_ends_early_stays():
    class Stop(Callback):
        def on_update(self, training, update):
            if update.number == 6:
                training.stop()

    for file in (Terminal(), io.StringIO()):
        fit(file, Stop())
        last = file.getvalue().replace("\r", "\n").splitlines()[-1]
        assert last.startswith("epoch 2/3  2 of 5 batches  loss ")


def test_an_error_begins_on_a_line_of_its_own(always):
    class Fail(Callback):
        def on_measure(self, training):
            raise RuntimeError

    file = Terminal()
    with pytest.raises(RuntimeError):
        fit(file, Fail())
    assert file.getvalue().endswith("\n")


def test_signs_are_those_that_the_file_can_hold(always):
    class Plain(Terminal):
        encoding = "ascii"

    file = Plain()
    fit(file)
    assert file.getvalue().isascii() and "* best" in file.getvalue()


def test_updates_in_place_of_epochs(always):
    file = Terminal()
    seen = Seen(file, 79)
    fit(file, seen, epochs=None, updates=7)
    assert file.screen(79)[0].startswith("epoch 1  loss")
    assert seen.lines[4].endswith(" left") and seen.lines[6].endswith("0.0 s left")
    assert file.screen(79)[1].startswith("epoch 2  2 of 5 batches")


def test_batches_whose_number_nobody_knows_are_counted(always):
    def batches(epoch):
        yield from [(X[:10], Y[:10]), (X[10:], Y[10:])]

    file = Terminal()
    seen = Seen(file, 79)
    network().fit(batches, epochs=1, callbacks=[Progress(file, 80), seen], progress=False)
    assert [line[:21] for line in seen.lines] == [f"epoch 1/1  batch {k}  l" for k in (1, 2)]


def test_drawing_is_limited_in_time(monkeypatch):
    """Many updates, few drawings."""
    clock = (k / 1000 for k in range(100_000))  # a millisecond an update
    monkeypatch.setattr("rnn_gpu.network.progress.perf_counter", lambda: next(clock))
    file = Terminal()
    fit(file, epochs=20, batch_size=1)
    drawings = len(re.findall(r"\r[^\r\n]*%", file.getvalue()))
    assert 3 <= drawings <= 5  # of 400 updates


def test_an_update_costs_microseconds():
    told, net = Progress(io.StringIO()), network()
    training = Training(net, Samples(net, X, Y), optimizers.Adam(), Settings(batch_size=4))
    update = next(iter(training))
    told.on_begin(training)
    begun = time.perf_counter()
    for _ in range(10_000):
        told.on_update(training, update)
    assert time.perf_counter() - begun < 1.0  # 100 µs each would be


def test_a_notebook_shows_the_bar_in_the_output_of_the_cell(always, monkeypatch, capsys):
    monkeypatch.setattr("rnn_gpu.network.progress.in_notebook", lambda: True)
    fit(None)
    out, err = capsys.readouterr()
    assert err == "" and "\repoch 1/3  ━" in out and out.endswith("\n")


@pytest.mark.parametrize(
    "seconds, said",
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1:00"), (102, "1:42"), (7302, "2:01:42")],
)
def test_seconds_in_words(seconds, said):
    assert bar.duration(seconds) == said


def test_numbers_that_are_held_out_stand_beside_their_like():
    numbers = {"loss": 1.0, "validation_loss": 2.0, "validation_f1": 0.5, "winter_loss": 1e-9}
    expected = ["loss 1.000 (val. 2.000)", "validation_f1 0.5000", "winter_loss 1.000e-09"]
    assert bar.named(numbers) == expected

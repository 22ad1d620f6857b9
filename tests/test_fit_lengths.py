"""How long `fit` trains and how fast it learns: updates, schedules, shares that are held out, and
callbacks that stop.  Each is compared with what it stands for, and goes on from a checkpoint.
"""

import csv
import sys
from types import ModuleType

import numpy as np
import pytest

from door import refuses
from rnn_gpu import GRU, ArgumentError, Dense, Network, optimizers, schedules
from rnn_gpu.callbacks import BestModel, Callback, CSVLog, EarlyStopping, ReduceOnPlateau
from rnn_gpu.training import Samples, held_out, train_step

RNG = np.random.default_rng(0)
X = [RNG.normal(size=(T, 3)).astype("float32") for T in (4, 7, 5, 6, 3, 7, 5)]
Y = [RNG.integers(0, 2, len(x)) for x in X]
BATCHES = 3


def network():
    layers = [GRU(3, 5, device="reference"), Dense(5, 2, device="reference")]
    return Network(layers, loss="softmax_cross_entropy")


def fit(net, *callbacks, x=X, y=Y, **options):
    given = {"batch_size": 3, "progress": False, "callbacks": list(callbacks)}
    return net.fit(x, y, **given | options)


def bits(net):
    return b"".join(net.parameters[name].tobytes() for name in sorted(net.parameters))


def same(history, other):
    """Are two histories the same, but for seconds?"""
    without = [
        {name: values for name, values in one.items() if "seconds" not in name}
        for one in (history, other)
    ]
    assert without[0] == without[1]
    return True


class StopAfter(Callback):
    """Ends training by an error, as a kill would, after an update."""

    def __init__(self, number):
        self.number = number

    def on_update(self, training, update):
        if update.number == self.number:
            raise KeyboardInterrupt


def in_two(path, number, make, **options):
    """(history, network) of a run that is killed after an update and goes on from its checkpoint
    in another process' stead: nothing but the file is handed on.
    """
    kept, killed = {"checkpoint": path, "checkpoint_every": 1}, [*make(), LateKill(number)]
    with pytest.raises(KeyboardInterrupt):
        fit(network(), *killed, **options | kept)
    net = network()
    return fit(net, *make(), resume=path, **options), net


class LateKill(Callback):
    """Ends training by an error at the gradients of the update behind: the checkpoint of the one
    before is written.
    """

    def __init__(self, number):
        self.number = number

    def on_gradients(self, training, number):
        if number == self.number + 1:
            raise KeyboardInterrupt


# Updates


@pytest.mark.parametrize("updates", [1, BATCHES, BATCHES + 1, 2 * BATCHES + 2])
def test_so_many_updates_are_the_first_of_more_epochs(updates):
    net, twin = network(), network()
    history = fit(net, updates=updates)
    with pytest.raises(KeyboardInterrupt):
        fit(twin, StopAfter(updates - 1), epochs=9)
    assert len(history["step_loss"]) == updates
    assert len(history.get("loss", ())) == updates // BATCHES
    assert bits(net) == bits(twin)


def test_whole_epochs_of_updates_are_epochs():
    net, twin = network(), network()
    assert same(fit(net, updates=2 * BATCHES), fit(twin, epochs=2))
    assert bits(net) == bits(twin)


@pytest.mark.parametrize("first", [2, BATCHES, 5])
def test_more_updates_go_on_from_fewer(first, tmp_path):
    path, net, twin = tmp_path / "checkpoint", network(), network()
    fit(network(), updates=first, checkpoint=path)
    assert same(fit(net, updates=8, resume=path), fit(twin, updates=8))
    assert bits(net) == bits(twin)


def test_a_batch_of_several_updates_is_done_whole(tmp_path):
    path, options = tmp_path / "checkpoint", {"truncate": (2, 3)}
    net, twin = network(), network()
    assert len(fit(network(), updates=1, checkpoint=path, **options)["step_loss"]) > 1
    assert same(fit(net, epochs=2, resume=path, **options), fit(twin, epochs=2, **options))


def test_ten_epochs_where_nothing_is_said():
    assert len(fit(network())["loss"]) == 10


# Learning rates


def rate(update):
    return 0.1 / (1 + update)


@pytest.mark.parametrize("optimizer", [optimizers.SGD, optimizers.Adam])
def test_a_function_is_the_rate_set_by_hand(optimizer):
    net, twin, by_hand = network(), network(), optimizer(9.0)
    name = optimizer.__name__.lower()
    fit(net, optimizer=name, learning_rate=rate, epochs=2, shuffle=False)
    batches = [*Samples(twin, X, Y).batches(3)] * 2
    for number, batch in enumerate(batches):
        by_hand.learning_rate = rate(number)
        train_step(twin, batch, by_hand)
    assert bits(net) == bits(twin)
    assert by_hand.steps == 2 * BATCHES


@pytest.mark.parametrize("number", [0, 2, 4])
def test_a_function_goes_on_from_a_checkpoint(number, tmp_path):
    options = {"learning_rate": schedules.cosine(0.1, 6), "epochs": 2}
    history, net = in_two(tmp_path / "checkpoint", number, list, **options)
    twin = network()
    assert same(history, fit(twin, **options)) and bits(net) == bits(twin)


def test_a_rate_that_is_none_is_named_and_no_weight_changes():
    net = network()
    weights = []

    def falls(update):
        weights.append(bits(net))
        return 0.1 if update < 2 else np.nan

    refuses(
        ArgumentError,
        r"^learning_rate\(2\) is nan, expected a number from 0",
        lambda: fit(net, learning_rate=falls),
    )
    assert bits(net) == weights[-1] and len(set(weights)) == 3


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (schedules.warm_up(1.0, 4), [0.25, 0.5, 0.75, 1, 1, 1]),
        (schedules.cosine(2.0, 4), [2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5, 0, 0]),
        (schedules.cosine(2.0, 2, lowest=1.0), [2, 1.5, 1, 1, 1, 1]),
        (schedules.steps(1.0, [1, 4], factor=0.5), [1, 0.5, 0.5, 0.5, 0.25, 0.25]),
        (schedules.warm_up(schedules.steps(1.0, [3]), 2), [0.5, 1, 1, 0.1, 0.1, 0.1]),
        (schedules.steps(schedules.cosine(2.0, 2), [1]), [2, 0.1, 0, 0, 0, 0]),
        (schedules.warm_up(lambda update: update, 2), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_schedules_are_what_they_say(schedule, expected):
    assert [schedule(update) for update in range(6)] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.warm_up(-1, 3), "rate is -1, expected a number from 0"),
        (lambda: schedules.warm_up(1.0, 0), "updates is 0, expected an integer of at least 1"),
        (lambda: schedules.cosine(1.0, 2, lowest=-1), "lowest is -1, expected a number from 0"),
        (lambda: schedules.steps(1.0, []), "at is a list, expected a list of updates' numbers"),
        (lambda: schedules.steps(1.0, [3, 2]), r"at is \[3, 2\], expected numbers that rise"),
        (lambda: schedules.steps(1.0, [1.5]), r"at\[0\] is 1.5, expected an integer"),
        (lambda: schedules.steps(lambda u: "much", [1]), r"rate\(0\) is 'much', expected"),
    ],
)
def test_schedules_check_themselves(make, message):
    refuses(ArgumentError, f"^{message}", make)


# A share that is held out


@pytest.mark.parametrize("share", [0.01, 0.3, 0.99])
def test_a_share_is_the_pair_that_it_stands_for(share):
    trained, held = held_out(len(X), share, 5)
    parts = [[[a[i] for i in chosen] for a in (X, Y)] for chosen in (trained, held)]
    (x, y), pair = parts
    net, twin = network(), network()
    history = fit(net, validation=share, seed=5, epochs=3)
    assert same(history, fit(twin, x=x, y=y, validation=tuple(pair), seed=5, epochs=3))
    assert bits(net) == bits(twin)


def test_what_is_held_out_is_never_trained_on():
    _, held = held_out(len(X), 0.3, 0)
    x = [a + np.float32(100) if i in held else a for i, a in enumerate(X)]
    net, twin = network(), network()
    fit(net, validation=0.3, epochs=2)
    fit(twin, x=x, validation=0.3, epochs=2)
    assert bits(net) == bits(twin)


def test_every_sample_is_on_one_side_and_the_seed_says_on_which():
    found = set()
    for seed in range(9):
        trained, held = held_out(10, 0.25, seed)
        assert sorted(trained + held) == list(range(10)) and len(held) == 2
        assert trained == sorted(trained) and held == sorted(held)
        found.add(tuple(held))
    assert len(found) > 5


def test_a_share_of_one_sample_is_refused():
    message = "^validation is 0.5, a share of 1 sample: nothing would be left"
    refuses(ArgumentError, message, lambda: fit(network(), x=X[:1], y=Y[:1], validation=0.5))


def test_another_share_is_other_data_for_a_checkpoint(tmp_path):
    path = tmp_path / "checkpoint"
    fit(network(), epochs=1, validation=0.3, checkpoint=path)
    for other in ({}, {"validation": 0.5}):
        with pytest.raises(ArgumentError, match=r"^resume is"):
            fit(network(), epochs=2, resume=path, **other)


# Callbacks that compare epochs


class Measures(Callback):
    """Gives numbers that were given, and keeps the weights of each epoch."""

    def __init__(self, *numbers):
        self.numbers, self.weights = numbers, []

    def on_measure(self, training):
        self.weights.append(bits(training.network))
        return {"number": self.numbers[training.position.epoch]}


NUMBERS = (5.0, 3.0, 4.0, 2.95, np.nan, 3.0, 9.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("options", "epochs", "best"),
    [
        ({"patience": 3}, 7, 4),
        ({"patience": 1}, 3, 2),
        ({"patience": 4}, 10, 8),
        ({"patience": 2, "smallest_change": 0.1}, 4, 2),
        ({"patience": 3, "mode": "max"}, 4, 1),
    ],
)
@pytest.mark.parametrize("restore_best", [True, False])
def test_training_stops_where_nothing_gets_better(options, epochs, best, restore_best):
    net, measures = network(), Measures(*NUMBERS)
    stops = EarlyStopping("number", restore_best=restore_best, **options)
    history = fit(net, measures, stops, epochs=10)
    assert len(history["loss"]) == epochs and stops.epoch == best
    assert bits(net) == measures.weights[(best if restore_best else epochs) - 1]


@pytest.mark.parametrize("number", [2, 7, 11, 19])
@pytest.mark.parametrize("make", [BestModel, EarlyStopping, ReduceOnPlateau])
def test_what_compares_epochs_goes_on_from_a_checkpoint(make, number, tmp_path):
    patience = {} if make is BestModel else {"patience": 3}

    def callbacks():
        return [Measures(*NUMBERS), make("number", **patience)]

    history, net = in_two(tmp_path / "checkpoint", number, callbacks, epochs=9)
    twin, (measures, compares) = network(), callbacks()
    expected = fit(twin, measures, compares, epochs=9)
    assert same(
        {name: [f"{x}" for x in values] for name, values in history.items()},
        {name: [f"{x}" for x in values] for name, values in expected.items()},
    )
    assert bits(net) == bits(twin)


def test_a_run_that_was_stopped_does_not_go_on(tmp_path):
    path, net = tmp_path / "checkpoint", network()
    stops = EarlyStopping("number", patience=3)
    fit(net, Measures(*NUMBERS), stops, epochs=10, checkpoint=path)
    again = network()
    history = fit(again, Measures(*NUMBERS), stops, epochs=10, resume=path)
    assert len(history["loss"]) == 7 and bits(again) == bits(net)


def test_the_best_of_before_is_unknown_where_nobody_kept_it(tmp_path):
    path = tmp_path / "checkpoint"
    fit(network(), Measures(*NUMBERS), epochs=3, checkpoint=path)
    net, measures = network(), Measures(*NUMBERS)
    best = BestModel("number")
    fit(net, measures, best, epochs=7, resume=path)
    assert best.epoch == 4 and bits(net) == measures.weights[0]


def test_a_plateau_reduces_the_rate():
    adam = optimizers.Adam(0.8)
    reduces = ReduceOnPlateau("number", factor=0.5, patience=2, lowest=0.25)
    history = fit(network(), Measures(1, 1, 1, 1, 0, 0, 0, 0, 0), reduces, optimizer=adam, epochs=9)
    assert history["learning_rate"] == [0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.4, 0.25, 0.25]
    assert adam.learning_rate == 0.8


def test_a_plateau_is_the_same_rate_set_by_hand():
    class Sets(Callback):
        def on_epoch(self, training):
            if training.position.epoch == 2:
                training.optimizer.learning_rate *= 0.1

    net, twin = network(), network()
    reduces = ReduceOnPlateau("number", factor=0.1, patience=1)
    fit(net, Measures(1, 1, 0, -1), reduces, learning_rate=0.1, epochs=4)
    fit(twin, Sets(), learning_rate=0.1, epochs=4)
    assert bits(net) == bits(twin)


def test_a_rate_that_cannot_be_reduced_is_refused():
    message = "^learning_rate is a function of the update's number, which ReduceOnPlateau cannot"
    reduces = ReduceOnPlateau("loss")
    refuses(ArgumentError, message, lambda: fit(network(), reduces, learning_rate=rate))
    message = "^lowest is 0.5, but learning_rate is 0.1"
    high = ReduceOnPlateau("loss", lowest=0.5)
    refuses(ArgumentError, message, lambda: fit(network(), high, learning_rate=0.1))


@pytest.mark.parametrize("make", [EarlyStopping, ReduceOnPlateau])
def test_callbacks_check_what_they_are_given(make):
    for name, value in (("patience", 0), ("smallest_change", -1), ("mode", "best")):
        refuses(ArgumentError, f"^{name} is ", lambda n=name, v=value: make(**{n: v}))
    message = "^metric is 'validation_loss', which nothing measures: there are loss, accuracy"
    refuses(ArgumentError, message, lambda: fit(network(), make()))


@pytest.mark.parametrize(("name", "value"), [("factor", 1), ("lowest", -1), ("factor", "half")])
def test_a_plateau_checks_what_it_is_given(name, value):
    refuses(ArgumentError, f"^{name} is ", lambda: ReduceOnPlateau(**{name: value}))


# Callbacks that write


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_log_has_a_line_for_each_epoch(tmp_path):
    path = tmp_path / "log.csv"
    history = fit(network(), CSVLog(path), validation=0.3, epochs=3)
    lines = table(path)
    assert [line.pop("epoch") for line in lines] == ["1", "2", "3"]
    names = ["loss", "accuracy", "learning_rate", "validation_loss", "validation_accuracy"]
    names.append("seconds")
    assert list(lines[0]) == names
    for name in names:
        assert [float(line[name]) for line in lines] == history[name]


def test_a_log_goes_on_and_a_column_that_came_late_is_empty_before(tmp_path):
    checkpoint, path = tmp_path / "checkpoint", tmp_path / "log.csv"
    fit(network(), epochs=2, checkpoint=checkpoint)
    history = fit(
        network(), Measures(*NUMBERS), CSVLog(path), epochs=3, resume=checkpoint, updates=None
    )
    lines = table(path)
    assert [line["number"] for line in lines] == ["", "", "4.0"]
    assert [float(line["loss"]) for line in lines] == history["loss"]


def test_a_log_that_cannot_be_written_is_named_before(tmp_path):
    place = tmp_path / "no" / "log.csv"
    refuses(ArgumentError, "^path is .*, where no file can be written", lambda: CSVLog(place))


class Writer:
    """What torch.utils.tensorboard.SummaryWriter is asked for."""

    def __init__(self, folder, purge_step=None):
        self.made, self.said, self.closed = (folder, purge_step), [], False
        WRITERS.append(self)

    def add_scalar(self, name, value, step):
        self.said.append((name, value, step))

    def flush(self):
        pass

    def close(self):
        self.closed = True


WRITERS: list[Writer] = []


def tensorboard(monkeypatch, module):
    WRITERS.clear()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    from rnn_gpu.callbacks import TensorBoard

    return TensorBoard


def test_tensorboard_is_told_every_number(monkeypatch, tmp_path):
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    board, path = tensorboard(monkeypatch, module), tmp_path / "checkpoint"
    history = fit(network(), board(tmp_path), epochs=2, validation=0.3, checkpoint=path)
    (writer,) = WRITERS
    assert writer.made == (str(tmp_path), None) and writer.closed
    updates = len(history["step_loss"])
    found = {name: [(v, s) for n, v, s in writer.said if n == name] for name, *_ in writer.said}
    assert found["step_loss"] == list(zip(history["step_loss"], range(updates), strict=True))
    ends = (updates // 2 - 1, updates - 1)
    assert found["validation_loss"] == list(zip(history["validation_loss"], ends, strict=True))
    fit(network(), board(tmp_path), epochs=3, validation=0.3, resume=path)
    assert WRITERS[1].made == (str(tmp_path), updates)
    assert min(step for *_, step in WRITERS[1].said) == updates


def test_where_there_is_no_tensorboard_it_says_so(monkeypatch, tmp_path):
    board = tensorboard(monkeypatch, None)
    with pytest.raises(ImportError, match=r"^TensorBoard needs the packages torch and tensorboard"):
        board(tmp_path)

"""Training by hand, and callbacks: what they are told, in which order; stopping; the best model."""

import numpy as np
import pytest

from door import refuses
from rnn_gpu import GRU, ArgumentError, Dense, Network, OrderError, load, optimizers
from rnn_gpu.callbacks import BestModel, Callback, Validation
from rnn_gpu.training import Samples, Settings, Training, train_step

RNG = np.random.default_rng(0)
X = [RNG.normal(size=(T, 3)).astype("float32") for T in (4, 7, 5, 6, 3, 7, 5)]
Y = [RNG.integers(0, 2, len(x)) for x in X]
BATCHES = 3


def network():
    layers = [GRU(3, 5, device="reference"), Dense(5, 2, device="reference")]
    return Network(layers, loss="softmax_cross_entropy")


def fit(net, *callbacks, **options):
    given = {"epochs": 2, "batch_size": 3, "progress": False, "callbacks": list(callbacks)}
    return net.fit(X, Y, **given | options)


def bits(net):
    return b"".join(net.parameters[name].tobytes() for name in sorted(net.parameters))


def without_seconds(history):
    return {name: values for name, values in history.items() if "seconds" not in name}


class Told(Callback):
    """Writes down what it is told."""

    def __init__(self, into=None, name=""):
        self.said = [] if into is None else into
        self.name = name

    def say(self, *words):
        self.said.append((self.name, *words) if self.name else words)

    def on_begin(self, training):
        self.say("begin", bits(training.network))

    def on_gradients(self, training, number):
        self.say("gradients", number, bits(training.network))

    def on_update(self, training, update):
        self.say("update", update.number, bits(training.network))

    def on_measure(self, training):
        self.say("measure", training.position.epoch)

    def on_epoch(self, training):
        self.say("epoch", training.position.epoch, len(training.history["loss"]))

    def on_end(self, training, error):
        self.say("end", error)


class Stop(Callback):
    """Stops at an update, or after an epoch."""

    def __init__(self, update=None, epoch=None):
        self.update, self.epoch = update, epoch

    def on_update(self, training, update):
        if update.number == self.update:
            training.stop()

    def on_epoch(self, training):
        if training.position.epoch == self.epoch:
            training.stop()


# What callbacks are told


def test_callbacks_are_told_in_their_order():
    told = Told()
    fit(network(), told)
    names = [name for name, *_ in told.said]
    an_epoch = ["gradients", "update"] * BATCHES + ["measure", "epoch"]
    assert names == ["begin", *an_epoch, *an_epoch, "end"]
    numbers = [rest[0] for name, *rest in told.said if name == "update"]
    assert numbers == list(range(2 * BATCHES))
    assert [rest for name, *rest in told.said if name == "epoch"] == [[1, 1], [2, 2]]
    assert told.said[-1] == ("end", None)


def test_no_weight_has_changed_when_gradients_are_told():
    told = Told()
    fit(network(), told, epochs=1)
    weights = [rest[-1] for name, *rest in told.said if name in ("begin", "gradients", "update")]
    before, after = weights[1::2], weights[2::2]
    assert [weights[0], *after[:-1]] == before
    assert len(set(after)) == BATCHES


def test_several_are_told_one_after_the_other_and_of_the_end_in_the_opposite_order():
    said: list = []
    fit(network(), Told(said, "a"), Told(said, "b"), epochs=1)
    assert [who for who, name, *_ in said if name == "update"] == ["a", "b"] * BATCHES
    assert [who for who, name, *_ in said if name == "end"] == ["b", "a"]


def test_what_a_callback_raises_ends_training_and_is_told():
    class Raises(Callback):
        def on_update(self, training, update):
            raise KeyboardInterrupt

    told = Told()
    with pytest.raises(KeyboardInterrupt):
        fit(network(), told, Raises())
    name, error = told.said[-1]
    assert name == "end" and type(error) is KeyboardInterrupt


def test_the_end_is_told_to_those_alone_that_have_begun():
    class Fails(Told):
        def on_begin(self, training):
            raise RuntimeError("not today")

    said: list = []
    with pytest.raises(RuntimeError, match="not today"):
        fit(network(), Told(said, "a"), Fails(said, "b"), Told(said, "c"))
    assert [(who, name) for who, name, *_ in said] == [("a", "begin"), ("a", "end")]


def test_what_is_measured_goes_into_the_history_and_the_checkpoint(tmp_path):
    class Size(Callback):
        def on_measure(self, training):
            return {"size": np.float32(len(training.history["step_loss"]))}

    path = tmp_path / "checkpoint"
    history = fit(network(), Size(), validation=(X, Y), checkpoint=path)
    assert history["size"] == [BATCHES, 2 * BATCHES]
    names = list(history)
    assert names[-4:] == ["validation_loss", "validation_accuracy", "size", "seconds"]
    again = fit(network(), Size(), validation=(X, Y), resume=path, epochs=3)
    assert again["size"] == [BATCHES, 2 * BATCHES, 3 * BATCHES]


def test_several_sets_are_held_out():
    net = network()
    history = fit(net, Validation(Samples(net, X[:2], Y[:2]), name="winter"), validation=(X, Y))
    assert history["winter_loss"][-1] == net.evaluate(X[:2], Y[:2], batch_size=3)["loss"]
    assert history["validation_loss"][-1] == net.evaluate(X, Y, batch_size=3)["loss"]


@pytest.mark.parametrize("name", ["loss", "step_loss", "validation_loss"])
def test_what_is_there_is_not_measured_over(name):
    class Loss(Callback):
        def on_measure(self, training):
            return {name: 0.0}

    message = f"^Loss measures '{name}', which is there"
    refuses(ArgumentError, message, lambda: fit(network(), Loss(), validation=(X, Y)))


def test_a_callback_that_looks_at_tapes_has_them():
    class Norms(Callback):
        tapes = True
        found = ()

        def on_gradients(self, training, number):
            self.found += (training.network.tapes[0].weight_gradient_norms.sum(),)

    looks, watched = Norms(), []
    fit(network(), looks)
    fit(
        network(),
        watch=lambda net, _: watched.append(net.tapes[0].weight_gradient_norms.sum()),
    )
    assert list(looks.found) == watched and len(watched) == 2 * BATCHES
    message = "^memory_budget is given, and a callback with tapes, which"
    refuses(ArgumentError, message, lambda: fit(network(), Norms(), memory_budget="1GB"))


def test_a_callback_may_set_the_learning_rate():
    class Halve(Callback):
        def on_gradients(self, training, number):
            training.optimizer.learning_rate = 0.1 / 2**number

    net, twin = network(), network()
    fit(net, Halve(), optimizer="sgd", learning_rate=9.0, epochs=1, shuffle=False)
    for number, batch in enumerate(Samples(twin, X, Y).batches(3)):
        train_step(twin, batch, optimizers.SGD(0.1 / 2**number))
    assert bits(net) == bits(twin)


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (print, "callbacks is a builtin_function_or_method, expected a list of them"),
        ([print], r"callbacks\[0\] is a builtin_function_or_method, expected a Callback"),
        ([Callback(), Callback], r"callbacks\[1\] is a type, expected a Callback"),
    ],
)
def test_what_is_no_callback_is_refused(callbacks, message):
    net = network()
    before = bits(net)
    refuses(ArgumentError, f"^{message}", lambda: fit(net, callbacks=callbacks))
    assert bits(net) == before


# Stopping


def test_training_that_is_stopped_after_an_epoch_is_a_shorter_one():
    net, twin = network(), network()
    history = fit(net, Stop(epoch=2), epochs=9)
    assert without_seconds(history) == without_seconds(fit(twin, epochs=2))
    assert bits(net) == bits(twin)


@pytest.mark.parametrize("update", [3, 4])
def test_training_that_is_stopped_within_an_epoch_goes_on_from_its_checkpoint(update, tmp_path):
    net, twin, path = network(), network(), tmp_path / "checkpoint"
    history = fit(net, Stop(update=update), epochs=3, checkpoint=path)
    assert len(history["step_loss"]) == update + 1 and len(history["loss"]) == 1
    history = fit(net := network(), epochs=3, resume=path)
    assert without_seconds(history) == without_seconds(fit(twin, epochs=3))
    assert bits(net) == bits(twin)


def test_stopping_at_the_last_batch_of_an_epoch_ends_the_epoch():
    history = fit(network(), Stop(update=BATCHES - 1), epochs=3)
    assert len(history["step_loss"]) == BATCHES and len(history["loss"]) == 1


def test_a_batch_of_several_updates_is_done_before_training_stops(tmp_path):
    net, twin, path = network(), network(), tmp_path / "checkpoint"
    options = {"truncate": (2, 3), "epochs": 2}
    history = fit(net, Stop(update=0), checkpoint=path, **options)
    assert len(history["step_loss"]) > 1
    history = fit(net := network(), resume=path, **options)
    assert without_seconds(history) == without_seconds(fit(twin, **options))
    assert bits(net) == bits(twin)


# Training by hand


def by_hand(net, **settings):
    samples, optimizer = Samples(net, X, Y), optimizers.Adam()
    return Training(net, samples, optimizer, Settings(batch_size=3, **settings))


@pytest.mark.parametrize("truncate", [None, (2, 3)])
def test_a_loop_by_hand_is_fit(truncate):
    net, twin = network(), network()
    training = by_hand(net, epochs=2, truncate=truncate)
    updates = list(training)
    history = fit(twin, truncate=truncate)
    assert [update.loss for update in updates] == history["step_loss"]
    assert [update.gradient_norm for update in updates] == history["gradient_norm"]
    assert [update.number for update in updates] == list(range(len(updates)))
    ends = [(update.epoch, update.batch) for update in updates if update.ends_batch]
    assert ends == [(epoch, batch) for epoch in range(2) for batch in range(BATCHES)]
    assert without_seconds(training.history) == without_seconds(history)
    assert list(training.history) == list(history)
    assert bits(net) == bits(twin)


def test_a_loop_that_was_left_goes_on_where_it_stopped():
    net, twin = network(), network()
    training = by_hand(net, epochs=2)
    for update in training:
        if update.number == 1:
            break
    assert len(training.history["step_loss"]) == 2
    list(training)
    assert without_seconds(training.history) == without_seconds(fit(twin))
    assert bits(net) == bits(twin)


def test_a_loop_by_hand_keeps_checkpoints_that_fit_goes_on_from(tmp_path):
    net, twin, path = network(), network(), tmp_path / "checkpoint"
    training = by_hand(net, epochs=2)
    for update in training:
        if update.number == 3:
            training.save(path)
    history = fit(net := network(), resume=path)
    assert without_seconds(history) == without_seconds(fit(twin))
    again = by_hand(network(), epochs=2)
    again.resume(path)
    assert [update.number for update in again] == [4, 5]
    assert bits(net) == bits(twin) == bits(again.network)


def test_a_network_has_one_loop_at_a_time():
    net = network()
    updates = iter(by_hand(net))
    next(updates)
    refuses(OrderError, "^fit: this network is in fit already", lambda: fit(net))
    refuses(OrderError, "^fit: this network is in fit already", lambda: list(by_hand(net)))
    updates.close()
    fit(net)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0, expected an integer of at least 1"),
        ({"batch_size": 2.5}, "batch_size is 2.5, expected an integer"),
        ({"clip_norm": -1}, "clip_norm is -1, expected a number above 0"),
        ({"clip_step_value": "no"}, "clip_step_value is 'no', expected a number above 0"),
        ({"truncate": (3, 2)}, r"truncate is \(3, 2\), expected k1 <= k2"),
        ({"shuffle": 1}, "shuffle is 1, expected True or False"),
        ({"seed": None}, "seed is None, expected an integer"),
        ({"memory_budget": "1 pound"}, "memory_budget is '1 pound', expected bytes"),
        ({"memory_budget": "1GB", "truncate": (2, 2)}, "memory_budget is given, and truncate"),
    ],
)
def test_settings_check_themselves(settings, message):
    refuses(ArgumentError, f"^{message}", lambda: Settings(**settings))


def test_samples_of_another_network_are_refused():
    samples = Samples(network(), X, Y)
    message = "^samples are of another network"
    refuses(ArgumentError, message, lambda: Training(network(), samples, optimizers.Adam()))


def test_settings_do_not_change():
    with pytest.raises(AttributeError):
        Settings().epochs = 3


# The best model


class Falls(Callback):
    """Measures numbers that were given."""

    def __init__(self, *numbers):
        self.numbers, self.weights = numbers, []

    def on_measure(self, training):
        self.weights.append(bits(training.network))
        return {"number": self.numbers[training.position.epoch]}


@pytest.mark.parametrize(
    ("mode", "numbers", "epoch"),
    [
        (None, (3.0, 1.0, 2.0), 2),
        ("min", (3.0, 1.0, 1.0), 2),
        ("max", (1.0, 3.0, 2.0), 2),
        ("min", (np.nan, 5.0, np.nan), 2),
        ("max", (-np.inf, 0.0, 0.0), 2),
        ("min", (1.0, 2.0, 3.0), 1),
    ],
)
def test_the_best_model_comes_back(mode, numbers, epoch, tmp_path):
    net, measures, path = network(), Falls(*numbers), tmp_path / "best"
    best = BestModel("number", mode=mode, path=path)
    fit(net, measures, best, epochs=3)
    assert (best.epoch, best.value) == (epoch, numbers[epoch - 1])
    assert bits(net) == measures.weights[epoch - 1] == bits(load(path, device="reference"))
    assert len(set(measures.weights)) == 3


def test_accuracy_is_best_where_it_is_highest():
    assert BestModel("validation_accuracy").mode == "max"
    assert BestModel().mode == BestModel("validation_loss").mode == "min"


def test_the_best_model_is_there_where_an_error_ended_training():
    class Raises(Callback):
        def on_epoch(self, training):
            if training.position.epoch == 3:
                raise KeyboardInterrupt

    net, measures, best = network(), Falls(3, 1, 2), BestModel("number")
    with pytest.raises(KeyboardInterrupt):
        fit(net, measures, best, Raises(), epochs=4)
    assert bits(net) == measures.weights[2]
    best.restore(net)
    assert bits(net) == measures.weights[1]


def test_the_best_model_and_checkpoints_go_together(tmp_path):
    """A checkpoint holds the last weights, not the best; who goes on with a path knows the best."""
    checkpoint, path = tmp_path / "checkpoint", tmp_path / "best"
    numbers = (3, 1, 2, 4)
    net, measures = network(), Falls(*numbers)
    fit(net, measures, BestModel("number", path=path), epochs=3, checkpoint=checkpoint)
    assert bits(net) == measures.weights[1]
    again, more = network(), Falls(*numbers)
    best = BestModel("number", path=path)
    history = fit(again, more, best, epochs=4, resume=checkpoint)
    whole, all_four = network(), Falls(*numbers)
    expected = fit(whole, all_four, epochs=4)
    assert without_seconds(history) == without_seconds(expected)
    assert more.weights == all_four.weights[3:]
    assert best.epoch == 2 and bits(again) == measures.weights[1]


def test_a_metric_that_nothing_measures_is_refused():
    message = "^metric is 'validation_loss', which nothing measures: there are loss, accuracy$"
    refuses(ArgumentError, message, lambda: fit(network(), BestModel()))


def test_bad_arguments_of_the_best_model_are_refused(tmp_path):
    for mode in ("best", ""):
        refuses(
            ArgumentError, f"^mode is '{mode}', expected one of", lambda m=mode: BestModel(mode=m)
        )
    nowhere = tmp_path / "no" / "folder"
    refuses(ArgumentError, "^path is .*, where no file", lambda: BestModel(path=nowhere))

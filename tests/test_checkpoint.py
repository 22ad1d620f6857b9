"""Training goes on from a checkpoint bit for bit; a process killed while it writes one leaves the
one before whole.
"""

import errno
import os
import re

import numpy as np
import pytest

import rnn_gpu
from damage import CHECKPOINTS, apart, damaged_checkpoints, everything, killed, together
from door import but, parameters_of, refuses, same, table
from programs import LIBRARY, python
from rnn_gpu import (
    GRU,
    LSTM,
    ArgumentError,
    Dense,
    ModelFileError,
    Network,
    NonFiniteError,
    load,
    optimizers,
)
from small_run import SETTINGS, StopError, X, Y, fresh, goes_on, network, stopped


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint"


@pytest.mark.quick_on_devices("cpu", "first epoch")
@pytest.mark.parametrize(
    "updates", [1, 5, 8], ids=["first epoch", "in the middle", "a whole number of epochs"]
)
def test_training_goes_on_bit_for_bit(updates, device, path):
    whole = network(device)
    expected = whole.fit(X, Y, epochs=3, **SETTINGS)
    stopped(network(device), updates, path, epochs=3)
    again = network(device)
    for a in again.parameters.values():
        a[...] = np.nan  # all comes from the file
    history = again.fit(X, Y, epochs=3, resume=path, **SETTINGS)
    for name in ("step_loss", "gradient_norm", "loss"):
        assert history[name] == expected[name]
    same(parameters_of(again), parameters_of(whole))


OPTIMIZERS = {
    "sgd": lambda: optimizers.SGD(0.1),
    "nesterov": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda: optimizers.RMSprop(0.01),
    "adamw": lambda: optimizers.AdamW(0.01),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer_goes_on_bit_for_bit(make, path):
    expected = network(kind=LSTM).fit(
        X, Y, epochs=2, optimizer=make(), truncate=(2, 3), **SETTINGS
    )["step_loss"]
    stopped(network(kind=LSTM), 4, path, epochs=2, optimizer=make(), truncate=(2, 3))
    again = network(kind=LSTM).fit(
        X, Y, epochs=2, optimizer=make(), truncate=(2, 3), resume=path, **SETTINGS
    )["step_loss"]
    assert again == expected


def test_a_finished_run_is_trained_longer(path):
    expected = network().fit(X, Y, epochs=3, **SETTINGS)["step_loss"]
    network().fit(X, Y, epochs=2, checkpoint=path, **SETTINGS)
    assert (
        network().fit(X, Y, epochs=3, resume=path, checkpoint=path, **SETTINGS)["step_loss"]
        == expected
    )
    again = network()
    # nothing is left to do
    assert again.fit(X, Y, epochs=3, resume=path, **SETTINGS)["step_loss"] == expected


def test_a_checkpoint_is_written_after_each_epoch_and_so_many_batches(path, monkeypatch):
    written = []
    monkeypatch.setattr(
        rnn_gpu.network.checkpoint,
        "save",
        lambda path, net, opt, settings, kept: written.append(
            (kept.position.epoch, kept.position.batch)
        ),
    )
    network().fit(X, Y, epochs=2, checkpoint=path, **SETTINGS)
    assert written == [(1, 0), (2, 0)]
    written.clear()
    network().fit(X, Y, epochs=1, checkpoint=path, checkpoint_every=3, **SETTINGS)
    assert written == [(0, 3), (1, 0)]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    table(
        (
            "batch_size",
            {"batch_size": 4},
            ArgumentError,
            "resume is .*a checkpoint with batch_size=3, but here batch_size is 4",
        ),
        ("seed", {"seed": 5}, ArgumentError, "resume is .* seed=4, but here seed is 5"),
        (
            "shuffle",
            {"shuffle": False},
            ArgumentError,
            "resume is .* shuffle=True, but here shuffle is False",
        ),
        ("truncate", {"truncate": (2, 2)}, ArgumentError, "resume is .* truncate=None"),
        (
            "samples",
            {"x": X[:4], "y": Y[:4]},
            ArgumentError,
            "resume is .* samples=11, but here samples is 4",
        ),
        (
            "optimizer",
            {"optimizer": "sgd"},
            ArgumentError,
            "resume is .* optimizer='Adam', but here optimizer is 'SGD'",
        ),
        (
            "every",
            {"resume": None, "checkpoint_every": 2},
            ArgumentError,
            "checkpoint_every is given, but no checkpoint",
        ),
    ),
)
def test_another_run_is_refused_and_nothing_changes(changes, error, message, path):
    network().fit(X, Y, epochs=1, checkpoint=path, **SETTINGS)
    net = network()
    before = parameters_of(net)
    arguments = {"x": X, "y": Y, "resume": path} | SETTINGS | changes
    refuses(error, f"^{message}", lambda: net.fit(**arguments))
    same(parameters_of(net), before)


def test_another_network_or_file_is_refused(path, tmp_path):
    network().fit(X, Y, epochs=1, checkpoint=path, **SETTINGS)
    refuses(
        ArgumentError,
        "^resume is .*network=",
        lambda: network(kind=LSTM).fit(X, Y, resume=path, **SETTINGS),
    )
    refuses(ModelFileError, "its format is 'rnn_gpu checkpoint 2'", lambda: load(path))
    network().save(tmp_path / "model")
    refuses(
        ModelFileError,
        "its format is 'rnn_gpu 2'",
        lambda: network().fit(X, Y, resume=tmp_path / "model", **SETTINGS),
    )
    path.write_bytes(path.read_bytes()[:-7])
    refuses(ModelFileError, "is damaged", lambda: network().fit(X, Y, resume=path, **SETTINGS))


# In a process of its own: each child of `fork` is killed when so many bytes are written.
KILLED = """
import io, os, signal, sys
import numpy as np, rnn_gpu

class Killed(io.FileIO):
    def write(self, data):
        super().write(data[: int(share * len(data))])
        os.kill(os.getpid(), signal.SIGKILL)

on = {"device": "reference"}
net = rnn_gpu.Network([rnn_gpu.GRU(3, 5, **on), rnn_gpu.Dense(5, 2, **on)])
x = [np.ones((4, 3), "float32")] * 4
y = [np.ones((4, 2), "float32")] * 4
net.fit(x, y, epochs=1, checkpoint=sys.argv[1], progress=False)
before = open(sys.argv[1], "rb").read()
for share in (0, 0.001, 0.5, 1):
    child = os.fork()
    if not child:
        os.fdopen = Killed
        net.fit(x, y, epochs=2, checkpoint=sys.argv[1], resume=sys.argv[1], progress=False)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert open(sys.argv[1], "rb").read() == before
    assert len(net.fit(x, y, epochs=1, resume=sys.argv[1], progress=False)["loss"]) == 1
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_process_killed_while_it_writes_leaves_the_checkpoint_before(path):
    python(KILLED, path, PYTHONPATH=str(LIBRARY.parent))


@pytest.mark.skipif(os.name != "posix", reason="kills of POSIX")
def test_a_process_that_is_killed_at_any_time_leaves_a_checkpoint_to_go_on_from(tmp_path):
    updates = 0
    for at in killed(CHECKPOINTS, tmp_path, times=3):
        position = apart(at)[1]["position"]
        assert len(position["history"]["step_loss"]) >= updates
        updates = len(position["history"]["step_loss"])


# Other data


def swapped(values):
    return [values[1], values[0], *values[2:]]


@pytest.mark.parametrize(
    "data",
    [
        (swapped(X), swapped(Y)),
        (X, swapped(Y[:2]) + Y[2:]),
        ([but(X[0], (1, 2), 7), *X[1:]], Y),
        (X, [*Y[:10], but(Y[10], (0, 0), 7)]),
    ],
    ids=["another order", "other targets", "another number of x", "another number of y"],
)
def test_other_data_are_refused(data, path):
    X0, Y0 = [x[:3] for x in X], [y[:3] for y in Y]
    network().fit(X0, Y0, epochs=1, checkpoint=path, **SETTINGS)
    x, y = ([a[:3] for a in part] for part in data)
    refuses(
        ArgumentError,
        "^resume is .*, a checkpoint of other data: x or y",
        lambda: network().fit(x, y, resume=path, **SETTINGS),
    )
    # the same, as one array
    network().fit(np.stack(X0), np.stack(Y0), epochs=2, resume=path, **SETTINGS)


def test_a_checkpoint_from_before_data_had_a_fingerprint_goes_on(path):
    expected = network().fit(X, Y, epochs=2, **SETTINGS)["step_loss"]
    network().fit(X, Y, epochs=1, checkpoint=path, **SETTINGS)
    header, config, arrays = apart(path)
    header["__metadata__"] = {"format": "rnn_gpu checkpoint 1", "config": ""}
    del config["settings"]["data"]
    together(path, header, config, arrays)
    assert (
        network().fit(X, Y, epochs=2, resume=path, checkpoint=path, **SETTINGS)["step_loss"]
        == expected
    )
    refuses(
        ArgumentError,
        "of other data",
        lambda: network().fit(X, [2 * y for y in Y], resume=path, **SETTINGS),
    )


# What the history holds


def test_the_whole_history_goes_on(path):
    """δ's clipping, shares of right answers, validation, truncation, and what `on_epoch` adds."""

    def net():
        layers = GRU(3, 5, device="reference"), Dense(5, 2, device="reference")
        return Network(list(layers), loss="softmax_cross_entropy")

    labels = [y.argmax(1) for y in Y]
    options = {"validation": (X[:3], labels[:3]), "clip_step_norm": 0.01, "truncate": (2, 2)}

    def note(network, history):
        history.setdefault("mine", []).append({"norm": np.linalg.norm(network.parameters["0.W"])})

    expected = net().fit(X, labels, epochs=3, on_epoch=note, **options, **SETTINGS)

    def stop(network, update):
        if update == 15:  # in the second epoch
            raise StopError

    with pytest.raises(StopError):
        net().fit(
            X,
            labels,
            epochs=3,
            checkpoint=path,
            checkpoint_every=1,
            watch=stop,
            on_epoch=note,
            **options,
            **SETTINGS,
        )
    history = net().fit(X, labels, epochs=3, resume=path, on_epoch=note, **options, **SETTINGS)
    assert set(history) == set(expected) and len(history["clipped_steps"]) == len(
        history["step_loss"]
    )
    for name in set(expected) - {"seconds", "compile_seconds"}:
        assert history[name] == expected[name], name
    # without the others
    assert (
        net().fit(X, labels, epochs=3, resume=path, truncate=(2, 2), **SETTINGS)["mine"]
        == expected["mine"][:1]
    )


def test_numbers_of_numpys_can_be_kept(path):
    settings = {"batch_size": np.int64(3), "seed": np.int32(4), "progress": False}
    network().fit(X, Y, epochs=1, checkpoint=path, **settings)
    network().fit(X, Y, epochs=2, resume=path, **SETTINGS)


def test_what_no_file_can_hold_is_named(path):
    def note(network, history):
        history["mine"] = network

    message = "is Network, expected what JSON can hold"
    refuses(
        ArgumentError,
        message,
        lambda: network().fit(X, Y, checkpoint=path, on_epoch=note, **SETTINGS),
    )
    assert os.listdir(path.parent) == []


# Damage


@pytest.fixture(scope="module")
def trained():
    return fresh()


def unchanged(trained, path, message):
    """Resuming is refused, and neither network nor optimizer, which have trained before, change."""
    net, adam = trained
    before = everything(net, adam)
    refuses(ModelFileError, message, lambda: net.fit(X, Y, resume=path, optimizer=adam, **SETTINGS))
    same(everything(net, adam), before)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The bytes of a checkpoint in the middle of the second epoch."""
    path = tmp_path_factory.mktemp("kept") / "checkpoint"
    stopped(network(), 6, path, epochs=3)
    return path.read_bytes()


RNG_STATE = ("position", "rng", "state")
FIELDS = {
    ("updates",): [-1, 3, 2.5, None, 2**60, True],
    ("passes",): [[], [1, 2, 3], [1, -1], [1, 2**32], [1, 2.0], 3],
    ("optimizer",): [3, None],
    ("settings",): [None, []],
    ("settings", "samples"): ["11", -11, 11.0],
    ("settings", "batch_size"): [0, 3.0],
    ("settings", "shuffle"): ["True", 1],
    ("settings", "truncate"): [3, [1]],
    ("settings", "data"): [None, 3],
    ("position", "rng"): [{}, None, [1]],
    ("position", "rng", "bit_generator"): ["MT19937", None],
    ("position", "rng", "has_uint32"): [2, -1],
    ("position", "rng", "uinteger"): [2**32, 1.0],
    RNG_STATE: [None, {"state": 1}],
    (*RNG_STATE, "state"): [-1, 2**128, 1.5, "1"],
    (*RNG_STATE, "inc"): [-1, 2**128, np.nan],
    ("position", "epoch"): [-1, 0, 7, 1.0, None, np.inf],
    ("position", "batch"): [-1, 0, 5, 10**30, np.nan],
    ("position", "seen"): [[], None, [[1.0, None, 3.0]] * 3, [1.0, 2.0]],
    ("position", "seen", 0): [
        [],
        [1.0, None],
        [np.nan, None, 1.0],
        [1.0, 0.5, 1.0],
        [1.0, None, 0.0],
        [1.0, None, -np.inf],
    ],
    ("position", "history"): [{}, None, []],
    ("position", "history", "loss"): [[], [np.nan], [1.0, 1.0], "1", [None], [10**400]],
    ("position", "history", "seconds"): [[-1.0], [], [np.inf]],
    ("position", "history", "step_loss"): [[1.0], [np.nan] * 6, None],
    ("position", "history", "gradient_norm"): [[1.0], [-1.0] * 6, [True] * 6],
    ("position", "history", "compile_seconds"): [None, [np.nan], ["1"]],
    ("position", "history", "clipped_steps"): [[1] * 7, [0.5], [-1], None],
    ("position", "history", "accuracy"): [[0.5], [2.0]],
    ("position", "history", "validation_loss"): [[1.0, 2.0], ["1"], 3],
}


def change(inside, at, value):
    for name in at[:-1]:
        inside = inside[name]
    inside[at[-1]] = value


@pytest.mark.parametrize("at", FIELDS, ids=lambda at: ".".join(map(str, at)))
def test_a_field_that_cannot_be_is_named_and_nothing_changes(at, kept, trained, path):
    for value in FIELDS[at]:
        path.write_bytes(kept)
        header, config, arrays = apart(path)
        change(config, at, value)
        together(path, header, config, arrays)
        name = next(name for name in reversed(at) if isinstance(name, str))
        unchanged(trained, path, f"is damaged, or not a checkpoint: .*{name}")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("parameter 1.U", np.nan, "nan"),
        ("moment 0 1.b", -np.inf, "-inf"),
        ("moment 1 3.V", -1e-30, "mean of squares"),
    ],
)
def test_numbers_that_cannot_be_are_named_and_nothing_changes(
    name, value, says, kept, trained, path
):
    path.write_bytes(kept)
    header, config, arrays = apart(path)
    numbers = np.frombuffer(arrays, "float32").copy()
    numbers[header[name]["data_offsets"][0] // 4] = value
    together(path, header, config, numbers.tobytes())
    unchanged(trained, path, f"{name} is .*{says}")


def test_arrays_too_many_or_too_few_are_named_and_nothing_changes(kept, trained, path):
    path.write_bytes(kept)
    header, config, arrays = apart(path)
    header["parameter 1.X"] = header.pop("parameter 1.U")
    together(path, header, config, arrays)
    unchanged(trained, path, "there are the arrays .*parameter 1.X")


def test_an_optimizer_that_keeps_other_moments_is_refused(path):
    network().fit(X, Y, epochs=1, checkpoint=path, optimizer=optimizers.SGD(0.1), **SETTINGS)
    momentum = optimizers.SGD(0.1, momentum=0.9)
    message = "^resume is .* with 0 moments of each parameter, but here optimizer keeps 1"
    refuses(
        ArgumentError,
        message,
        lambda: network().fit(X, Y, resume=path, optimizer=momentum, **SETTINGS),
    )


def test_a_damaged_checkpoint_is_refused_or_gone_on_from(kept, path):
    damaged_checkpoints(kept, path, fresh, goes_on, times=60)


def test_weights_that_are_not_finite_are_not_written_over_those_that_are(path):
    network().fit(X, Y, epochs=1, checkpoint=path, **SETTINGS)
    before = path.read_bytes()
    net = network()

    def spoil(network, history):
        network.parameters["3.V"][0, 1] = np.inf

    message = (
        rf"after 4 updates parameter 3.V is inf at \(0, 1\): checkpoint '{path}' is not written "
        r"over"
    )
    refuses(
        NonFiniteError, message, lambda: net.fit(X, Y, checkpoint=path, on_epoch=spoil, **SETTINGS)
    )
    assert path.read_bytes() == before


# Paths


@pytest.mark.parametrize("argument", ["checkpoint", "resume"])
@pytest.mark.parametrize("value", [3, True, ["c"]], ids=str)
def test_what_is_no_path_is_named(argument, value):
    message = rf"^{argument} is {re.escape(repr(value))}, expected a path"
    refuses(ArgumentError, message, lambda: network().fit(X, Y, **{argument: value}, **SETTINGS))


PLACES = {
    "no folder": ("not-there/checkpoint", "there is no folder '.*not-there'"),
    "a file for a folder": ("file/checkpoint", "Not a directory"),
    "a folder": ("folder", "it is a folder"),
    "a null byte": ("a\0b", "expected a path: embedded null byte"),
}


@pytest.mark.parametrize(("name", "says"), PLACES.values(), ids=PLACES)
def test_a_checkpoint_that_cannot_be_written_is_named_before_the_first_epoch(name, says, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    net = network()
    before, there = parameters_of(net), sorted(os.listdir(tmp_path))
    refuses(
        ArgumentError,
        f"^checkpoint is .*{says}",
        lambda: net.fit(X, Y, checkpoint=tmp_path / name, **SETTINGS),
    )
    same(parameters_of(net), before)
    assert sorted(os.listdir(tmp_path)) == there


def test_a_folder_that_may_not_be_written_is_named_before_the_first_epoch(path, monkeypatch):
    def denied(name, *rest):
        raise PermissionError(errno.EACCES, "Permission denied", name)

    monkeypatch.setattr("rnn_gpu.bridges.io.os.open", denied)
    net = network()
    before = parameters_of(net)
    message = f"^checkpoint is '{path}', where no file can be written: Permission denied"
    refuses(ArgumentError, message, lambda: net.fit(X, Y, checkpoint=path, **SETTINGS))
    same(parameters_of(net), before)


def test_to_try_the_place_leaves_the_checkpoint_that_is_there(path):
    network().fit(X, Y, epochs=1, checkpoint=path, **SETTINGS)
    before = path.read_bytes()
    rnn_gpu.bridges.io.check_place("checkpoint", path)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]

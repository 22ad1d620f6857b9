"""A model comes out of its file as it went in; a damaged file is an error; writing replaces a file whole or not at all."""

import errno
import io
import json
import os

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import rnn_gpu
from rnn_gpu import GRU, LSTM, RNN, Dense, DeviceError, Dropout, Embedding, ModelFileError, Network, Recurrent, load
from rnn_gpu.kernels.cells import CELLS

REFERENCE = {"device": "reference"}
X = np.random.default_rng(0).normal(size=(4, 2, 3))
SYMBOLS = np.array([[0, 4], [3, 3], [1, 0]])


def twice_tanh(z):
    return 2 * np.tanh(z)


def dtwice_tanh(y):
    return 2 - 0.5 * y * y


def bits(network):
    return {name: (str(a.dtype), a.shape, np.asarray(network._device.numpy(a)).tobytes()) for name, a in network.parameters.items()}


def scramble(network):
    """The network with numbers that no seed gives: what is loaded is then not what is drawn."""
    rng = np.random.default_rng(9)
    for a in network.parameters.values():
        a[...] = rng.normal(scale=0.3, size=a.shape)
    return network


NETWORKS = {
    "RNN tanh": lambda **o: Network([RNN(3, 4, **o)]),
    "RNN relu": lambda **o: Network([RNN(3, 4, "relu", init="torch", **o)]),
    "LSTM": lambda **o: Network([LSTM(3, 4, seed=7, **o)]),
    "GRU": lambda **o: Network([GRU(3, 4, **o)]),
    "Recurrent": lambda **o: Network([Recurrent("elman_elu", 3, 4, **o)]),
    "Dense": lambda **o: Network([RNN(3, 4, **o), Dense(4, 2, "softplus", init="torch", **o)], steps="last"),
    "Dropout": lambda **o: Network([Dropout(0.25, seed=3, **o), LSTM(3, 4, **o), Dropout(0.5, **o), Dense(4, 2, **o)]),
    "deep": lambda **o: Network([GRU(3, 4, **o), Recurrent("lstm", 4, 3, **o), RNN(3, 2, **o)], loss="softmax_cross_entropy", steps="last"),
    "binary": lambda **o: Network([LSTM(3, 2, **o), Dense(2, 1, "identity", **o)], loss="binary_cross_entropy"),
}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS)
def build(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def test_a_network_comes_back_as_it_went(build, dtype, path):
    network = scramble(build(dtype=dtype, **REFERENCE))
    network.save(path)
    again = load(path, device="reference")
    assert bits(again) == bits(network)
    assert again.config() == network.config()
    for one, other in zip(again.layers, network.layers, strict=True):
        assert type(one) is type(other) and one.seed == other.seed and vars(one).get("init") == vars(other).get("init")
    x = X.astype(dtype)
    assert np.array_equal(again(x)[0], network(x)[0])
    assert np.array_equal(again(x, training=True)[0], network(x, training=True)[0])  # the masks of Dropout too
    assert np.array_equal(again.predict(list(x))[1], network.predict(list(x))[1])


def test_an_embedding_comes_back(path):
    network = Network([Embedding(5, 3, **REFERENCE), GRU(3, 4, **REFERENCE)])
    scramble(network).save(path)
    again = load(path, device="reference")
    assert bits(again) == bits(network)
    assert np.array_equal(again(SYMBOLS)[0], network(SYMBOLS)[0])


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_comes_back_by_its_name(cell, path):
    network = scramble(Network([Recurrent(cell, 3, 4, **REFERENCE)]))
    network.save(path)
    assert load(path, device="reference").layers[0].cell is CELLS[cell]


def test_weights_that_are_not_finite_come_back_bitwise(path):
    network = NETWORKS["LSTM"](**REFERENCE)
    network.parameters["0.U"][...] = np.frombuffer(np.random.default_rng(0).bytes(4 * 16 * 3), "float32").reshape(16, 3)
    network.parameters["0.b"][:3] = np.nan, np.inf, -0.0
    network.save(path)
    assert bits(load(path, device="reference")) == bits(network)


def test_a_network_is_loaded_onto_any_device(device, path):
    network = scramble(NETWORKS["RNN tanh"](**REFERENCE))
    network.save(path)
    again = load(path, device=device)
    assert again.device == device and again.layers[0].device == device
    assert bits(again) == bits(network)
    again.save(path)
    assert bits(load(path, device="reference")) == bits(network)


def test_load_chooses_the_device_as_a_layer_does(path):
    NETWORKS["LSTM"](**REFERENCE).save(path)
    assert load(path).device == rnn_gpu.device("auto").name


def test_an_unknown_device_is_no_damage_to_the_file(path):
    NETWORKS["LSTM"](**REFERENCE).save(path)
    with pytest.raises(DeviceError, match="device is 'gpu'"):
        load(path, device="gpu")


@pytest.mark.parametrize("kind", [str, os.fspath, lambda path: path], ids=["str", "fspath", "Path"])
def test_paths_of_any_kind(kind, path):
    network = NETWORKS["GRU"](**REFERENCE)
    network.save(kind(path))
    assert bits(load(kind(path), device="reference")) == bits(network)


def test_the_file_is_safetensors_that_say_what_they_are(path):
    NETWORKS["GRU"](**REFERENCE).save(path)
    with safe_open(path, "np") as file:
        assert set(file.keys()) == {"0.U", "0.W", "0.b", "0.c"}
        assert file.metadata()["format"] == "rnn_gpu 1"
        assert json.loads(file.metadata()["config"])["layers"][0]["layer"] == "GRU"


def test_one_network_is_one_sequence_of_bytes(path):
    network, files = NETWORKS["LSTM"](**REFERENCE), set()
    for _ in range(20):
        network.save(path)
        files.add(path.read_bytes())
    assert len(files) == 1


# Formulas of the user's own


def leaky(α):
    def step(p, q, s):
        return (s[0] + α * (np.tanh(p[0] + q[0]) - s[0]),), (np.tanh(p[0] + q[0]),)

    def back(ds, kept, s, s_next):
        δ = α * ds[0] * (1 - kept[0] ** 2)
        return (δ,), (δ,), ((1 - α) * ds[0],)

    return rnn_gpu.cell("leaky", gates=1, states=1, kept=1, step=step, back=back)


def test_a_users_activation_is_handed_over_to_load(path):
    own = rnn_gpu.activation(twice_tanh, dtwice_tanh)
    network = scramble(Network([RNN(3, 4, own, **REFERENCE), Dense(4, 2, own, **REFERENCE)]))
    network.save(path)
    again = load(path, device="reference", custom=[own])
    assert again.layers[0].activation is own and again.layers[1].activation is own
    x = X.astype("float32")
    assert np.array_equal(again(x)[0], network(x)[0])
    with pytest.raises(ModelFileError, match="activation is 'twice_tanh'"):
        load(path, device="reference")


def test_a_users_cell_is_handed_over_to_load(path):
    own = leaky(0.25)
    network = scramble(Network([Recurrent(own, 3, 4, **REFERENCE)]))
    network.save(path)
    again, x = load(path, device="reference", custom=(own,)), X.astype("float32")
    assert np.array_equal(again(x)[0], network(x)[0])
    with pytest.raises(ModelFileError, match="cell is 'leaky'"):
        load(path, device="reference")


def test_a_users_activation_with_a_built_in_name_is_not_replaced(path):
    network = Network([RNN(3, 4, rnn_gpu.activation(twice_tanh, dtwice_tanh, name="relu"), **REFERENCE)])
    network.save(path)
    with pytest.raises(ModelFileError, match="activation is 'relu', a formula of the user's own"):
        load(path, device="reference")


def test_two_formulas_of_one_name_are_refused(path):
    fast, slow = leaky(0.5), leaky(0.25)
    Network([Recurrent(fast, 3, 4, **REFERENCE), Recurrent(slow, 4, 4, **REFERENCE)]).save(path)
    with pytest.raises(rnn_gpu.ArgumentError, match="custom has two formulas of one name: leaky, leaky"):
        load(path, device="reference", custom=[fast, slow])


@pytest.mark.parametrize("custom", [rnn_gpu.activation("tanh"), [(twice_tanh, dtwice_tanh)], 3], ids=["no list", "a pair", "a number"])
def test_custom_is_refused(custom, path):
    NETWORKS["LSTM"](**REFERENCE).save(path)
    with pytest.raises(rnn_gpu.ArgumentError, match=r"custom is .*expected"):
        load(path, device="reference", custom=custom)


def test_a_seed_of_numpys_can_be_saved(path):
    Network([RNN(3, 4, seed=np.int64(5), **REFERENCE)]).save(path)
    assert load(path, device="reference").layers[0].seed == 5


# Damage


@pytest.fixture
def saved(path):
    network = NETWORKS["Dense"](**REFERENCE)
    network.save(path)
    return path


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, 0.5, -4, -1], ids=str)
def test_a_file_cut_short_is_damaged(keep, saved):
    data = saved.read_bytes()
    saved.write_bytes(data[: round(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(ModelFileError, match=r"model\.safetensors is damaged"):
        load(saved, device="reference")


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_are_no_model(seed, saved):
    saved.write_bytes(np.random.default_rng(seed).bytes(600))
    with pytest.raises(ModelFileError, match=r"model\.safetensors is damaged"):
        load(saved, device="reference")


@pytest.mark.parametrize("data", [b"PK\x03\x04" + bytes(99), b"{}", b"\x02" + bytes(7) + b"[]", b"\x02" + bytes(7) + b"{}"])
def test_files_of_other_kinds_are_no_models(data, saved):
    saved.write_bytes(data)
    with pytest.raises(ModelFileError, match=r"model\.safetensors is"):
        load(saved, device="reference")


def test_bytes_too_many_are_damage(saved):
    saved.write_bytes(saved.read_bytes() + b"more")
    with pytest.raises(ModelFileError, match=r"model\.safetensors is damaged"):
        load(saved, device="reference")


def test_no_file_is_pythons_own_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="not-there"):
        load(tmp_path / "not-there", device="reference")


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(ModelFileError, match="is a folder, expected a model file"):
        load(tmp_path, device="reference")


def without(key):
    return lambda d: {k: v for k, v in d.items() if k != key}


@pytest.mark.parametrize(
    ("arrays", "metadata", "message"),
    [
        (None, lambda d: None, "is not a model of ours: its format is None"),
        (None, lambda d: d | {"format": "pt"}, "is not a model of ours: its format is 'pt', expected 'rnn_gpu 1'"),
        (None, lambda d: d | {"format": "rnn_gpu 2"}, "its format is 'rnn_gpu 2', expected 'rnn_gpu 1'"),
        (None, without("config"), "config"),
        (None, lambda d: d | {"config": "{"}, "is damaged"),
        (without("0.W"), None, r"has the arrays \['0.U', '0.b', '1.V', '1.b'\], expected .*'0.W'"),
        (lambda d: d | {"2.U": d["0.U"]}, None, "has the arrays .*'2.U'"),
        (lambda d: d | {"0.W": d["0.W"][:2]}, None, r"W has shape \(2, 4\), expected \(4, 4\)"),
        (lambda d: d | {"1.b": d["1.b"].astype("float64")}, None, "b is float64, expected float32"),
        (lambda d: {k: a.astype("float16") for k, a in d.items()}, None, "is float16, expected float32"),
        (lambda d: {}, None, r"has the arrays \[\]"),
    ],
    ids=[
        "no metadata",
        "format",
        "version",
        "no config",
        "config",
        "missing",
        "too many",
        "shape",
        "one dtype",
        "every dtype",
        "no arrays",
    ],
)
def test_a_file_that_is_not_ours_is_refused(arrays, metadata, message, saved):
    rewrite(saved, arrays, metadata)
    with pytest.raises(ModelFileError, match=message) as caught:
        load(saved, device="reference")
    assert str(saved) in str(caught.value)


def rewrite(path, arrays=None, metadata=None):
    with safe_open(path, "np") as file:
        held, said = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118  no mapping
    save_file(arrays(held) if arrays else held, path, metadata(said) if metadata else said)


def layer(**changes):
    return lambda config: config | {"layers": [config["layers"][0] | changes, *config["layers"][1:]]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: None, "not a model that can be built here"),
        (lambda config: [config], "not a model that can be built here"),
        (lambda config: {}, "layers"),
        (without("dtype"), "dtype"),
        (lambda config: config | {"dtype": "int8"}, "dtype is 'int8'"),
        (lambda config: config | {"loss": "hinge"}, "loss is 'hinge'"),
        (lambda config: config | {"steps": "none"}, "steps is 'none'"),
        (lambda config: config | {"layers": []}, "layers is"),
        (lambda config: config | {"layers": 3}, "not a model that can be built here"),
        (lambda config: config | {"layers": ["RNN"]}, "not a model that can be built here"),
        (layer(layer="Conv1D"), "Conv1D"),
        (layer(hidden_size=-1), "hidden_size is -1"),
        (layer(hidden_size="many"), "hidden_size is 'many'"),
        (layer(hidden_size=5), "layer 1 takes 4 features"),
        (layer(activation="tanhh"), "activation is 'tanhh'"),
        (layer(activation=["tanh"]), "not a model that can be built here"),
        (layer(kernel_size=3), "kernel_size"),
        (layer(seed=-1), "seed is -1"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(change, message, saved):
    rewrite(saved, metadata=lambda said: said | {"config": json.dumps(change(json.loads(said["config"])))})
    with pytest.raises(ModelFileError, match=message) as caught:
        load(saved, device="reference")
    assert str(saved) in str(caught.value)


# Writing


def test_saving_replaces_an_older_file(saved):
    newer = scramble(NETWORKS["deep"](**REFERENCE))
    newer.save(saved)
    assert bits(load(saved, device="reference")) == bits(newer)
    assert os.listdir(saved.parent) == [saved.name]


def test_what_is_open_stays_whole_while_it_is_replaced(saved):
    with open(saved, "rb") as file:
        first = file.read(50)
        NETWORKS["deep"](**REFERENCE).save(saved)
        rest = file.read()
    saved.write_bytes(first + rest)
    assert bits(load(saved, device="reference")) == bits(NETWORKS["Dense"](**REFERENCE))


class Full(io.FileIO):
    """A file on a disk that is full after ten bytes."""

    def write(self, data):
        super().write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")


def fail(error):
    def failing(*arguments, **options):
        raise error

    return failing


FAULTS = {
    "the disk is full": ("os.fdopen", lambda handle, mode: Full(handle, mode), OSError),
    "the bytes do not reach the disk": ("os.fsync", fail(OSError(errno.EIO, "Input/output error")), OSError),
    "renaming fails": ("os.replace", fail(PermissionError("no")), PermissionError),
    "Ctrl-C before renaming": ("os.replace", fail(KeyboardInterrupt()), KeyboardInterrupt),
    "Ctrl-C in the middle": ("os.fsync", fail(KeyboardInterrupt()), KeyboardInterrupt),
}


@pytest.mark.parametrize(("name", "fault", "error"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("older", [True, False], ids=["over a file", "a new file"])
def test_what_goes_wrong_in_writing_changes_nothing(older, name, fault, error, path, monkeypatch):
    if older:
        NETWORKS["Dense"](**REFERENCE).save(path)
    before = {name: (path.parent / name).read_bytes() for name in os.listdir(path.parent)}
    with monkeypatch.context() as patch:
        patch.setattr(name, fault)
        with pytest.raises(error):
            NETWORKS["deep"](**REFERENCE).save(path)
    assert {name: (path.parent / name).read_bytes() for name in os.listdir(path.parent)} == before
    NETWORKS["deep"](**REFERENCE).save(path)
    assert os.listdir(path.parent) == [path.name]


def test_a_folder_that_is_not_there_is_pythons_own_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="not-there"):
        NETWORKS["LSTM"](**REFERENCE).save(tmp_path / "not-there" / "model")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_others_may_read_the_file_as_far_as_umask_lets_them(path):
    old = os.umask(0o027)
    try:
        NETWORKS["LSTM"](**REFERENCE).save(path)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640

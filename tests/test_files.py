"""A model comes out of its file as it went in, and a damaged file is an error."""

import errno
import json
import math
import os

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import rnn_gpu
from damage import apart, damaged_models, together
from door import refuses
from measuring import peak
from model_files import NETWORKS, REFERENCE, bits, fail, scramble
from rnn_gpu import (
    GRU,
    RNN,
    Bidirectional,
    Dense,
    DeviceError,
    Embedding,
    ModelFileError,
    Network,
    Recurrent,
    load,
)
from rnn_gpu.kernels.cells import CELLS

X = np.random.default_rng(0).normal(size=(4, 2, 3))
SYMBOLS = np.array([[0, 4], [3, 3], [1, 0]])


def twice_tanh(z):
    return 2 * np.tanh(z)


def dtwice_tanh(y):
    return 2 - 0.5 * y * y


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
        assert (
            type(one) is type(other)
            and one.seed == other.seed
            and vars(one).get("init") == vars(other).get("init")
        )
    x = X.astype(dtype)
    assert np.array_equal(again(x)[0], network(x)[0])
    # the masks of Dropout too
    assert np.array_equal(again(x, training=True)[0], network(x, training=True)[0])
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
    network.parameters["0.U"][...] = np.frombuffer(
        np.random.default_rng(0).bytes(4 * 16 * 3), "float32"
    ).reshape(16, 3)
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
        assert file.metadata()["format"] == "rnn_gpu 2"
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
    network = Network(
        [RNN(3, 4, rnn_gpu.activation(twice_tanh, dtwice_tanh, name="relu"), **REFERENCE)]
    )
    network.save(path)
    with pytest.raises(ModelFileError, match="activation is 'relu', a formula of the user's own"):
        load(path, device="reference")


def test_two_formulas_of_one_name_are_refused(path):
    fast, slow = leaky(0.5), leaky(0.25)
    Network([Recurrent(fast, 3, 4, **REFERENCE), Recurrent(slow, 4, 4, **REFERENCE)]).save(path)
    with pytest.raises(
        rnn_gpu.ArgumentError, match="custom has two formulas of one name: leaky, leaky"
    ):
        load(path, device="reference", custom=[fast, slow])


@pytest.mark.parametrize(
    "custom",
    [rnn_gpu.activation("tanh"), [(twice_tanh, dtwice_tanh)], 3],
    ids=["no list", "a pair", "a number"],
)
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


@pytest.mark.parametrize(
    "data",
    [b"PK\x03\x04" + bytes(99), b"{}", b"\x02" + bytes(7) + b"[]", b"\x02" + bytes(7) + b"{}"],
)
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


def test_a_file_that_may_not_be_read_is_pythons_own_error(saved, monkeypatch):
    monkeypatch.setattr(
        "rnn_gpu.bridges.io.open",
        fail(PermissionError(errno.EACCES, "Permission denied")),
        raising=False,
    )
    with pytest.raises(PermissionError) as caught:
        load(saved, device="reference")
    assert caught.type is PermissionError


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(ModelFileError, match="is a folder, expected a model file"):
        load(tmp_path, device="reference")


def without(key):
    return lambda d: {k: v for k, v in d.items() if k != key}


@pytest.mark.parametrize(
    ("arrays", "metadata", "message"),
    [
        (None, lambda d: None, "is not a model of ours: its format is None"),
        (
            None,
            lambda d: d | {"format": "pt"},
            "is not a model of ours: its format is 'pt', expected 'rnn_gpu 2'",
        ),
        (
            None,
            lambda d: d | {"format": "rnn_gpu 3"},
            "its format is 'rnn_gpu 3', expected 'rnn_gpu 2' or 'rnn_gpu 1'",
        ),
        (
            None,
            lambda d: d | {"format": "rnn_gpu 1"},
            "its metadata are .*crc32.*, expected config, format",
        ),
        (None, without("crc32"), "its metadata are .*, expected config, crc32, format"),
        (None, without("config"), "config"),
        (None, lambda d: d | {"config": "{"}, "is damaged"),
        (without("0.W"), None, "there are the arrays U, b, expected U, W, b"),
        (lambda d: d | {"1.U": d["0.U"]}, None, "there are the arrays U, V, b, expected V, b"),
        (
            lambda d: d | {"2.U": d["0.U"]},
            None,
            "it has 2.U, expected names that begin with a layer's number, 0. … 1.",
        ),
        (lambda d: d | {"0.W": d["0.W"][:2]}, None, r"W has shape \(2, 4\), expected \(4, 4\)"),
        (lambda d: d | {"1.b": d["1.b"].astype("float64")}, None, "b is float64, expected float32"),
        (
            lambda d: {k: a.astype("float16") for k, a in d.items()},
            None,
            "is of dtype 'F16', expected F32 or F64",
        ),
        (lambda d: {}, None, "there are the arrays none, expected U, W, b"),
    ],
    ids=[
        "no metadata",
        "format",
        "version",
        "the format of before",
        "no checksum",
        "no config",
        "config",
        "missing",
        "too many",
        "too many layers",
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
    header, _, data = apart(path)
    together(path, header, None, data)


def layer(**changes):
    return lambda config: (
        config | {"layers": [config["layers"][0] | changes, *config["layers"][1:]]}
    )


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
        (lambda config: config | {"layers": []}, "it has 0.U"),
        (lambda config: config | {"layers": 3}, "not a model that can be built here"),
        (lambda config: config | {"layers": ["RNN"]}, "not a model that can be built here"),
        (layer(layer="Conv1D"), "Conv1D"),
        (layer(hidden_size=-1), "hidden_size is -1"),
        (layer(hidden_size="many"), "hidden_size is 'many'"),
        (layer(hidden_size=5), r"U has shape \(4, 3\), expected \(5, 3\)"),
        (layer(hidden_size=10**12), r"U has shape \(4, 3\), expected \(1000000000000, 3\)"),
        (layer(layer=["RNN"]), "not a model that can be built here"),
        (layer(device="cpu"), "device"),
        (
            layer(activation={"layer": "LSTM", "input_size": 10**5, "hidden_size": 10**5}),
            "there is no 'custom'",
        ),
        (layer(activation="tanhh"), "activation is 'tanhh'"),
        (layer(activation=["tanh"]), "not a model that can be built here"),
        (layer(kernel_size=3), "kernel_size"),
        (layer(seed=-1), "seed is -1"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(change, message, saved):
    rewrite(
        saved,
        metadata=lambda said: said | {"config": json.dumps(change(json.loads(said["config"])))},
    )
    with pytest.raises(ModelFileError, match=message) as caught:
        load(saved, device="reference")
    assert str(saved) in str(caught.value)


# The checksum


def test_a_flipped_bit_anywhere_is_found(saved):
    """Of the length and the checksum every one, of the rest one in 23."""
    whole = saved.read_bytes()
    sum_at = 8 * whole.index(b'"crc32"')
    for bit in {*range(64), *range(sum_at, sum_at + 8 * 18), *range(0, 8 * len(whole), 23)}:
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        saved.write_bytes(data)
        with pytest.raises(ModelFileError, match=r"model\.safetensors is"):
            load(saved, device="reference")


def test_the_checksum_is_that_of_the_file_with_zeros_in_its_place(saved):
    whole = saved.read_bytes()
    together(saved, *apart(saved))  # computes it by itself
    with safe_open(saved, "np") as file:
        said = file.metadata()["crc32"]
    assert f'"crc32":"{said}"'.encode() in whole


def test_a_file_from_before_there_were_checksums_is_read(saved):
    expected = bits(load(saved, device="reference"))
    header, config, arrays = apart(saved)
    header["__metadata__"] = {"format": "rnn_gpu 1"} | {"config": header["__metadata__"]["config"]}
    together(saved, header, config, arrays)
    assert bits(load(saved, device="reference")) == expected


@pytest.mark.parametrize(
    "text",
    [
        '{"format":"rnn_gpu 2","format":"rnn_gpu 2"}',
        "[" * 100_000,
        '{"a":' * 100_000,
        "9" * 5000,
        '"\\ud800"',
        "\x00",
        "[]",
        "{}",
        "nan",
    ],
    ids=[
        "two of one name",
        "deep lists",
        "deep dicts",
        "a long number",
        "half a character",
        "a null byte",
        "a list",
        "a dict",
        "a word",
    ],
)
@pytest.mark.parametrize("place", ["header", "configuration"])
def test_strange_json_is_damage(place, text, saved):
    header, _, arrays = apart(saved)
    if place == "header":
        saved.write_bytes(len(text).to_bytes(8, "little") + text.encode() + arrays)
    else:
        header["__metadata__"]["config"] = text
        together(saved, header, None, arrays)
    refused(saved)


def refused(path):
    with pytest.raises(ModelFileError) as caught:
        load(path, device="reference")
    assert (
        caught.type is ModelFileError
        and os.fspath(path) in str(caught.value)
        and len(str(caught.value)) < 1000
    )


HEADERS = {
    "a dtype that there is not": {"dtype": "F8"},
    "a dtype that cannot be hashed": {"dtype": ["F32"]},
    "negative sizes": {"shape": [-4, -4]},
    "sizes that are no integers": {"shape": [4.0, 4.0]},
    "sizes that are truth values": {"shape": [True, 16]},
    "sizes beyond all memory": {"shape": [10**12, 10**12]},
    "no shape": {"shape": None},
    "bytes of another": {"data_offsets": [0, 64]},
    "bytes backwards": {"data_offsets": [128, 64]},
    "bytes beyond the file": {"data_offsets": [48, 10**15]},
    "no bytes": {"data_offsets": []},
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS)
def test_arrays_that_do_not_fill_the_file_are_damage(change, saved):
    header, config, arrays = apart(saved)
    header["0.W"] |= change
    together(saved, header, config, arrays)
    refused(saved)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**6, 0], ids=str)
def test_a_header_longer_than_the_file_is_damage(length, saved):
    saved.write_bytes(length.to_bytes(8, "little") + saved.read_bytes()[8:])
    refused(saved)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_file_does_not_keep_load_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", "/dev/null"):
        with pytest.raises(ModelFileError, match=f"{path} is no regular file"):
            load(path, device="reference")


@pytest.mark.parametrize(
    "path", ["a\0b", "\ud800", "a" * 5000], ids=["a null byte", "half a character", "too long"]
)
def test_a_path_that_cannot_be_is_no_model(path):
    with pytest.raises(ModelFileError) as caught:
        load(path, device="reference")
    assert caught.type is ModelFileError


@pytest.mark.parametrize("path", [None, 3, True, 1.5, ["model"]], ids=str)
def test_what_is_no_path_is_refused(path):
    for call in (
        lambda: load(path, device="reference"),
        lambda: NETWORKS["LSTM"](**REFERENCE).save(path),
    ):
        with pytest.raises(rnn_gpu.ArgumentError, match=r"^path is .*, expected a path"):
            call()


# Layers around arrays that are there


def test_a_damaged_model_is_refused_or_what_it_says_is_read(path):
    damaged_models(ALL["Embedding"](**REFERENCE), path, times=100)


@pytest.fixture
def nothing_is_drawn(monkeypatch):
    for name in ("recurrent", "dense", "embedding"):
        monkeypatch.setattr(
            f"rnn_gpu.parameters.{name}", fail(AssertionError("initial values were drawn"))
        )


ALL = {
    **NETWORKS,
    "Embedding": lambda **o: Network(
        [Embedding(3, 3, **o), Bidirectional(GRU(3, 2, **o)), Dense(4, 2, **o)]
    ),
}


@pytest.mark.parametrize("build", ALL.values(), ids=ALL)
def test_load_copy_and_fit_draw_no_initial_values(build, path, request):
    network = scramble(build(**REFERENCE))
    network.save(path)
    x, y = [np.zeros((2, 3), "float32")], [np.zeros((2, network.output_size), "float32")]
    request.getfixturevalue("nothing_is_drawn")
    again, copy = load(path, device="reference"), network.copy()
    assert bits(again) == bits(copy) == bits(network)
    assert network.copy(dtype="float64").dtype == "float64"
    again.fit(x, y if network.steps == "every" else [y[0][0]], epochs=1, progress=False)
    for mine, theirs in zip(network.parameters.values(), copy.parameters.values(), strict=True):
        assert not np.shares_memory(mine, theirs)


def test_a_small_file_of_a_large_network_is_refused_at_once(saved):
    """1,088 bytes that claimed n = 4000 took 73 seconds, and its memory."""
    header, config, arrays = apart(saved)
    config["layers"] = [{"layer": "LSTM", "input_size": 4000, "hidden_size": 4000}]
    for name in ("1.V", "1.b"):
        del header[name]
    together(
        saved,
        header,
        config,
        arrays[
            : sum(4 * math.prod(one["shape"]) for name, one in header.items() if name[0] == "0")
        ],
    )
    message = r"U has shape \(4, 3\), expected \(16000, 4000\)"

    def read():
        refuses(ModelFileError, message, lambda: load(saved, device="reference"))

    assert peak(read) < 1e6


def test_loading_takes_the_memory_of_the_file_once(path):
    network = Network([Dense(600, 600, **REFERENCE)])  # small ones are put side by side
    network.save(path)
    assert peak(lambda: load(path, device="reference")) < 1.5 * path.stat().st_size

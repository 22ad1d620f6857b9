"""What is saved beside a network, and probabilities of what it gives."""

import json

import numpy as np
import pytest

from rnn_gpu import GRU, ArgumentError, Dense, ModelFileError, Network, load
from rnn_gpu.bridges import io

METADATA = {"words": ["a", "β"], "index": {"a": 0, "β": 1}, "mean": [0.1, -1e300], "n": None}
X = np.random.default_rng(0).normal(size=(5, 4, 3)).astype("float32")


def network(loss="softmax_cross_entropy", steps="last"):
    layers = [GRU(3, 5, device="reference"), Dense(5, 3, device="reference")]
    return Network(layers, loss=loss, steps=steps)


def test_metadata_come_back_as_they_were(tmp_path):
    network().save(tmp_path / "model", metadata=METADATA)
    again = load(tmp_path / "model", device="reference", precision="fp32")
    assert again.metadata == METADATA
    again.copy().save(tmp_path / "copy")
    assert load(tmp_path / "copy", device="reference").metadata == METADATA


def test_metadata_are_the_networks_own_and_change_nothing_else(tmp_path):
    net, given = network(), {"words": ["a"]}
    assert net.metadata == {}
    net.save(tmp_path / "without")
    net.save(tmp_path / "model", metadata=given)
    given["words"].append("b")
    assert net.metadata == {"words": ["a"]}
    copy = net.copy()
    copy.metadata["words"].append("c")
    assert net.metadata == {"words": ["a"]}
    (_, plain, _), (_, config, _) = map(io.read, (tmp_path / "without", tmp_path / "model"))
    assert config == plain | {"metadata": {"words": ["a"]}}


@pytest.mark.parametrize(
    "metadata, says",
    [
        ({"mean": np.zeros(3)}, r"metadata\['mean'\] is a ndarray, .* \.tolist\(\)"),
        ({"a": [{"b": {1, 2}}]}, r"metadata\['a'\]\[0\]\['b'\] is a set"),
        ({"a": {0: "x"}}, r"metadata\['a'\] has the key 0, expected texts"),
        ({"a": (1, 2)}, r"metadata\['a'\] is a tuple"),
        ({"a": float("nan")}, r"metadata\['a'\] is nan"),
        ({"a": np.int64(3)}, r"metadata\['a'\] is "),
        ([1], "metadata is a list, expected a dict"),
    ],
)
def test_what_json_would_not_give_back_is_refused_before_anything_is_written(
    metadata, says, tmp_path
):
    net = network()
    net.save(tmp_path / "model", metadata=METADATA)
    before = (tmp_path / "model").read_bytes()
    with pytest.raises(ArgumentError, match=says):
        net.save(tmp_path / "model", metadata=metadata)
    assert (tmp_path / "model").read_bytes() == before and net.metadata == METADATA


def test_a_flipped_bit_of_metadata_is_found(tmp_path):
    path = tmp_path / "model"
    network().save(path, metadata=METADATA)
    text = path.read_bytes()
    path.write_bytes(text.replace(b"words", b"wards"))
    assert path.read_bytes() != text
    with pytest.raises(ModelFileError, match="its checksum is"):
        load(path, device="reference")


def test_metadata_that_are_no_dict_are_no_model_of_ours(tmp_path):
    net = network()
    arrays = {name: np.asarray(a) for name, a in net.parameters.items()}
    io.write(tmp_path / "model", arrays, net.config() | {"metadata": [1]})
    with pytest.raises(ModelFileError, match="metadata is a list, expected a dict"):
        load(tmp_path / "model", device="reference")


def test_other_programs_read_metadata(tmp_path):
    safetensors = pytest.importorskip("safetensors")
    network().save(tmp_path / "model", metadata=METADATA)
    with safetensors.safe_open(tmp_path / "model", "numpy") as file:
        assert json.loads(file.metadata()["config"])["metadata"] == METADATA


def test_probabilities_of_exclusive_classes_add_up_to_1():
    net = network()
    p, o = net.predict_proba(X, batch_size=2), net.predict(X)
    expected = np.exp(o.astype(float)) / np.exp(o.astype(float)).sum(1, keepdims=True)
    np.testing.assert_allclose(p, expected, rtol=1e-5)
    assert p.shape == (5, 3) and p.dtype == "float32"


def test_probabilities_of_each_output():
    net = network("binary_cross_entropy", "every")
    p, o = net.predict_proba([X[0], X[1, :2]]), net.predict([X[0], X[1, :2]])
    assert [one.shape for one in p] == [(4, 3), (2, 3)]
    for one, logits in zip(p, o, strict=True):
        np.testing.assert_allclose(one, 1 / (1 + np.exp(-logits.astype(float))), rtol=1e-5)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_probabilities_of_huge_logits_are_numbers(loss):
    net = network(loss)
    net.parameters["1.b"][...] = [-1e30, 1e30, 100]
    with np.errstate(all="raise", under="ignore"):
        p = net.predict_proba(X)
    assert (p[:, :2] == [0, 1]).all()


def test_a_loss_without_classes_has_no_probabilities():
    with pytest.raises(ArgumentError, match="the loss is 'squared_error', which knows no classes"):
        network("squared_error").predict_proba(X)

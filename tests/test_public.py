"""What stands at the door, and how light it is."""

from importlib import import_module
from types import ModuleType

import pytest

import rnn_gpu
from programs import words


def test_all_is_exactly_what_is_there():
    modules = {"callbacks", "data", "datasets", "optimizers", "schedules"}
    names = {
        name
        for name, value in vars(rnn_gpu).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert set(rnn_gpu.__all__) == names | modules
    assert len(rnn_gpu.__all__) == len(set(rnn_gpu.__all__))
    assert all(isinstance(getattr(rnn_gpu, name), ModuleType) for name in modules)


# where a user imports from, beside the door itself: rooms behind may be moved, these stay
PUBLIC = {
    "callbacks": (
        "BestModel",
        "CSVLog",
        "Callback",
        "Checkpoint",
        "EarlyStopping",
        "Progress",
        "ReduceOnPlateau",
        "TensorBoard",
        "Validation",
    ),
    "data": ("Scaler", "Vocabulary", "forecast", "generate", "time_features", "windows"),
    "errors": ("RnnGpuError",),
    "flax": ("RNN", "as_flax", "of_flax"),
    "gradient_flow": ("LayerFlow", "Report"),
    "jax": ("gru", "init", "lstm", "recurrent", "rnn"),
    "network": ("Network", "load"),
    "onnx": ("export",),
    "optimizers": ("SGD", "Adam", "AdamW", "RMSprop"),
    "schedules": ("cosine", "steps", "warm_up"),
    "stream": ("Stream",),
    "torch": (
        "GRU",
        "GRUCell",
        "LSTM",
        "LSTMCell",
        "RNN",
        "RNNCell",
        "Recurrent",
        "Stack",
        "convert",
        "onnx_translations",
        "register",
        "revert",
    ),
    "training": (
        "History",
        "Samples",
        "Settings",
        "Training",
        "Ways",
        "forward_backward",
        "train_step",
    ),
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_modules_stay_where_they_are(module):
    if module in ("flax", "jax", "onnx", "torch"):
        pytest.importorskip(module)
    there = import_module(f"rnn_gpu.{module}")
    assert [name for name in PUBLIC[module] if not hasattr(there, name)] == []


def test_all_is_sorted():
    def constants_classes_rest(name):
        return (0 if name.isupper() else 1 if name[0].isupper() else 2), name

    assert rnn_gpu.__all__ == sorted(rnn_gpu.__all__, key=constants_classes_rest)


def test_every_error_is_at_the_door_and_in_the_tree():
    errors = {name for name, value in vars(rnn_gpu.errors).items() if isinstance(value, type)}
    assert errors <= set(rnn_gpu.__all__)
    for name in errors:
        assert issubclass(getattr(rnn_gpu, name), rnn_gpu.RnnGpuError)
        assert name in rnn_gpu.errors.__doc__


def test_import_is_quick_and_light():
    text = "import rnn_gpu, sys, time; print(time.process_time(), *sys.modules)"
    seconds, *loaded = words(text)
    assert "rnn_gpu.layers" in loaded
    assert not {"torch", "cupy", "matplotlib", "pandas", "numba", "typer"} & set(loaded)
    assert float(seconds) < 2

"""What torch tests its own recurrent modules with: samples that must work, and calls that must
fail. Needs expecttest, as torch's tests do.
"""

import warnings
from importlib import import_module

import pytest

NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")


def database():
    """torch's ModuleInfo of each name."""
    pytest.importorskip("expecttest", reason="torch's own tests need expecttest")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modules = import_module("torch.testing._internal.common_modules")
    named = {info.name.removeprefix("nn."): info for info in modules.module_db}
    return {name: named[name] for name in NAMES}


def samples(name, dtype, training=True, errors=False):
    """torch's samples of a module, or those that it must refuse."""
    info = database()[name]
    of = info.module_error_inputs_func if errors else info.module_inputs_func
    options = {"requires_grad": True, "training": training, "with_packed_sequence": True}
    return of(info, device="cpu", dtype=dtype, **options)

"""What is used of other packages' inner names is in one file, and is there."""

import ast
import re

import numpy as np
import pytest
from numba import njit

from rnn_gpu.kernels import private
from sources import MODULES, imports

INNER = (
    "numba.core",
    "numba.misc",
    "numba.np",
    "cupy._core",
    "numba.cuda.simulator",
    "numba.cuda.cudadrv",
)


@pytest.mark.parametrize("name", private.NAMES)
def test_a_name_is_where_we_look_for_it(name):
    path, lost = private.NAMES[name]
    pytest.importorskip(path.split(".")[0])
    if name == "cuda_driver" and private.config.ENABLE_CUDASIM:
        pytest.skip("the simulator stands in its place")
    assert getattr(private, name) is not None, f"{path} is gone; without it: {lost}"


def test_only_one_file_imports_inner_names():
    found = {
        name: [one for one in imports(name) if one.startswith(INNER)]
        for name in MODULES
        if name != "rnn_gpu.kernels.private"
    }
    assert {name: inner for name, inner in found.items() if inner} == {}


def test_every_inner_name_is_used():
    text = "".join(path.read_text(encoding="utf-8") for path in MODULES.values())
    assert [name for name in private.NAMES if len(re.findall(rf"\b{name}\b", text)) < 2] == []


def test_a_function_is_compiled_kept_and_read_by_inner_attributes(monkeypatch):
    """What breaks where an attribute is gone: kernels on disk, and calls that threads share."""
    double = njit(lambda x: x + x)
    private.keep_in(double, private.cache_of(double))
    private.compile_for(double, (np.ones(3),))
    (compiled,) = double.overloads.values()
    data = private.as_plain_data(compiled)
    context = private.cpu_target.target_context
    assert private.compiled_of(context, data).signature == compiled.signature

    def refuse(*arguments):
        raise KeyError(arguments)

    private.instead_of_compiling(double, refuse)
    with pytest.raises(KeyError, match=r"\(2\.5,\)"):
        double(2.5)
    monkeypatch.setattr(
        private.FunctionIdentity, "_unique_ids", private.FunctionIdentity._unique_ids
    )
    private.number_functions_from(7)
    assert next(private.FunctionIdentity._unique_ids) == 7


def test_an_inner_attribute_of_another_package_is_asked_for_in_one_file():
    """x._name, where x is not the module's own: a NamedTuple's words aside, and what the stand-in
    for CuPy keeps of its arrays, which have no public names but CuPy's.
    """
    allowed = {"_replace", "_fields", "_asdict", "_make", "_getframe"}
    found = []
    for name, path in MODULES.items():
        of_kernels = name.startswith("rnn_gpu.kernels") and name != "rnn_gpu.kernels.private"
        if of_kernels and not name.startswith("rnn_gpu.kernels.emulator.arrays"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                inner = isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr)
                if inner and node.attr not in allowed:
                    of = ast.unparse(node.value)
                    found += [(name, of, node.attr)] * (
                        of.split(".")[0] not in ("self", "cls", "super()")
                    )
    assert found == []

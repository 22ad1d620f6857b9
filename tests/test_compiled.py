"""Cubins are compiled once, here or on another machine, and found again only where nothing they are
made of has changed.  Skipped without NVIDIA's compiler, unless RNN_GPU_REQUIRE_PTX is set.
"""

import itertools
import json
from importlib import import_module
from types import FunctionType

import numpy as np
import pytest

from programs import need_compiler, python
from rnn_gpu.kernels.activations import ACTIVATIONS
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.cells.elman import elman
from rnn_gpu.kernels.cells.noise import dropped, zoned
from rnn_gpu.kernels.devices.cuda import block, elementwise_kernel, plain

compiled = import_module("rnn_gpu.kernels.devices.cuda.compiled")

KINDS = (("float32", 1),)
HOPPER = (9, 0)


def name(kernel, kinds=KINDS, capability=HOPPER):
    """Of a kernel, on every machine."""
    return compiled.names_of(kernel, kinds, capability)[0]


def test_every_difference_between_kernels_makes_another_name():
    kernels = [plain.forward_kernel(cell, np.float32, False) for cell in CELLS.values()]
    kernels += [plain.forward_kernel(dropped(zoned(CELLS["lstm"])), np.float32, False)]
    kernels += [plain.forward_kernel(zoned(CELLS["lstm"]), np.float32, False)]
    kernels += [plain.forward_kernel(CELLS["lstm"], np.float64, False)]
    variants = itertools.product((False, True), repeat=2)  # clips, masked
    kernels += [plain.backward_kernel(CELLS["lstm"], np.float32, *one) for one in variants]
    kernels += [elementwise_kernel(one.f, np.float32, 1, 1, 0) for one in ACTIVATIONS.values()]
    plan = block.plans(problem())[0].plan
    for other in (plan, plan._replace(lanes=8), plan._replace(in_registers=0)):
        kernels.append(block.forward_kernel(CELLS["lstm"], np.float32, other))
    names = [name(kernel) for kernel in kernels]
    names += [name(kernels[0], capability=(8, 0)), name(kernels[0], (("float32", 2),))]
    assert len(set(names)) == len(names)


def problem():
    from rnn_gpu.kernels.devices.cuda.contract import Problem
    from rnn_gpu.kernels.devices.cuda.schedules import H200

    return Problem(CELLS["lstm"], "forward", 64, 64, 4, H200)


def scaled(scale):
    """An Elman cell of a user's activation."""

    def f(z):
        return np.tanh(scale * z)

    def df(y):
        return scale * (1.0 - y * y)

    return elman(ACTIVATIONS["tanh"]._replace(name="mine", f=f, df=df))


def test_a_users_formula_is_told_by_its_code_and_what_it_reads():
    def of(scale):
        return name(plain.forward_kernel(scaled(scale), np.float32, False))

    assert of(0.5) == of(0.5) != of(0.25)


def test_what_cannot_be_told_has_no_name():
    things = {"scale": object()}

    def f(z):
        return z if things else -z

    kernel = elementwise_kernel(f, np.float32, 1, 1, 0)
    assert compiled.names_of(kernel, KINDS, HOPPER) == ()


def test_the_sources_are_in_the_name(monkeypatch):
    kernel = plain.forward_kernel(CELLS["lstm"], np.float32, False)
    before = name(kernel)
    monkeypatch.setattr(compiled, "sources", lambda: "others")
    assert name(kernel) != before


PROGRAM = """
import json, sys, time
from pathlib import Path
from importlib import import_module
from rnn_gpu.kernels.devices.cuda import elementwise_kernel
from rnn_gpu.kernels.activations import ACTIVATIONS
import numpy as np

launch = import_module("rnn_gpu.kernels.devices.cuda.launch")
compiled = import_module("rnn_gpu.kernels.devices.cuda.compiled")
seen = []
made = compiled.compile_kernel
compiled.compile_kernel = lambda *given: seen.append(1) or made(*given)
array = ("float32", 1)
kinds = (tuple, array), (tuple, array), (tuple,)
kernel = elementwise_kernel(ACTIVATIONS["tanh"].f, np.float32, 1, 1, 0)
begun = time.perf_counter()
if len(sys.argv) > 1:
    into = compiled.carrying(Path(sys.argv[1]))
    into.__enter__()
code = compiled.compiled(kernel, kinds, tuple(map(launch.type_of, kinds)), (9, 0), "cubin")
print(json.dumps({
    "compiled": len(seen), "elf": code.text[:4] == b"\\x7fELF",
    "named": code.entry.encode() in code.text,
    "names": compiled.names_of(kernel, kinds, (9, 0)), "seconds": time.perf_counter() - begun,
}))
"""


@pytest.fixture(scope="module")
def toolkit():
    need_compiler()


def run(folder, *into, carried=None):
    """What the program says, its kernels kept in this folder."""
    environment = {"NUMBA_CACHE_DIR": str(folder), "RNN_GPU_CUBINS": carried and str(carried)}
    return json.loads(python(PROGRAM, *into, NUMBA_ENABLE_CUDASIM=None, **environment).stdout)


def test_a_cubin_is_compiled_once_and_may_be_carried(toolkit, tmp_path):
    first, again = run(tmp_path / "a"), run(tmp_path / "a", tmp_path / "carried")
    assert [first["compiled"], again["compiled"]] == [1, 0]
    assert all(one["elf"] and one["named"] for one in (first, again))
    (kept,) = (tmp_path / "a").rglob("*.kernel")
    (carried,) = (tmp_path / "carried").iterdir()
    assert [carried.stem, kept.stem] == first["names"] == again["names"]
    assert run(tmp_path / "b", carried=carried.parent)["compiled"] == 0
    for path, folders in ((kept, {}), (carried, {"carried": carried.parent})):
        path.write_bytes(path.read_bytes()[:-1])
        assert run(tmp_path / ("c" if folders else "a"), **folders)["compiled"] == 1


REFUSED = (
    PROGRAM[: PROGRAM.index("begun =")]
    + """
from rnn_gpu.kernels.devices.cuda.driver import Facts

class Card:
    language = "cubin"
    def facts(self, device):
        return Facts("played", (9, 0), 1, 65_536, 232_448)
    def load(self, code, entry, shared):
        if self.refused and len(seen) == 0:
            raise RuntimeError("no kernel image is available")
        return len(seen)

card = Card()
card.refused = len(sys.argv) > 1
print(launch.loaded(card, 0, kernel, kinds, 0))
"""
)


def test_a_cubin_that_the_driver_does_not_take_is_compiled_anew(toolkit, tmp_path):
    def loads(*refused):
        environment = {"NUMBA_ENABLE_CUDASIM": None, "NUMBA_CACHE_DIR": str(tmp_path)}
        return int(python(REFUSED, *refused, **environment).stdout)

    assert [loads(), loads(), loads("refused")] == [1, 0, 1]


def test_a_cubin_under_another_name_is_not_taken(toolkit, tmp_path):
    first = run(tmp_path / "a", tmp_path / "carried")
    (carried,) = (tmp_path / "carried").iterdir()
    (kept,) = (tmp_path / "a").rglob("*.kernel")
    carried.write_bytes(kept.read_bytes())
    assert run(tmp_path / "b", carried=carried.parent)["compiled"] == 1
    assert first["names"][0] == carried.stem


def test_a_formula_that_says_no_module_has_a_name():
    """As one that is made of its code."""

    half, quarter = (lambda z: 0.5 * z), (lambda z: 0.25 * z)

    def named(formula):
        made = FunctionType(formula.__code__, {})
        assert made.__module__ is None
        return name(elementwise_kernel(made, np.float32, 1, 1, 0))

    assert named(half) == named(half) != named(quarter)

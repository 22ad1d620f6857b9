"""The stand-in for CuPy is as strict as CuPy is, has no name that CuPy has not, and finds what is
planted.
"""

import copy
import gc
import inspect
import pickle
import re

import numpy as np
import pytest

from rnn_gpu.kernels.emulator import arrays as played
from rnn_gpu.kernels.emulator.arrays import functions, streams
from rnn_gpu.kernels.emulator.arrays.counts import FIELDS, counted
from rnn_gpu.kernels.emulator.arrays.memory import allocation_at
from rnn_gpu.kernels.emulator.arrays.order import ordered

HOST = np.arange(6, dtype="float32").reshape(2, 3)


def card(a=HOST):
    return played.asarray(a)


# Names and signatures


def defaults(parameters):
    """(name, kind, default) of each parameter: classes by their names."""
    return [(p.name, p.kind, getattr(p.default, "__name__", p.default)) for p in parameters]


def signature_of(theirs):
    """CuPy's signature: as Python tells it, or read off the first line of what it says of itself,
    which Cython and ufuncs do.
    """
    try:
        return defaults(inspect.signature(theirs).parameters.values())
    except ValueError:
        pass
    (text,) = re.findall(r"^[\w.]+\((.*)\)", theirs.__doc__.split("\n")[0].replace("\\*", "*"))
    # "Py_ssize_t axis1" has a type before the name
    parts = [part.strip().split(" ")[-1] for part in re.split(r",(?![^(]*\))", text)]
    kind, found = inspect.Parameter.POSITIONAL_OR_KEYWORD, []
    for part in parts:
        name, _, default = part.partition("=")
        if name == "/":
            found = [(n, inspect.Parameter.POSITIONAL_ONLY, d) for n, _, d in found]
        elif name == "*":
            kind = inspect.Parameter.KEYWORD_ONLY
        elif name.startswith("*"):
            found.append((name[1:], inspect.Parameter.VAR_POSITIONAL, "_empty"))
            kind = inspect.Parameter.KEYWORD_ONLY
        else:
            literal = {"None": None, "True": True, "False": False, "float": "float"}
            value = literal.get(default, default.strip("'\"")) if default else "_empty"
            value = int(value) if re.fullmatch(r"-?\d+", str(value)) else value
            found.append((name, kind, value))
    return found


@pytest.fixture(scope="module")
def real():
    return pytest.importorskip("cupy")


CLASSES = ("Device", "Event", "ExternalStream", "Graph", "MemoryPointer", "MemoryPool", "Stream")
PROTOCOL = {"__array__", "__dlpack__", "__init__"}  # of ndarray, whose own text CuPy leaves out


def test_every_function_has_cupys_name_and_signature(real):
    assert {"where", "matmul", "isfinite"} <= set(functions.__all__)
    for name in (*functions.__all__, "array"):
        ours, theirs = getattr(played, name), getattr(real, name)
        assert defaults(inspect.signature(ours).parameters.values()) == signature_of(theirs), name


def test_every_method_of_an_array_is_cupys(real):
    for name, ours in vars(played.ndarray).items():
        if name in ("__doc__", "__module__", "__slots__"):
            continue
        theirs = getattr(real.ndarray, name)  # raises where there is none
        if inspect.isfunction(ours) and not name.startswith("__"):
            found = defaults(list(inspect.signature(ours).parameters.values())[1:])
            expected = [one for one in signature_of(theirs) if one[0] != "self"]
            assert found == expected, name


def test_every_name_of_the_module_is_cupys(real):
    assert set(played.__all__) <= set(dir(real))
    assert set(played.cuda.__all__) <= set(dir(real.cuda))
    assert set(played.linalg.__all__) <= set(dir(real.linalg))
    assert set(vars(played.cuda.runtime)) <= set(dir(real.cuda.runtime))
    for name in CLASSES:
        mine, theirs = getattr(played.cuda, name), getattr(real.cuda, name)
        public = {one for one in dir(mine) if not one.startswith("_")}
        assert public <= set(dir(theirs)), name


# Manners


def refusals():
    yield "add", lambda a: a + HOST
    yield "add, from the left", lambda a: HOST + a
    yield "in place", lambda a: a.__iadd__(HOST)
    yield "function", lambda a: np.where(a > 1, HOST, a)
    yield "ufunc", lambda a: np.maximum(a, HOST)
    yield "list", lambda a: np.concatenate([a, HOST])
    yield "set item", lambda a: a.__setitem__(..., HOST)
    yield "set item, of a list", lambda a: a.__setitem__(0, [1, 2, 3])
    yield "out", lambda a: np.add(a, a, out=HOST)
    yield "contiguous", lambda a: played.ascontiguousarray(HOST)
    yield "fill", lambda a: a.fill(HOST)
    yield "matrix", lambda a: a @ HOST.T
    yield "no axes", lambda a: a * np.asarray(2.0)
    yield "implicit", lambda a: np.asarray(a)
    yield "hash", lambda a: hash(a)
    yield "hash of a card", lambda a: hash(a.device)
    yield "index", lambda a: range(a[0, 0].astype(int))
    yield "where", lambda a: np.add(a, a, where=a > 1)
    yield "median", lambda a: np.median(a)
    yield "keyword", lambda a: np.clip(a, min=0, max=1)


@pytest.mark.parametrize("call", [one for _, one in refusals()], ids=[one for one, _ in refusals()])
def test_what_cupy_refuses_is_refused(call):
    with pytest.raises((TypeError, AttributeError)):
        call(card())


def test_results_are_arrays_of_the_card():
    a = card()
    for found in (a.sum(), np.sum(a), a[0, 0], a.max(), a.all(), next(iter(a[0])), a @ a.T):
        assert type(found) is played.ndarray
    assert a.sum().shape == () and float(a.sum()) == HOST.sum()
    assert (np.float32(2) * a).dtype == "float32" and (np.float64(2) * a).dtype == "float64"
    assert np.array_equal(np.where(a > 1, a, np.float32(0)).get(), np.where(HOST > 1, HOST, 0))


def test_a_view_is_of_the_same_memory_and_an_operation_is_not():
    a = card()
    assert a[1:].data.ptr == a.data.ptr + 12 and a[1:].base is a and a[1:].T.base is a
    assert (a.T + 0).flags.c_contiguous and a.T.astype("float64").flags.f_contiguous
    a[1:][...] = 7
    assert (a.get()[1] == 7).all() and (HOST[1] != 7).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda a: a.__setitem__(slice(1, None), a[:-1]),
        lambda a: np.add(a[:, 1:], 1, out=a[:, :-1]),
        lambda a: np.add(a, a[::-1], out=a),
    ],
)
def test_what_reads_elsewhere_what_it_writes_is_refused(call):
    a = card(np.zeros((4, 4), "f"))
    a[...] = a
    np.add(a, a, out=a)
    with pytest.raises(RuntimeError, match="from other places"):
        call(a)


def test_memory_has_addresses_and_nothing_in_it():
    a = played.empty((3, 5), "float32")
    assert a.data.ptr % 256 == 0 and np.isnan(a.get()).all()
    assert played.empty(0).data.ptr == 0
    a[...] = 2
    found = allocation_at(a[1].data.ptr)
    assert (found.view("float32") == np.full(10, 2)).all()
    found[:4] = 0
    assert a.get()[1, 0] == 0
    ptr = a.data.ptr
    del a
    gc.collect()
    with pytest.raises(LookupError, match="no allocation holds"):
        allocation_at(ptr)


def test_the_pool_uses_memory_again():
    pool = played.cuda.MemoryPool()
    with played.cuda.using_allocator(pool.malloc):
        a = played.zeros(1000, "float32")
    ptr = a.data.ptr
    assert pool.used_bytes() == pool.total_bytes() == 4096
    del a
    gc.collect()
    assert (pool.used_bytes(), pool.total_bytes()) == (0, 4096)
    with played.cuda.using_allocator(pool.malloc):
        again = played.empty(1000, "float32")
    assert again.data.ptr == ptr and np.isnan(again.get()).all()
    del again
    pool.free_all_blocks()
    assert pool.total_bytes() == 0


def test_arrays_of_another_card_are_refused():
    a = card()
    with played.cuda.Device(1):
        b = card()
        assert b.device.id == 1 == played.cuda.runtime.getDevice()
        with pytest.raises(
            ValueError, match=r"of card 0 in cupy\.add, while the current card is 1"
        ):
            a + a
        assert np.array_equal(a.get(), HOST) and a.copy().device.id == 1
        assert played.asarray(a).device.id == 1
    with pytest.raises(ValueError, match="of card 1"):
        a[...] = b


def test_arrays_are_copied_and_pickled():
    a = card()
    for b in (copy.copy(a), copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
        assert type(b) is played.ndarray and b.data.ptr != a.data.ptr
        assert np.array_equal(b.get(), HOST)


def test_arrays_go_by_both_protocols_without_a_copy():
    a = card()
    assert played.from_dlpack(a[1:]).data.ptr == a[1:].data.ptr
    assert played.asarray(Described(a.T)).strides == a.T.strides
    with pytest.raises((ValueError, TypeError, RuntimeError, BufferError)):
        np.from_dlpack(a)
    with pytest.raises(BufferError):
        played.from_dlpack(HOST)


class Described:
    """An array of another library."""

    def __init__(self, a):
        self.__cuda_array_interface__ = a.__cuda_array_interface__ | {"stream": None}


# Streams


def test_a_stream_is_current_within_its_context():
    stream = played.cuda.Stream(non_blocking=True)
    assert played.cuda.get_current_stream() == played.cuda.Stream.null
    with stream, played.cuda.ExternalStream(0x77):
        assert played.cuda.get_current_stream().ptr == 0x77
    assert played.cuda.get_current_stream().ptr == 0
    with played.cuda.Device(1), pytest.raises(RuntimeError, match="does not match"):
        stream.use()


@pytest.fixture
def capturing():
    stream = played.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        yield stream
        if stream.is_capturing():
            stream.end_capture()


def test_captured_work_is_done_when_the_graph_is_launched():
    a, stream = card(), played.cuda.Stream(non_blocking=True)
    total, launched = played.zeros((), "float32"), []
    with stream:
        stream.begin_capture()
        twice = a * 2
        b = np.exp(twice)
        b += 1
        b[0] = 5
        np.sum(b, out=total)
        streams.start(lambda: launched.append(1))  # as a kernel of ours is
        graph = stream.end_capture()
    assert np.isnan(b.get()).all() and float(total) == 0 and launched == []
    for x in (1.0, 2.0):
        a[...] = x
        graph.launch()
        expected = np.exp(np.full((2, 3), 2 * x, "float32")) + 1
        expected[0] = 5
        assert np.array_equal(b.get(), expected) and float(total) == expected.sum()
    assert launched == [1, 1] and np.array_equal(twice.get(), np.full((2, 3), 4))


def test_a_graph_without_its_memory_is_not_launched():
    a, stream = card(), played.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        b = (a * 2) + 1  # nobody owns a * 2
        graph = stream.end_capture()
    with counted() as counts, pytest.raises(RuntimeError, match="has been freed"):
        graph.launch()
    assert counts.graphs == 0 and np.isnan(b.get()).all()


def test_a_pool_of_its_own_keeps_what_a_graph_uses():
    a, pool = card(), played.cuda.MemoryPool()
    stream = played.cuda.Stream(non_blocking=True)
    with stream, played.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        b = (a * 2) + 1
        graph = stream.end_capture()
    graph.launch()
    assert np.array_equal(b.get(), HOST * 2 + 1)
    with stream, played.cuda.using_allocator(pool.malloc):
        other = played.empty((2, 3), "float32")
    with pytest.raises(RuntimeError, match="has been freed"):
        graph.launch()
    assert other.shape == (2, 3)


REFUSED = {
    "get": lambda a: a.get(),
    "number": lambda a: float(a.sum()),
    "truth": lambda a: bool((a > 1).all()),
    "to": lambda a: played.asarray(HOST),
    "index": lambda a: a[np.array([0, 1])],
    "mask": lambda a: a[a > 1],
    "product": lambda a: a @ a.T,
    "wait": lambda a: played.cuda.get_current_stream().synchronize(),
    "wait of all": lambda a: a.device.synchronize(),
    "event": lambda a: played.cuda.Event().synchronize(),
    "free": lambda a: played.get_default_memory_pool().free_all_blocks(),
    "print": lambda a: repr(a),
    "set": lambda a: a.set(HOST),
    "again": lambda a: played.cuda.get_current_stream().begin_capture(),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_a_capture_refuses_what_a_card_refuses(call):
    a, stream = card(), played.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        try:
            with pytest.raises((RuntimeError, NotImplementedError)):
                call(a)
        finally:
            stream.end_capture()


def test_the_streams_of_all_cannot_capture_nor_be_used_beside_one_that_does():
    with pytest.raises(RuntimeError, match="legacy"):
        played.cuda.Stream.null.begin_capture()
    a, blocking = card(), played.cuda.Stream()
    blocking.begin_capture()
    try:
        with pytest.raises(RuntimeError, match="StreamCaptureImplicit"):
            a += 1
    finally:
        blocking.end_capture()


# Order


def reads(a):
    return a.sum()


def writes(a):
    a += 1


WAITS = {
    "nothing": lambda one, other: None,
    "the host": lambda one, other: one.synchronize(),
    "the card": lambda one, other: played.cuda.Device().synchronize(),
    "an event": lambda one, other: other.wait_event(one.record()),
    "an event, on the host": lambda one, other: one.record().synchronize(),
}


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("first, second", [(reads, writes), (writes, reads), (writes, writes)])
def test_work_that_may_be_overtaken_is_found(first, second, wait):
    a = card()
    one, other = (played.cuda.Stream(non_blocking=True) for _ in range(2))
    with ordered():
        with one:
            first(a)
        WAITS[wait](one, other)
        with other:
            if wait == "nothing":
                with pytest.raises(RuntimeError, match="may come before"):
                    second(a)
            else:
                second(a)


def test_who_takes_an_array_by_dlpack_waits_for_it():
    one, other = (played.cuda.Stream(non_blocking=True) for _ in range(2))
    with ordered():
        with one:
            a = card()
        with one, other:  # `other` is current, and does not know of `one`
            b = played.asarray(Described(a))
            with pytest.raises(RuntimeError, match="may come before"):
                b += 1
        with one:
            a.__dlpack__(stream=other.ptr)
        with other:
            b += 1


def test_readers_do_not_wait_for_each_other_nor_for_the_stream_of_all():
    a, blocking = card(), played.cuda.Stream()
    with ordered():
        for stream in (played.cuda.Stream(non_blocking=True), played.cuda.Stream(), blocking):
            with stream:
                reads(a)
        other = card()
        with blocking:
            writes(other)
        reads(other)


def test_memory_is_used_again_by_later_work_of_its_own_stream_alone():
    one, other = (played.cuda.Stream(non_blocking=True) for _ in range(2))
    with one:
        ptr = card().data.ptr
    gc.collect()
    with other:
        assert card().data.ptr != ptr
    with one:
        assert card().data.ptr == ptr


def test_memory_that_another_stream_still_uses_is_found_when_it_is_used_again():
    one, other = (played.cuda.Stream(non_blocking=True) for _ in range(2))
    with ordered():
        with one:
            a = card()
        one.synchronize()
        with other:
            reads(a)
        del a
        with one, pytest.raises(RuntimeError, match="may come before"):
            card()  # the same memory, while the other reads


# Counts


def test_everything_is_counted_by_its_name():
    a = card()
    with counted() as counts:
        b = a.T + 1
        b += a.T
        float(np.sum(b))
        played.asarray(HOST)
        a @ b
        played.zeros(3)
    assert counts.named("operations") == {"add": 2, "sum": 1, "zeros": 1}
    assert counts.named("views") == {"T": 2}
    table = dict.fromkeys(FIELDS, 0) | {"operations": 4, "views": 2, "products": 1, "waits": 1}
    assert counts.table() == table | {"copies_to": 1, "copies_from": 1, "allocations": 5}
    a + 1
    assert counts.operations == 4

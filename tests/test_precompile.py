"""Kernels of the benchmarks are compiled before there is a card, and found there: by the
library's own host code, which asks for what the benchmarks ask for.

Skipped without NVIDIA's compiler, unless RNN_GPU_REQUIRE_PTX is set.
"""

import json
from pathlib import Path

import pytest

from programs import need_compiler, python

CHECKOUT = Path(__file__).parents[1]
HERE = {"NUMBA_ENABLE_CUDASIM": None, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.skipif(
    not (CHECKOUT / "benchmarks").exists(), reason="no benchmarks beside the tests"
)


@pytest.fixture(scope="module", autouse=True)
def toolkit():
    need_compiler()


def says(text, *arguments, **environment):
    """The last line that a program prints, from JSON."""
    done = python(text, *arguments, options=(), cwd=CHECKOUT, **HERE | environment)
    return json.loads(done.stdout.splitlines()[-1])


# What a step itself asks for, at its own lengths, against what is compiled before it: few cases of
# each, and who else is measured is not here.
STEPS = """
import json, sys
from importlib import import_module
sys.argv[:] = ["precompile"]
sys.modules["torch"] = None  # importing it fails
from benchmarks import _contenders, custom, launch, precompile, reference_points, sequence_length
from benchmarks import smoke, steps
from benchmarks._asked import CARDS, asked_of

steps.TIERS, steps.LENGTHS = (((64,), (1, 32)), ((512,), (1,))), (3, 40)
sequence_length.NETWORKS = (("elman", 20, 16), ("lstm", 32, 1))
sequence_length.NETWORKS += ("elman", 20, 1), ("lstm", 256, 8)
sequence_length.LENGTHS = (3, 40, 16384)
custom.SIZES = ((64, 32, 40),)
launch.NETWORKS = (("lstm", 64, 32), ("gru", 32, 8))
launch.REPEATS = 2
first = dict(list(reference_points.POINTS.items())[:2])
reference_points.POINTS.clear()
reference_points.POINTS.update(first)
smoke.LARGE["elman"] = 60
_contenders.Judge.outcome = lambda self: {}  # nothing is wrong, so all are measured
tables = custom, launch, reference_points, sequence_length, steps
names = [table.__name__.rpartition(".")[2] for table in tables]
before = precompile.asked_for([*names, "smoke"], CARDS_OF)
made = {one.name for asked in before.values() for one in asked}
missing, counts = {}, {}

def look(name, work):
    with asked_of(CARDS[CARDS_OF]) as asked:
        rows = work()
    missing[name] = [one.title for one in asked if one.name not in made]
    counts[name] = len({one.name for one in asked})
    return rows

sequence_length.LENGTHS = (3, 40)
for name, table in zip(names, tables):
    rows = look(name, lambda: [table.measured(case) for case in table.cases()])
    assert all("ours" in found for row in rows for found in row["passes"].values()), name

# in chunks, whether a layer forgets at once, as one does whose states stay zero, or never
cutting = import_module("rnn_gpu.layers.cutting")
forgets, reports = cutting.forgetting, []

def in_chunks():
    for found in (forgets, lambda *given: None):
        cutting.forgetting = found
        for cell, n, B in (("elman", 20, 1), ("lstm", 32, 1), ("lstm", 256, 8)):
            case = _contenders.Case(cell, n, B, 16384, m=n)
            one = _contenders.ENTRIES["ours, parallel"].make(_contenders.Problem(case))
            one.outcome()
            report = one.problem.layers[0].parallel_report
            reports.append([report.chunks > 1, report.scan > 1])

look("in chunks", in_chunks)
look("smoke", lambda: [smoke.run(name) for name in smoke.checks() if "import-" not in name])
titles = sorted({one.title for asked in before.values() for one in asked})
nameless = sum(not name for name in made)
print(json.dumps([missing, counts, nameless, titles, reports]))
""".replace("CARDS_OF", "(9, 0)")


@pytest.mark.slow
def test_no_step_asks_for_a_kernel_that_was_not_compiled_before():
    missing, counts, nameless, titles, reports = says(STEPS)
    assert {name: titles for name, titles in missing.items() if titles} == {}
    assert min(counts.values()) >= 2, counts
    assert nameless == 0
    assert {"transfer.transfers_kernel", "carrying.arriving_kernel"} <= set(titles)
    # of the last, whose matrices no multiprocessor holds, there is no scan that would pay
    assert reports == [[True, False]] * 3 + [[False, True]] * 2 + [[False, False]]


FEW = """
import json, sys
from pathlib import Path
from unittest.mock import patch
from importlib import import_module
into, again = Path(sys.argv[1]), sys.argv[2] == "again"
sys.argv[:] = ["precompile", "--into", str(into), "--steps", "few", "--processes", "2"]
from benchmarks import _barriers, precompile
from benchmarks._asked import CARDS, Idle, compiling, memory
from benchmarks._contenders import Case, Ours, Problem
from rnn_gpu.kernels.devices.cuda.driver import played_by

def of_few():
    Ours(Problem(Case("elman", 5, 2, 1, m=5))).outcome()
    back = Ours(Problem(Case("elman", 5, 2, 4, m=5)), public=True, parallel=("scan", 2))
    back.outcome()
    assert back.problem.layers[0].parallel_report.scan == 2
    next(_barriers.block_barrier())

precompile.STEPS = {"few": of_few}
memory.Allocation.poison = lambda made: made.block.bytes.fill(0)  # as asked_of has it
if not again:
    precompile.main()
loaded, compiled_here = [], []

class Loading(Idle):
    def load(self, code, entry, shared):
        loaded.append(code[:4] == bytes([127]) + b"ELF" and entry.encode() in code)
        return entry

def refused(*given):
    compiled_here.append(str(given[0]))
    return compiling.Code(b"", "")

with played_by(Loading(CARDS[9, 0])), patch.object(compiling, "compile_kernel", refused):
    of_few()
print(json.dumps([loaded, compiled_here]))
"""


@pytest.mark.slow
def test_another_process_finds_every_kernel_and_compiles_none(tmp_path):
    into = tmp_path / "cubins"
    store = {"NUMBA_CACHE_DIR": str(tmp_path / "a")}
    made = python(FEW, into, "first", options=(), cwd=CHECKOUT, **HERE | store)
    files = list(into.glob("*.kernel"))
    assert f"precompile: {len(files)} kernels compiled, 0 not" in made.stdout
    elsewhere = {"NUMBA_CACHE_DIR": str(tmp_path / "b"), "RNN_GPU_CUBINS": str(into)}
    loaded, compiled = says(FEW, into, "again", **elsewhere)
    assert loaded == [True] * len(files) and compiled == [] and len(files) >= 5
    files[0].write_bytes(files[0].read_bytes()[:-1])
    loaded, compiled = says(FEW, into, "again", **elsewhere)
    assert len(compiled) == 1


EXECUTED = """
import itertools, json, sys
sys.argv[:] = ["precompile"]
from benchmarks import _barriers, _memories
from rnn_gpu.kernels.emulator.card import card

_barriers.BARRIERS = 3
found = {}
with card() as played:
    for measurement, count in (
        (_memories.loads_of_shared_memory, 4),
        (_memories.prefetches_to_L2, 2),
        (_barriers.block_barrier, 1),
        (_barriers.exchange_through_L2, 2),
    ):
        rows = list(itertools.islice(measurement(), count))
        found[measurement.__name__] = [len(rows), [row["error"] for row in rows if "error" in row]]
print(json.dumps([found, [str(one) for one in played.findings()]]))
"""


@pytest.mark.slow
def test_the_microbenchmarks_as_compiled_give_the_right_numbers():
    """Those that the emulator executes: a barrier of counters, and clusters, are only compiled."""
    found, findings = says(EXECUTED, NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS="0")
    assert found == {
        "loads_of_shared_memory": [4, []],
        "prefetches_to_L2": [2, []],
        "block_barrier": [1, []],
        "exchange_through_L2": [2, []],
    }
    assert findings == []


CHECKED = """
import json, os, sys
from pathlib import Path
sys.argv[:] = ["precompile"]
from benchmarks import precompile
from benchmarks._asked import CARDS, Idle, compiling
from rnn_gpu.kernels.devices.cuda.driver import played_by
from rnn_gpu.kernels.store.files import Folder

class Card(Idle):
    def load(self, code, entry, shared):
        if code == b"new":
            raise RuntimeError("CUDA_ERROR_UNSUPPORTED_PTX_VERSION")
        return entry

def fill(*codes):
    folder = Path(sys.argv[0], "_".join(codes) or "none")
    folder.mkdir(parents=True)
    for code in codes:
        Folder(folder, 1 << 20).write(code, compiling.packed(compiling.Code(code.encode(), "k")))
    return folder

compiling.compile_kernel = lambda *given: compiling.Code(b"", "")
sys.argv[0] = os.environ["RNN_GPU_RESULTS"]
with played_by(Card(CARDS[9, 0])):
    print(json.dumps([precompile.check(fill(*codes)) for codes in ((), ("old", "new"), ("old",))]))
"""


def test_cubins_that_this_driver_cannot_load_or_that_are_wrong_are_not_used(tmp_path):
    done = python(
        CHECKED,
        options=(),
        cwd=CHECKOUT,
        **HERE | {"RNN_GPU_RESULTS": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path)},
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [1, 1, 1]
    not_used = "they are not used, and kernels are compiled here instead"
    assert f"{not_used}: RuntimeError: CUDA_ERROR_UNSUPPORTED" in done.stdout
    assert f"{not_used}: an LSTM's numbers are wrong" in done.stdout
    assert done.stdout.count(not_used) == 2

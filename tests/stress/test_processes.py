"""Hundreds of programs that start, compute at odd moments and end, and hundreds of forks under
load.  pytest -m stress tests/stress

They take minutes; the same a few times is in ../test_threads.py.
"""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from processes import run
from threaded import COMPILING, FORKING, INTERRUPTED, SIMULATED, posix

pytestmark = [pytest.mark.stress, posix]

TWO = ThreadPoolExecutor(2)  # programs at a time

ENDINGS = """
import atexit, random, signal, sys, time

def late():
    if "train" in globals():
        assert train(layer) == expected
        call()

class Last:
    def __del__(self):
        late()

if random.random() < 0.5:
    atexit.register(late)
from processes import *

seed = int(sys.argv[1])
random.seed(seed)

def handle(number, frame):
    call()
    Last()
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 1e-3))

signal.signal(signal.SIGALRM, handle)
share_all(random.choice([2, 3]))
layer = rnn_gpu.RNN(5, 7, device="cpu", seed=0)
expected, last = train(layer), Last()
call()  # what is not compiled cannot be when Python is no more
if random.random() < 0.5:
    atexit.register(late)
ends = ["at once", "asleep", "interrupted", "handler", "daemon", "thread", "exit", "error"]
how = random.choice(ends)
if how == "asleep":
    call()
    time.sleep(0.01)
if how == "interrupted":
    signal.signal(signal.SIGALRM, interrupt)
    sum(interrupting(call, random.uniform(1e-6, 1e-4)) for _ in range(200))
if how == "handler":
    handle(None, None)
    for _ in range(200):
        call()
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
if how in ("daemon", "thread"):
    calls = 10**9 if how == "daemon" else 300
    threading.Thread(target=lambda: [call() for _ in range(calls)], daemon=how == "daemon").start()
    time.sleep(random.choice([0, 1e-3, 1e-2]))
print(how)
sys.stdout.flush()
if how == "exit":
    call()
    sys.exit(0)
if how == "error":
    raise SystemExit(0) from ValueError(call())
"""


def test_three_hundred_programs_start_and_end():
    ends = Counter()
    for how in TWO.map(lambda seed: run(ENDINGS, seed, patience=3600).strip(), range(300)):
        ends[how] += 1
        print(ends.total(), dict(ends), flush=True)
    assert ends.total() == 300


@pytest.mark.parametrize("others", ["compute", "compile"])
def test_a_hundred_and_fifty_forks_of_a_busy_program(others):
    assert run(FORKING, 150, others, patience=3600).split()[-1] == "done"


def test_a_hundred_and_fifty_forks_of_a_busy_simulator():
    assert run(SIMULATED, 150, patience=3600).split()[-1] == "done"


def test_twenty_thousand_calls_are_interrupted():
    hits = list(TWO.map(lambda _: int(run(INTERRUPTED, 10_000, patience=3600)), range(2)))
    print(hits)
    assert min(hits) > 100


def test_forty_compilations_are_interrupted():
    hits = list(TWO.map(lambda _: int(run(COMPILING, 20, patience=3600)), range(2)))
    print(hits)
    assert min(hits) > 3

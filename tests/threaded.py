"""Programs in which threads meet signals and forks: test_threads.py runs each a few times,
stress/test_processes.py hundreds of times.

Each says at its end what a test asserts: how many calls were interrupted, or that it is done. Its
first argument is how often.
"""

import os

import pytest

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="no timers and no fork here")

INTERRUPTED = """
from processes import *

signal.signal(signal.SIGALRM, interrupt)
call()
hits = 0
for i in range(int(sys.argv[1])):
    if random.random() < 0.1:
        time.sleep(0.001)  # the others sleep
    hits += interrupting(call, random.uniform(1e-6, 1e-4))
call()
print(hits)
"""

COMPILING = """
from processes import *

signal.signal(signal.SIGALRM, interrupt)
call(kernel=adding(0), amount=0)
begin = time.perf_counter()
call(kernel=adding(1), amount=1)
seconds, hits = time.perf_counter() - begin, 0
for i in range(int(sys.argv[1])):
    kernel = adding(i)
    hits += interrupting(lambda: call(kernel=kernel, amount=i), random.uniform(0.01, 0.8 * seconds))
    for team in threads.turns.teams.values():
        expected = team.board[threads.TURN]
        assert team.board[threads.COMING] == expected, "a call is announced that does not come"
    call()
    call(kernel=kernel, amount=i)
print(hits)
"""

FORKING = """
from processes import *

def busy():
    for i in range(10**9):
        call(kernel=adding(1) if compiles and i % 200 == 0 else add_one)
        arrays = [memory.empty((memory.LASTING + i % 3,), "f") for _ in range(3)]
        del arrays

def in_child():
    assert call() is None
    assert memory.empty((memory.LASTING,), "f").size == memory.LASTING
    assert train(layer) == expected

share_all()
layer = rnn_gpu.RNN(5, 7, device="cpu", seed=0)
expected, compiles = train(layer), sys.argv[2] == "compile"
others = [threading.Thread(target=busy, daemon=True) for _ in range(2)]
for thread in others:
    thread.start()
for i in range(int(sys.argv[1])):
    child = forked(in_child)
    assert ended(child) == 0, i
    call()
print("done")
"""

SIMULATED = """
import os
os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
from processes import *

def launch():
    y, _ = layer(np.ones((3, 2, 2), "f"))
    assert (y == expected).all()

layer = rnn_gpu.RNN(2, 3, device="cuda", seed=0)
expected = layer(np.ones((3, 2, 2), "f"))[0].copy()
threading.Thread(target=lambda: [launch() for _ in range(10**9)], daemon=True).start()
for i in range(int(sys.argv[1])):
    assert ended(forked(launch)) == 0, i
print("done")
"""

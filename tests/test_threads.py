"""Calls that threads share come to an end and are right: whatever stops them, whenever they come,
and in forked processes.

Programs of their own show it, for what fails hangs. The same hundreds of times:
stress/test_processes.py.
"""

import threading

import pytest

from processes import adding, call, run
from rnn_gpu.kernels.devices.cpu import threads
from threaded import COMPILING, FORKING, INTERRUPTED, SIMULATED, posix

# Stopped


@posix
def test_a_call_that_is_interrupted_anywhere_leaves_threads_that_work_and_end():
    assert int(run(INTERRUPTED, 2000)) > 100


@pytest.mark.slow
@posix
def test_a_call_that_is_interrupted_while_it_compiles_can_be_made_again():
    assert int(run(COMPILING, 4)) > 0


def test_a_call_is_compiled_while_nobody_waits_for_it(monkeypatch):
    """Neither threads that look at the board nor other calls for their turn."""
    call()
    board, found = threads.turns.teams[3].board, []
    kind = type(threads.shared(adding(0)))
    compile = kind._compile_for_args

    def compiling(self, *arguments):
        found.append((threads.turns.taken, board[threads.COMING] == board[threads.TURN]))
        return compile(self, *arguments)

    monkeypatch.setattr(kind, "_compile_for_args", compiling)
    call(kernel=adding(6), amount=6)
    assert found == [(False, True)]


def test_what_cannot_be_compiled_leaves_threads_that_work():
    @threads.jit
    def wrong(a, arrived, part, parts):
        return a.no_such_thing

    with pytest.raises(Exception, match="no_such_thing"):
        call(kernel=wrong)
    call()


# How many

ASKED = """
from processes import *
from threading import Thread
from numba.np.ufunc import parallel

all = numba.config.NUMBA_NUM_THREADS
print(threads.most() == all, call(2), not parallel._is_initialized)
numba.set_num_threads(1)
others = []
thread = Thread(target=lambda: others.append(threads.most()))
thread.start()
thread.join()
print(threads.most() == 1, others == [all])
"""


def test_to_ask_numba_how_many_threads_starts_none_of_its_own():
    assert run("import numba" + ASKED).split() == ["True", "None", "True", "True", "True"]


# At odd moments

AT_THE_END = """
import atexit

def late():
    call()
    print(train(layer) == expected)

class Last:
    def __del__(self):
        late()

# before the library has registered anything: it comes after the end of the threads
atexit.register(late)
from processes import *

share_all()
layer = rnn_gpu.RNN(5, 7, device="cpu", seed=0)
call()
expected = train(layer)
last = Last()
if sys.argv[1] == "busy":  # in a call, wherever that is then
    threading.Thread(target=lambda: [call() for _ in range(10**9)], daemon=True).start()
time.sleep(random.choice([0, 0.001, 0.1]))
"""


@pytest.mark.parametrize("others", ["idle", pytest.param("busy", marks=pytest.mark.slow)])
def test_calls_at_the_end_of_python_are_done_alone(others):
    told = run(AT_THE_END, others).split()
    # a daemon may keep what would be finalized
    assert told == ["True", "True"] or (told == ["True"] and others == "busy")


HANDLED = """
from processes import *
import gc

class Cycle:
    def __init__(self):
        self.me = self

    def __del__(self):
        call()
        done.append("finalized")

def handle(number, frame):
    call()
    Cycle()
    done.append("handled")
    signal.setitimer(signal.ITIMER_REAL, 3e-4)

share_all()
layer = rnn_gpu.RNN(5, 7, device="cpu", seed=0)
expected, done = train(layer), []
call()
gc.set_threshold(50)
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 3e-4)
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    call()
    if random.random() < 0.1:
        time.sleep(1e-3)
signal.signal(signal.SIGALRM, signal.SIG_IGN)
assert train(layer) == expected
print(done.count("handled"), done.count("finalized"))
"""


@posix
def test_calls_of_handlers_and_finalizers_in_the_midst_of_another_are_done_alone():
    handled, finalized = map(int, run(HANDLED, 1).split())
    assert handled > 50 and finalized > 50


def test_a_call_in_the_midst_of_another_of_its_thread_is_done_alone(monkeypatch):
    call()
    team, parts = threads.turns.teams[3], []
    share = team.share

    def meanwhile(*arguments):
        monkeypatch.undo()
        before = int(team.board[threads.TURN])
        call()
        parts.append(int(team.board[threads.TURN]) - before)
        share(*arguments)

    monkeypatch.setattr(team, "share", meanwhile)
    call()
    assert parts == [0] and not threads.turns.taken


class Greenlet(threading.Thread):
    """A thread that is none: it runs in the thread that starts it."""

    def start(self):
        self.run()


def test_where_threads_are_greenlets_a_call_is_done_alone(monkeypatch):
    monkeypatch.setattr(threads, "Thread", Greenlet)
    monkeypatch.setattr(threads.turns, "teams", {})
    call()
    call()
    assert threads.turns.teams[3].board[threads.ENDED]


def test_where_no_thread_can_be_started_a_call_is_done_alone(monkeypatch):
    def refuse(thread):
        if thread.name.endswith("-2"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threads.turns, "teams", {})
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", refuse)
    call()
    assert not threads.turns.teams
    monkeypatch.undo()
    call()  # the next one has its threads again


# Forked

BY_A_HANDLER = """
from processes import *
from rnn_gpu.kernels.undisturbed import undisturbed

parent, children = os.getpid(), []

def fork(number, frame):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        children.append(os.fork())

def work():
    time.sleep(1)
    return 7

signal.signal(signal.SIGALRM, fork)
signal.setitimer(signal.ITIMER_REAL, 0.2)
assert undisturbed(work) == 7
if os.getpid() != parent:
    call(kernel=adding(8), amount=8)
    os._exit(0)
assert children
print(ended(children[0]))
"""


@posix
def test_a_process_that_a_handler_forks_while_a_kernel_is_compiled_goes_on():
    """In the child nobody compiles any more whom it could wait for."""
    assert run(BY_A_HANDLER) == "0\n"


VECTORIZED = """
from processes import *
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices.cpu import compilation

seen = []
run = compilation.CPUDispatcher.compile

def compiling(self, sig):
    seen.append(threading.current_thread() is threading.main_thread())
    return run(self, sig)

compilation.CPUDispatcher.compile = compiling
assert recurrence.vectorized(CELLS["lstm"], np.float32)
print(seen and not any(seen))
"""


def test_whether_a_cell_can_be_compiled_on_vectors_is_tried_where_no_signal_comes():
    assert run(VECTORIZED) == "True\n"


@posix
@pytest.mark.parametrize("others", ["compute", pytest.param("compile", marks=pytest.mark.slow)])
def test_a_forked_process_computes_whatever_other_threads_were_doing(others):
    assert run(FORKING, 5, others).split()[-1] == "done"


@posix
def test_a_forked_process_launches_in_the_simulator_whatever_other_threads_were_doing():
    assert run(SIMULATED, 5).split()[-1] == "done"

"""Compiling that no signal stops.

Neither Numba nor LLVM can be stopped while they compile: after a Ctrl-C there the process crashes,
or takes a function for one that is still being compiled. Python's signals are the main thread's
affair, so it only waits, and another thread compiles.
"""

import sys
from concurrent.futures import Future
from threading import Thread, current_thread, main_thread

from .private import global_compiler_lock

LOOK = 0.1  # seconds after which is looked whether a thread still compiles


def undisturbed(action, *arguments):
    """action(*arguments), to its end whatever comes meanwhile: a KeyboardInterrupt ends the wait
    for it, not the action.

    It is done here where no signal comes, where the lock of compilers is held already, and where no
    thread can be started any more.
    """
    if (
        current_thread() is not main_thread()
        or global_compiler_lock.is_locked()
        or sys.is_finalizing()
    ):
        return action(*arguments)
    done = Future()

    def act():
        try:
            done.set_result(action(*arguments))
        except BaseException as error:
            done.set_exception(error)

    thread = Thread(target=act, name="rnn_gpu-compiler")
    try:
        thread.start()
    except RuntimeError:
        return action(*arguments)
    while thread.is_alive():  # not in a process that a signal's handler has forked meanwhile
        thread.join(LOOK)
    return done.result() if done.done() else action(*arguments)

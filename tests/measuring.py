"""What the tests of memory share."""

import gc
import tracemalloc


def peak(run) -> int:
    """Bytes at most that a call takes of those that Python and NumPy give."""
    gc.collect()
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

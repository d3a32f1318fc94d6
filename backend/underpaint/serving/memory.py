"""How this process takes memory from the system."""

import contextlib
import ctypes

_M_ARENA_MAX = -8  # of glibc's mallopt


def limit_arenas(count: int = 2) -> None:
    """Have glibc serve all threads from `count` heaps, in place of eight a core; elsewhere, nothing changes.

    Each heap keeps room for the most that was ever taken from it at once, and images and nets move from thread to
    thread: a backend of many threads would grow for hours, and keep what it swapped out. What is large has mappings of
    its own, so that sharing a heap costs no time that matters. It counts for threads that start later.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, count)


def give_back() -> None:
    """Have glibc return to the system what its heaps hold free; elsewhere, nothing happens.

    It keeps what lies between two blocks in use, which is most of what a segmenter held that serves no more.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

"""How this process takes memory from the system, and gives it back."""

import contextlib
import ctypes
import threading
import time

_M_ARENA_MAX = -8  # of glibc's mallopt
_LOOKS = 0.5  # seconds between two at how busy the process is
_RESTING = 0.1  # share of a core, below which it rests


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

    It keeps what lies between two blocks in use, which is most of what a segmenter held that serves no more, and of
    what a call of many images took.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def give_back_at_rest(stopping: threading.Event) -> None:
    """``give_back`` whenever the process comes to rest, until ``stopping``: then nobody waits for what it takes."""
    busy, before = False, time.process_time()
    while not stopping.wait(_LOOKS):
        now = time.process_time()
        resting = now - before < _RESTING * _LOOKS
        if busy and resting:
            give_back()
        busy, before = not resting, time.process_time()

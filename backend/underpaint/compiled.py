"""Loops that NumPy has no words for, compiled by numba when they are first called."""

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compiles `function` without Python objects in it, so that it runs beside other threads.

    The machine code is kept for the next process: beside the source, else in ``NUMBA_CACHE_DIR`` or the user's cache.
    Where none of these can be written, each process compiles anew, within seconds.
    """
    # Fused multiply-add rounds once instead of twice; no other liberty is taken with floats.
    try:
        return cast(Function, njit(function, cache=True, nogil=True, fastmath={"contract"}))
    # numba's answer when it finds no folder to write to.
    except RuntimeError:
        return cast(Function, njit(function, nogil=True, fastmath={"contract"}))

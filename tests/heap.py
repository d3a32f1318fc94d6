"""Memory that this process took and freed, and glibc keeps."""

import ctypes
import platform
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc, which keeps what is freed")

HOLE_MIB = 78
_BLOCK = 4000


@contextmanager
def hole() -> Iterator[float]:
    """`HOLE_MIB` that are free and still this process's; yields the MiB that it holds with them."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
    blocks = [libc.malloc(_BLOCK) for _ in range(HOLE_MIB * 2**20 // _BLOCK)]
    for block in blocks:
        ctypes.memset(block, 1, _BLOCK)
    for block in blocks[:-1]:  # the last one keeps those below it from the system
        libc.free(block)
    yield resident_mib()
    libc.free(blocks[-1])


def resident_mib() -> float:
    """Memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20

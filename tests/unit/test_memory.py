import platform
import subprocess
import sys

import pytest

HEAPS = """
import ctypes, threading
from underpaint.serving.memory import limit_arenas

if {limited}:
    limit_arenas(2)
libc, gate = ctypes.CDLL(None), threading.Barrier(25)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p

def take():
    for _ in range(100):
        libc.malloc(1000)
    gate.wait()

threads = [threading.Thread(target=take) for _ in range(24)]
[thread.start() for thread in threads]
gate.wait()
stream = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, stream)
libc.fclose(stream)
"""


def heaps(*, limited: bool) -> int:
    script = HEAPS.format(limited=limited)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.count(
        "<heap nr="
    )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc, whose heaps are limited")
def test_threads_share_a_few_heaps() -> None:
    assert heaps(limited=False) > 4
    assert heaps(limited=True) <= 2

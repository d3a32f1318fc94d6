import subprocess
import sys
import threading
import time

from heap import HOLE_MIB, hole, needs_glibc, resident_mib
from underpaint.serving.memory import give_back_at_rest

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


@needs_glibc
def test_threads_share_a_few_heaps() -> None:
    assert heaps(limited=False) > 4
    assert heaps(limited=True) <= 2


@needs_glibc
def test_memory_goes_back_to_the_system_once_the_process_rests() -> None:
    stopping = threading.Event()
    watching = threading.Thread(target=give_back_at_rest, args=(stopping,))
    with hole() as full:
        watching.start()
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert resident_mib() > full - HOLE_MIB / 4, "who is busy is let alone"
        while resident_mib() > full - HOLE_MIB / 2:
            assert time.monotonic() < until + 10
            time.sleep(0.1)
    stopping.set()
    watching.join()

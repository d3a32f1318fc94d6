"""Processes that end with the one that started them, however that ends: none is left to train what nobody waits for."""

import contextlib
import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PARENT = "UNDERPAINT_PARENT_PROCESS"


def be_parent() -> None:
    """Let the processes that this one starts from now on know who started them."""
    os.environ[_PARENT] = str(os.getpid())


def end_with_parent() -> bool:
    """Have the system kill this process when the one that started it ends; False if that has ended already."""
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than on Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.environ.get(_PARENT) == str(os.getppid())

"""People first: what a worker leaves of the machine to those who wait for predictions."""

import contextlib
import os
from pathlib import Path


def step_back(niceness: int) -> None:
    """Make this process, and all that it starts, yield the CPU to others by `niceness` (0–19), added to what it has.

    Linux shares the CPU among sessions first and weighs niceness only within each, unless told otherwise. So a session
    that is this process's own, as systemd and containers begin one, gets the niceness as a whole.
    """
    total = os.nice(niceness)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # elsewhere than on Linux, or without such groups
            Path("/proc/self/autogroup").write_text(str(total))

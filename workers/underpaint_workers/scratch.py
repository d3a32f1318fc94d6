"""Folders for a job's working files, which don't outlive it for long, however it ends."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "underpaint-"
LOCK = ".lock"


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder for as long as the block runs. Those of killed processes are removed first."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        _remove_if_left(left)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, Path(name, LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def _remove_if_left(path: Path) -> None:
    """Remove the folder of a lock that no process holds: the system frees a lock however its process ends."""
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
    except OSError:  # it is held, or another user's, or gone
        return

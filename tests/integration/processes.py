"""Programs that a test runs for real, and the waiting for what they do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

UNDERPAINT = (sys.executable, "-m", "underpaint.cli")
START_SECONDS = 60.0


@dataclass
class Program:
    """A started program and the file that its output goes to."""

    process: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        """What it printed so far, as one line, so that no assertion depends on where lines were broken."""
        return " ".join(self.log.read_text(errors="replace").split())

    def wait(self, seconds: float = 30.0) -> int:
        """Its exit status; fails the test when it runs on for longer."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it still runs after {seconds:.0f} s: {self.output()}") from None

    def answers(self, url: str) -> bool:
        """Whether its server answers; fails the test when it has ended instead."""
        assert self.process.poll() is None, f"it ended with status {self.process.returncode}: {self.output()}"
        try:
            return httpx.get(url, timeout=5.0, trust_env=False).is_success
        except httpx.HTTPError:
            return False


@contextmanager
def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str], folder: Path | None = None
) -> Iterator[Program]:
    """Run ``command`` in a session of its own until the block ends; nothing that it started outlives the block."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=folder, start_new_session=True
        )
    try:
        yield Program(process, log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in session(process.pid):
            os.kill(pid, signal.SIGKILL)


def session(leader: int) -> dict[int, str]:
    """Command lines, by process id, of what still runs in the session that process ``leader`` opened."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, its_session = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:4]
            if int(its_session) == leader and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return found


def eventually(condition: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
    """Wait until ``condition`` holds; fails the test if that takes too long."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)

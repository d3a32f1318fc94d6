"""Underpaint as processes that a test starts, starves and kills."""

import os
import signal
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from integration.processes import UNDERPAINT, Program, eventually, running, session
from underpaint.checkpoints.store import Store
from underpaint.labelstudio.client import LabelStudio
from underpaint.redis_server import RedisServer, free_port
from underpaint.settings import Settings
from underpaint.signals import Signals

# The least of everything that still is a training.
SMALL = {
    "UNDERPAINT_BASE": "none",
    "UNDERPAINT_DEVICE": "cpu",
    "UNDERPAINT_IMAGE_SIZE": "64",
    "UNDERPAINT_TRAIN_STRATEGY": "final",
    "UNDERPAINT_TRAIN_EPOCHS": "1",
    "UNDERPAINT_TRAIN_MIN_STEPS": "1",
    "UNDERPAINT_RETRAIN_AFTER_LABELS": "1",
    "UNDERPAINT_RETRAIN_QUIET_SECONDS": "1",
}


@dataclass
class Underpaint:
    """A store, a Redis, and as many backends and workers as a test starts."""

    folder: Path
    redis: RedisServer
    environment: dict[str, str]

    @classmethod
    def beside(cls, client: LabelStudio, folder: Path, redis: RedisServer, store: str | None = None) -> "Underpaint":
        """With a store in ``folder``, or at the URL ``store``."""
        environment = {
            **SMALL,
            "UNDERPAINT_REDIS_URL": redis.url,
            "UNDERPAINT_STORE": store or str(folder / "store"),
            "UNDERPAINT_LABEL_STUDIO_URL": client.url,
            "UNDERPAINT_LABEL_STUDIO_TOKEN": client.headers()["Authorization"].removeprefix("Token "),
        }
        return cls(folder, redis, environment)

    def __post_init__(self) -> None:
        self.settings = Settings(store=self.environment["UNDERPAINT_STORE"], redis_url=self.redis.url)
        self.store = Store(self.settings.store)
        self.signals = Signals(self.settings.redis_url, self.settings.queue)
        self.url = f"http://127.0.0.1:{free_port()}"
        self._started = 0

    def worker(self, *wrapper: str, **overrides: object) -> AbstractContextManager[Program]:
        return self._run([*wrapper, *UNDERPAINT, "work"], overrides)

    def worker_on(self, machine: Path, /, **overrides: object) -> AbstractContextManager[Program]:
        """A worker whose working and temporary folders are in ``machine``."""
        return self._run([*UNDERPAINT, "work"], overrides, machine)

    def backend(self, url: str = "") -> AbstractContextManager[Program]:
        """A backend at ``url``, by default the one that this has; it may not answer yet."""
        return self._run([*UNDERPAINT, "serve", "--port", (url or self.url).rpartition(":")[2]], {})

    def post(self, path: str, body: dict[str, Any]) -> None:
        httpx.post(f"{self.url}{path}", json=body, timeout=30.0, trust_env=False).raise_for_status()

    def _run(
        self, command: Sequence[str], overrides: dict[str, object], machine: Path | None = None
    ) -> AbstractContextManager[Program]:
        self._started += 1
        more = {f"UNDERPAINT_{name.upper()}": str(value) for name, value in overrides.items()}
        if machine is not None:
            for folder in ("working", "temporary"):
                (machine / folder).mkdir(parents=True)
            more["TMPDIR"] = str(machine / "temporary")
        log, environment = self.folder / f"{self._started}.log", os.environ | self.environment | more
        return running(command, log, environment, machine and machine / "working")


def job_process(worker: Program) -> int:
    """The process id of the job that a worker runs; waits for one."""
    found: list[int] = []

    def look() -> bool:
        found[:] = [pid for pid in session(worker.process.pid) if pid != worker.process.pid]
        return bool(found)

    eventually(look, "the worker runs a job")
    return found[0]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    eventually(partial(_is_gone, pid), f"process {pid} ends", 10)


def _is_gone(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True

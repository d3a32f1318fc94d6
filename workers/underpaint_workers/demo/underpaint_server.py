"""Underpaint beside a Label Studio that runs: Redis, and ``underpaint up`` as a process of its own."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Self

import httpx
from rich.console import Console

from underpaint.checkpoints.store import Store
from underpaint.labelstudio.client import LabelStudio
from underpaint.redis_server import RedisServer, free_port
from underpaint.settings import Settings
from underpaint.signals import Signals
from underpaint_workers.demo.label_studio import LabelStudioServer

START_SECONDS = 120.0


class UnderpaintServer:
    """A context manager; store, Redis data and log live in ``folder``.

    ``overrides`` are settings by their names in the environment, such as ``UNDERPAINT_TRAIN_MINUTES``.
    """

    def __init__(
        self,
        label_studio: LabelStudioServer,
        folder: Path,
        console: Console,
        overrides: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log_path = folder / "underpaint.log"
        self._console = console
        self._redis = RedisServer(folder / "redis")
        self.environment = {
            "UNDERPAINT_REDIS_URL": self._redis.url,
            "UNDERPAINT_STORE": str(folder / "store"),
            "UNDERPAINT_LABEL_STUDIO_URL": label_studio.url,
            "UNDERPAINT_LABEL_STUDIO_TOKEN": label_studio.token,
            **overrides,
        }
        """The settings that make a process part of this Underpaint; of the caller's, none reach it."""
        self.store = Store(str(folder / "store"))
        self.signals = Signals(self._redis.url, Settings.model_fields["queue"].default)
        self.label_studio = LabelStudio(label_studio.url, label_studio.token)
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._redis)
            stack.callback(self.label_studio.close)
            self._process = self._start()
            stack.callback(self._stop, self._process)
            self._wait_until_up(self._process)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def wait(self) -> None:
        """Stay up until Underpaint ends, which by itself it shouldn't: raises RuntimeError that says where to look."""
        if self._process is not None:
            status = self._process.wait()
            raise RuntimeError(f"Underpaint ended with status {status}: {self.log_path} says why")

    def serving(self) -> dict[str, str]:
        """Version by project, as the backend's /health says; raises RuntimeError when it doesn't answer."""
        try:
            answer = httpx.get(f"{self.url}/health", timeout=5.0, trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            raise RuntimeError(f"Underpaint's backend gives no answer ({error}): {self.log_path} says why") from error
        return dict(answer.json()["champions"])

    def _start(self) -> subprocess.Popen[bytes]:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not re.match("UNDERPAINT_|REDIS_URL$", name)}
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "underpaint.cli", "up", "--port", self.url.rsplit(":", 1)[1]],
                env=kept | self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the caller, which then stops everything in order
            )

    @staticmethod
    def _stop(process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        process.wait()

    def _wait_until_up(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        with self._console.status("waiting for Underpaint's backend …"):
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    self.serving()
                    return
                except RuntimeError:
                    time.sleep(0.2)
        tail = "\n".join(self.log_path.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(f"Underpaint did not start. {self.log_path} ends:\n{tail}")

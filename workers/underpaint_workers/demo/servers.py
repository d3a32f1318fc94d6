"""The demo's processes: Redis, Label Studio, and Underpaint itself as ``underpaint up`` runs it."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
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


class Servers:
    """Everything the loop needs, started together and stopped together; a context manager.

    ``settings`` overrides Underpaint's settings, by their names in the environment.
    """

    def __init__(
        self,
        label_studio: Path,
        folder: Path,
        template: Path,
        console: Console,
        settings: dict[str, str] | None = None,
    ) -> None:
        self._console = console
        self._folder = folder
        self._overrides = settings or {}
        self.label_studio_server = LabelStudioServer(
            label_studio, folder / "label-studio", template=template, report=lambda line: console.print(line)
        )
        self._redis = RedisServer(folder / "redis")
        self._stack = ExitStack()
        self._underpaint: subprocess.Popen[bytes] | None = None
        self.log_path = folder / "underpaint.log"
        self.backend_url = f"http://127.0.0.1:{free_port()}"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._redis)
            stack.enter_context(self.label_studio_server)
            self.label_studio = LabelStudio(self.label_studio_server.url, self.label_studio_server.token)
            stack.callback(self.label_studio.close)
            environment = os.environ | {
                "REDIS_URL": self._redis.url,
                "UNDERPAINT_STORE": str(self._folder / "store"),
                "UNDERPAINT_LABEL_STUDIO_URL": self.label_studio_server.url,
                "UNDERPAINT_LABEL_STUDIO_TOKEN": self.label_studio_server.token,
                **self._overrides,
            }
            self._underpaint = self._start_underpaint(environment)
            stack.callback(self._stop_underpaint)
            self._wait_until_up()
            self._stack = stack.pop_all()
        self.settings = Settings(store=str(self._folder / "store"), redis_url=self._redis.url)
        self.store = Store(self.settings.store)
        self.signals = Signals(self.settings.redis_url, self.settings.queue)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def wait(self) -> None:
        """Stay up until interrupted, or until Underpaint ends."""
        if self._underpaint is not None:
            try:
                self._underpaint.wait()
            except KeyboardInterrupt:
                self._console.print("Stopping …")

    def _start_underpaint(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        port = self.backend_url.rsplit(":", 1)[1]
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "underpaint.cli", "up", "--port", port],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the demo, which then stops it in order
            )

    def _stop_underpaint(self) -> None:
        if self._underpaint is not None:
            self._underpaint.terminate()
            self._underpaint.wait()

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        with self._console.status("waiting for Underpaint's backend …"):
            while time.monotonic() < deadline and self._underpaint and self._underpaint.poll() is None:
                try:
                    httpx.get(f"{self.backend_url}/health", timeout=2.0, trust_env=False).raise_for_status()
                    self._console.print(f"Underpaint is up on {self.backend_url}", highlight=False)
                    return
                except httpx.HTTPError:
                    time.sleep(0.2)
        tail = "\n".join(self.log_path.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(f"Underpaint did not start. {self.log_path} ends:\n{tail}")

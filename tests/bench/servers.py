"""The programs that the serving bench measures, each in a process of its own, and the caller that asks them."""

import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from integration.processes import UNDERPAINT, Program, eventually, running
from underpaint.redis_server import free_port
from underpaint.taxonomy import LANDSCAPE

PROJECT = "3.1795344327"
CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="surface" toName="image">'
    + "".join(f'<Label value="{name}"/>' for name in LANDSCAPE)
    + "</BrushLabels></View>"
)
START_SECONDS = 120.0
_PREDICT_SECONDS = 600  # Label Studio waits 100; a slow machine should still be measured
# Parsing whole answers would take the cores from what is measured. This stands once in each slot that has regions.
_GOOD_SLOT = re.compile(rb'"result":\s*\[\s*\{')


class Refused(RuntimeError):
    """A backend answered what Label Studio could not use."""


class Client:
    """One caller, as Label Studio is one, on one connection, kept open where the server allows it."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PREDICT_SECONDS)

    def setup(self) -> str:
        """The version that the backend says it will predict with."""
        body = {"project": PROJECT, "schema": CONFIG, "hostname": "http://127.0.0.1:1", "access_token": "none"}
        return str(json.loads(self._ask("POST", "/setup", body))["model_version"])

    def champions(self) -> dict[str, str]:
        """Version by project that the backend serves now, as its /health says."""
        found: dict[str, str] = json.loads(self._ask("GET", "/health"))["champions"]
        return found

    def predict(self, urls: Sequence[str]) -> bytes:
        """The answer, JSON, to one call with a task for each URL.

        Raises:
            Refused: Label Studio couldn't use it, or a task got no region.
            OSError, http.client.HTTPException: the connection broke.
        """
        tasks = [{"id": number, "data": {"image": url}, "project": 3} for number, url in enumerate(urls, 1)]
        params = {"login": None, "password": None, "context": None}
        body = {"tasks": tasks, "project": PROJECT, "label_config": CONFIG, "params": params}
        answer = self._ask("POST", "/predict", body)
        if (good := len(_GOOD_SLOT.findall(answer))) != len(urls):
            slots = json.loads(answer)["results"]
            bad = [slot for slot in slots if not (slot and slot["result"])]
            raise Refused(f"{good} of {len(urls)} tasks got regions, and others {bad[:3]}")
        return answer

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        self._connection.request(method, path, json.dumps(body or {}), {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        answer = response.read()
        if response.status not in (200, 201):
            raise Refused(f"{path} answered {response.status}: {answer[:300]!r}")
        return answer


def environment(**values: str) -> dict[str, str]:
    """This process's, with `values` and without the Underpaint that the person who measures works with."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNDERPAINT_")}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **values}


@contextmanager
def image_host(folder: Path, log: Path) -> Iterator[str]:
    """Serve the files of `folder`; yields the host and port."""
    host = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "http.server", host.rpartition(":")[2], "--bind", "127.0.0.1"]
    with running([*command, "--directory", str(folder), "--protocol", "HTTP/1.1"], log, environment()) as program:
        eventually(lambda: program.answers(f"http://{host}/"), "the images are served", START_SECONDS)
        yield host


@contextmanager
def peer_server(folder: Path) -> Iterator[int]:
    """label-studio-ml's own server with the peer, made and started by its own commands; yields the port."""
    scripts, port = Path(sys.executable).parent, free_port()
    script = f"{Path(__file__).with_name('peer.py')}:Peer"
    folder.mkdir(parents=True)
    subprocess.run(
        [scripts / "label-studio-ml", "init", "peer", "--script", script],
        cwd=folder, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    # It starts whatever `python` is first on PATH, and keeps what it downloads in the user's cache.
    values = {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "XDG_CACHE_HOME": str(folder / "cache")}
    command = [str(scripts / "label-studio-ml"), "start", "peer", "--host", "127.0.0.1", "--port", str(port)]
    with running(command, folder / "peer.log", environment(**values), folder) as program:
        eventually(lambda: program.answers(f"http://127.0.0.1:{port}/health"), "the peer answers", START_SECONDS)
        Client(port).setup()
        yield port


@contextmanager
def our_server(log: Path, values: Mapping[str, str]) -> Iterator[tuple[int, Program]]:
    """``underpaint serve`` with the settings `values`; yields its port and its process."""
    port = free_port()
    command = [*UNDERPAINT, "serve", "--port", str(port)]
    with running(command, log, environment(**values)) as program:
        eventually(lambda: program.answers(f"http://127.0.0.1:{port}/health"), "the backend answers", START_SECONDS)
        Client(port).setup()
        yield port, program

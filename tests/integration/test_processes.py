"""Several backends on one store: a promotion reaches all of them while they serve."""

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from integration.processes import START_SECONDS, UNDERPAINT, Program, eventually, running, session
from underpaint.checkpoints.store import Store
from underpaint.redis_server import free_port
from underpaint.settings import Settings
from underpaint.signals import Signals

PROJECT = "3.1795344327"
CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    '<Label value="Sky"/><Label value="Water"/></BrushLabels></View>'
)
DEAD_REDIS = "redis://127.0.0.1:1/0"
SWAP_SECONDS = 10.0


@dataclass
class Backend:
    """A serving process as Label Studio sees it."""

    name: str
    program: Program
    client: httpx.Client

    def post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self.client.post(path, json=body)
        assert answer.status_code == 200, f"{self.name}: {answer.text}"
        return answer.json()

    def is_up(self) -> bool:
        return self.program.answers(f"{self.client.base_url}/health")

    def version(self) -> str:
        return str(self.post("/setup", {"project": PROJECT, "schema": CONFIG})["model_version"])

    def predict(self, painting: str, tasks: int = 3) -> list[dict[str, Any]]:
        body = {
            "tasks": [{"id": number, "data": {"image": painting}} for number in range(tasks)],
            "project": PROJECT,
            "label_config": CONFIG,
            "params": {"context": None},
        }
        return list(self.post("/predict", body)["results"])


@dataclass
class Load:
    """What one client saw that asks a backend without pause, as Label Studio does: /setup, /predict, /setup."""

    backend: Backend
    painting: str
    labels: dict[str, str]
    """The one label that each version predicts."""
    stopping: threading.Event
    latest: str | None = None
    faults: list[str] = field(default_factory=list)

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                before = self.backend.version()
                results = self.backend.predict(self.painting)
                self.check(results, {before, self.backend.version()})
            except Exception as error:
                self.faults.append(f"{self.backend.name}: {error!r}")

    def sees(self, version: str) -> bool:
        """Whether the latest response was made by ``version``."""
        return self.latest == version

    def check(self, results: list[dict[str, Any]], known: set[str]) -> None:
        made_by = {result["model_version"] for result in results}
        assert len(made_by) == 1, f"one response by {made_by}"
        assert made_by <= known, f"/predict by {made_by} while /setup said {known}"
        found = {label for result in results for region in result["result"] for label in region["value"]["brushlabels"]}
        [self.latest] = made_by
        assert found == {self.labels[version] for version in made_by}, f"{found} by {made_by}"


@pytest.fixture
def backends(settings: Settings, painting: str, tmp_path: Path) -> Iterator[list[Backend]]:
    """Two backends that only hear of promotions, as their poll is an hour away, and one that only polls."""
    heard = {"UNDERPAINT_POLL_SECONDS": "3600"}
    polled = {"UNDERPAINT_POLL_SECONDS": "0.5", "REDIS_URL": DEAD_REDIS}
    with ExitStack() as stack:
        found = []
        for name, environment in {"heard": heard, "heard too": heard, "polled": polled}.items():
            port = free_port()
            command = [*UNDERPAINT, "serve", "--port", str(port)]
            program = stack.enter_context(running(command, tmp_path / f"{name}.log", os.environ | environment))
            client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10.0, trust_env=False)
            found.append(Backend(name, program, stack.enter_context(client)))
        for backend in found:
            eventually(backend.is_up, f"{backend.name} answers")
        yield found


def test_a_promotion_and_a_rollback_reach_every_backend_without_a_failed_request(
    backends: list[Backend], store: Store, signals: Signals, sky: str, water: str, painting: str, tmp_path: Path
) -> None:
    store.promote(PROJECT, sky, "test", "first", {})
    stopping = threading.Event()
    loads = [Load(backend, painting, {sky: "Sky", water: "Water"}, stopping) for backend in backends]
    threads = [threading.Thread(target=load.run) for load in loads]
    for thread in threads:
        thread.start()
    try:
        serve_everywhere(loads, sky, START_SECONDS)

        store.promote(PROJECT, water, "test", "second", {})
        signals.announce(PROJECT)
        serve_everywhere(loads, water)

        with running([*UNDERPAINT, "rollback", "3"], tmp_path / "rollback.log", os.environ) as rollback:
            assert rollback.wait() == 0, rollback.output()
        assert sky in rollback.output()
        serve_everywhere(loads, sky)
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert [fault for load in loads for fault in load.faults] == []


def serve_everywhere(loads: list[Load], version: str, seconds: float = SWAP_SECONDS) -> None:
    """Wait until ``version`` is what every backend predicts with and says."""
    for load in loads:
        eventually(partial(load.sees, version), f"{load.backend.name} serves {version}", seconds)
        assert load.backend.version() == version


def test_a_worker_that_is_stopped_takes_its_job_with_it(signals: Signals, tmp_path: Path) -> None:
    with running([*UNDERPAINT, "work"], tmp_path / "work.log", os.environ) as worker:
        job = signals.queue.enqueue("time.sleep", 600)
        eventually(lambda: job.get_status(refresh=True) == "started", "the worker takes the job")
        started = time.monotonic()
        worker.process.terminate()
        worker.wait()
        assert time.monotonic() - started < 5
        assert session(worker.process.pid) == {}
    assert job.get_status(refresh=True) == "failed"


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="Linux without groups of sessions")
def test_a_worker_its_jobs_and_what_they_start_yield_to_people(signals: Signals, tmp_path: Path) -> None:
    own = os.nice(0)
    with running([*UNDERPAINT, "work"], tmp_path / "work.log", os.environ | {"UNDERPAINT_JOB_NICE": "7"}):
        job = signals.queue.enqueue("os.nice", 0)
        child = signals.queue.enqueue("subprocess.getoutput", "nice; cat /proc/self/autogroup")
        eventually(lambda: child.get_status(refresh=True) == "finished", "the worker runs both jobs")
    assert job.return_value() == own + 7
    assert re.fullmatch(rf"{own + 7}\n/autogroup-\d+ nice {own + 7}", str(child.return_value()))

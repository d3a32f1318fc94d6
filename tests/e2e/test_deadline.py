"""More tasks than one /predict call has time for: what a call leaves, a worker brings, to a real Label Studio."""

import base64
import io
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from rq import Worker

from integration.processes import UNDERPAINT, Program, eventually, running
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store
from underpaint.labelstudio.client import LabelStudio
from underpaint.project import key_of
from underpaint.redis_server import free_port
from underpaint.settings import Settings
from underpaint.signals import Signals
from underpaint_workers.demo.label_studio import LabelStudioServer

pytestmark = pytest.mark.e2e

CONFIG = (
    '<View><Image name="image" value="$image"/>'
    '<BrushLabels name="label" toName="image"><Label value="Sky"/><Label value="Water"/></BrushLabels></View>'
)
TASKS = 1200
DEADLINE = 2.0


@pytest.fixture
def backend(settings: Settings, signals: Signals, label_studio: LabelStudioServer, tmp_path: Path) -> Iterator[str]:
    """URL of a backend in a hurry, which has a worker beside it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "UNDERPAINT_LABEL_STUDIO_URL": label_studio.url,
        "UNDERPAINT_LABEL_STUDIO_TOKEN": label_studio.token,
        "UNDERPAINT_PREDICT_DEADLINE": str(DEADLINE),
    }
    with ExitStack() as stack:

        def start(name: str, *command: str) -> Program:
            return stack.enter_context(running(command, tmp_path / f"{name}.log", environment))

        serve = start("backend", *UNDERPAINT, "serve", "--port", str(port))
        work = start("worker", sys.executable, "-m", "underpaint_workers")
        eventually(lambda: serve.answers(f"{url}/health"), "the backend answers")
        eventually(lambda: Worker.count(connection=signals.redis), f"a worker registers: {work.output()}")
        yield url


@pytest.fixture
def project(client: LabelStudio, settings: Settings, make_checkpoint: Callable[..., Checkpoint]) -> dict[str, Any]:
    """A project of as many different paintings, with a champion that sees sky in all of them."""
    project: dict[str, Any] = client.post("/api/projects/", {"title": "Deadline", "label_config": CONFIG})
    client.import_tasks(project["id"], [{"data": {"image": painting(number)}} for number in range(TASKS)])
    store = Store(settings.store)
    store.promote(key_of(project), store.put(make_checkpoint(("sky", "water"), "sky")), "test", "sees sky", {})
    return project


def painting(number: int) -> str:
    """A data URI of a small image unlike any other, for one seen before would take no time."""
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (number % 256, number // 256, 99)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def predict(backend: str, project: str, first: int, count: int) -> tuple[list[Any], float]:
    """Slots for ``count`` paintings, and the seconds they took; tasks without an id are left to no worker."""
    tasks = [{"data": {"image": painting(number)}} for number in range(first, first + count)]
    call = {"tasks": tasks, "project": project, "label_config": CONFIG}
    started = time.monotonic()
    slots = httpx.post(f"{backend}/predict", json=call, timeout=60.0, trust_env=False).json()["results"]
    return slots, time.monotonic() - started


def stored(client: LabelStudio, project: int) -> list[dict[str, Any]]:
    """Every prediction of a project."""
    found: list[dict[str, Any]] = client.get("/api/predictions/", project=project)
    return found


def test_what_a_call_leaves_a_worker_brings(
    client: LabelStudio, project: dict[str, Any], backend: str, settings: Settings, signals: Signals
) -> None:
    key, number = key_of(project), project["id"]
    champion = Store(settings.store).champion(key)
    assert champion is not None
    client.add_ml_backend(number, backend, "In a hurry")
    eventually(lambda: predict(backend, key, TASKS, 1)[0] != [[]], "the champion is loaded")
    slots, seconds = predict(backend, key, 2 * TASKS, TASKS)
    assert seconds < DEADLINE + 5
    assert 0 < sum(slot == [] for slot in slots) < TASKS

    client.retrieve_predictions(number)
    first = len(stored(client, number))
    waiting = signals.completions.waiting()[key]
    assert 0 < first < TASKS
    assert 0 < waiting <= TASKS - first

    # A person who can't wait for the worker gets some more at once, and none of them twice.
    client.retrieve_predictions(number)

    eventually(lambda: not signals.completions.waiting(), "the worker has brought all", 400)
    predictions = stored(client, number)
    each = Counter(prediction["task"] for prediction in predictions)
    assert sorted(each) == sorted(client.task_ids(number))
    assert set(each.values()) == {1}
    assert {prediction["model_version"] for prediction in predictions} == {champion.version}
    assert all(prediction["result"] for prediction in predictions)

    client.retrieve_predictions(number)
    assert len(stored(client, number)) == TASKS
    assert signals.completions.waiting() == {}

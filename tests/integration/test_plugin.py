"""``PaintingSegmenter`` under label-studio-ml: its published 1.0.9 runner for real, and the contract of its 2.x."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import label_studio_ml.model
import pytest
from fastapi.testclient import TestClient

from integration.processes import eventually, running
from underpaint import plugin
from underpaint.checkpoints.store import Store
from underpaint.redis_server import free_port
from underpaint.serving.app import create_app
from underpaint.serving.champions import UNTRAINED
from underpaint.settings import get_settings
from underpaint.signals import Signals, job_id

PROJECT = "3.1795344327"
SERIALISED_PROJECT = {"id": 3, "created_at": "2026-11-22T10:45:27.000000Z"}
CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    '<Label value="Skies"/><Label value="Water"/></BrushLabels>'
    '<PolygonLabels name="poly" toName="image"><Label value="Heaven" predicted_values="sky"/></PolygonLabels></View>'
)
SETUP = {"project": PROJECT, "schema": CONFIG, "hostname": "http://127.0.0.1:1", "access_token": "none"}

pytestmark = pytest.mark.usefixtures("settings")


@pytest.fixture
def trained(store: Store, sky: str) -> str:
    store.promote(PROJECT, sky, "test", "test", {})
    return sky


@pytest.fixture
def fresh_plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The plugin with a backend of its own, which lives as long as the test."""
    monkeypatch.setattr(plugin, "_backend", None)
    yield plugin
    if plugin._backend is not None:
        plugin._backend.stop()


def task(painting: str) -> dict[str, Any]:
    return {"id": 1, "data": {"image": painting}, "project": 3, "annotations": [], "predictions": []}


def predict_body(painting: str) -> dict[str, Any]:
    params = {"login": None, "password": None, "context": None}
    return {"tasks": [task(painting)], "project": PROJECT, "label_config": CONFIG, "params": params}


def without_ids(predictions: list[Any]) -> list[Any]:
    """Predictions without what is random in them: the ids of their regions."""
    return [
        prediction | {"result": [{**region, "id": None} for region in prediction["result"]]}
        for prediction in predictions
    ]


def own_front(painting: str) -> list[Any]:
    """What Underpaint's own HTTP front predicts for the same request."""
    with TestClient(create_app(get_settings())) as client:
        results = client.post("/predict", json=predict_body(painting)).json()["results"]
    assert results[0]["result"]
    return without_ids(results)


def test_the_published_runner_predicts_what_our_own_front_does_and_counts_labels(
    signals: Signals, trained: str, painting: str, tmp_path: Path
) -> None:
    scripts = Path(sys.executable).parent
    script = f"{Path(plugin.__file__).resolve()}:PaintingSegmenter"
    subprocess.run([scripts / "label-studio-ml", "init", "painter", "--script", script], cwd=tmp_path, check=True)
    port = free_port()
    # The runner starts whatever `python` is first on PATH.
    path = {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [str(scripts / "label-studio-ml"), "start", "painter", "--port", str(port), "--host", "127.0.0.1"]
    with running(command, tmp_path / "painter.log", os.environ | path, tmp_path) as runner:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: runner.answers(f"{url}/health"), "the runner answers")
        with httpx.Client(base_url=url, timeout=30.0, trust_env=False) as client:
            assert client.post("/setup", json=SETUP).json()["model_version"]
            answer = client.post("/predict", json=predict_body(painting))
            assert answer.status_code == 200, answer.text
            assert without_ids(answer.json()["results"]) == own_front(painting)
            event = {"action": "ANNOTATION_CREATED", "annotation": {"id": 1}, "project": SERIALISED_PROJECT}
            assert client.post("/webhook", json=event).status_code == 201
        # The runner calls `fit` in a process of its own, which first imports everything again.
        eventually(lambda: signals.pending(), "the label is counted")
        assert signals.pending()[PROJECT].labels == 1


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(
            lambda model, event, data: model.fit((), event=event, data=data, job_id="17", workdir="17"), id="1.x"
        ),
        pytest.param(lambda model, event, data: model.fit(event, data), id="2.x"),
    ],
)
def test_fit_queues_a_retrain_however_it_is_called(
    fresh_plugin: ModuleType, signals: Signals, call: Callable[[Any, str, Any], Any]
) -> None:
    result = call(fresh_plugin.PaintingSegmenter(), "START_TRAINING", {"project": SERIALISED_PROJECT})
    assert result == {"job": job_id(PROJECT)}
    queued = signals.queue.fetch_job(result["job"])
    assert queued is not None
    assert queued.kwargs == {"project": PROJECT}
    assert signals.pending()[PROJECT].requested
    annotations = {"annotation": [{"id": 1}, {"id": 2}], "project": SERIALISED_PROJECT}
    assert call(fresh_plugin.PaintingSegmenter(), "ANNOTATIONS_CREATED", annotations) == {"labels": 2}
    assert signals.pending()[PROJECT].labels == 2


class BaseOfVersion2:
    """``LabelStudioMLBase`` as 2.x declares it, which PyPI doesn't have: no further arguments, a ``label_config`` that
    can't be assigned, and ``setup`` called by the constructor; its /setup answers ``get("model_version")``."""

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        self._values: dict[str, str | None] = {"label_config": label_config, "model_version": "0.0.1"}
        self.setup()

    def setup(self) -> None:
        raise NotImplementedError

    def get(self, key: str) -> str | None:
        return self._values.get(key)

    def set(self, key: str, value: str) -> None:
        self._values[key] = value

    @property
    def label_config(self) -> str | None:
        return self.get("label_config")


@pytest.fixture
def plugin_of_version_2(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The plugin as it is when label-studio-ml 2.x is installed."""
    with monkeypatch.context() as patch:
        patch.setattr(label_studio_ml.model, "LabelStudioMLBase", BaseOfVersion2)
        importlib.reload(plugin)
    yield plugin
    if plugin._backend is not None:
        plugin._backend.stop()
    importlib.reload(plugin)


def test_under_version_2_it_predicts_with_the_version_that_setup_answers(
    plugin_of_version_2: ModuleType, trained: str, painting: str
) -> None:
    model = plugin_of_version_2.PaintingSegmenter(project_id="3", label_config=CONFIG)
    assert model.get("model_version") == trained
    predictions = model.predict([task(painting)], context=None, login=None, password=None)
    assert without_ids(predictions) == own_front(painting)


def test_under_version_2_the_base_serves_a_new_project(
    base: str, plugin_of_version_2: ModuleType, painting: str
) -> None:
    model = plugin_of_version_2.PaintingSegmenter(project_id="3", label_config=CONFIG)
    assert model.get("model_version") == base
    [prediction] = model.predict([task(painting)], context=None)
    assert prediction["model_version"] == base
    assert without_ids([prediction]) == own_front(painting)


def test_under_version_2_an_untrained_project_is_untrained(
    plugin_of_version_2: ModuleType, painting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERPAINT_BASE", "none")
    get_settings.cache_clear()
    model = plugin_of_version_2.PaintingSegmenter(project_id="4", label_config=CONFIG)
    assert model.get("model_version") == UNTRAINED
    assert model.predict([task(painting)], context={})[0]["result"] == []

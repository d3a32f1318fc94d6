"""Every request that Label Studio 1.23.2 was recorded making, sent again."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from conftest import CAPTURES
from http_server import Answer, Server, serve
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store
from underpaint.labelstudio import prompt
from underpaint.labelstudio.label_config import parse
from underpaint.project import key_of
from underpaint.redis_server import RedisServer
from underpaint.serving.app import create_app
from underpaint.settings import Settings
from underpaint.signals import Signals, job_id

CLASSES = ("Person", "Sky", "Tree")

pytestmark = pytest.mark.skipif(not CAPTURES.exists(), reason=f"recorded requests are not at {CAPTURES}")


def recorded() -> list[Any]:
    """(file, place in it) of each request; other entries are notes of the recorder."""
    files = sorted(CAPTURES.glob("*.json")) if CAPTURES.exists() else []
    return [
        pytest.param(path, place, id=f"{path.stem}-{place}-{entry['path'].strip('/')}")
        for path in files
        for place, entry in enumerate(entries(path))
    ]


def entries(path: Path) -> list[dict[str, Any]]:
    return [
        entry
        for entry in json.loads(path.read_text())
        if isinstance(entry, dict) and {"method", "path"} <= entry.keys()
    ]


@pytest.fixture(scope="module")
def images() -> Iterator[Server]:
    """Stands where Label Studio and the image host stood."""
    file = io.BytesIO()
    Image.new("RGB", (320, 240), (120, 150, 200)).save(file, "JPEG")
    with serve(lambda _: Answer(file.getvalue())) as server:
        yield server


@pytest.fixture(scope="module")
def own_settings(images: Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        store=str(tmp_path_factory.mktemp("store")),
        redis_url=redis_server.url,
        device="cpu",
        allowed_hosts=[images.host],
        label_studio_url=images.url,
        label_studio_token="f" * 40,
        retrain_after_labels=10**6,
        max_loaded=100,
    )


CONFIG = parse(
    '<View><Image name="image" value="$image"/>'
    '<BrushLabels name="label" toName="image"><Label value="Sky"/></BrushLabels></View>'
)


@pytest.fixture(scope="module")
def client(own_settings: Settings, make_checkpoint: Callable[..., Checkpoint]) -> Iterator[TestClient]:
    """A backend on which every recorded project has a champion that sees sky everywhere."""
    store = Store(own_settings.store)
    version = store.put(make_checkpoint(CLASSES, "Sky"))
    projects = {
        entry["body"]["project"]
        for path in CAPTURES.glob("*.json")
        for entry in entries(path)
        if isinstance(entry["body"], dict) and isinstance(entry["body"].get("project"), str)
    }
    for project in projects:
        store.promote(project, version, "test", "test", {})
    app = create_app(own_settings)
    with TestClient(app) as client:
        for project in projects:
            app.state.backend.champions.version(project, CONFIG)  # as after a /setup of each
        yield client


@pytest.mark.parametrize(("path", "place"), recorded())
def test_recorded_request(path: Path, place: int, client: TestClient, images: Server, own_settings: Settings) -> None:
    signals = Signals(own_settings.redis_url, own_settings.queue)
    signals.redis.flushall()
    entry = entries(path)[place]
    text = json.dumps(entry["body"])
    for host in ("127.0.0.1:8085", "127.0.0.1:9102"):
        text = text.replace(host, images.host)
    content = None if entry["body"] is None else text
    answer = client.request(
        entry["method"], entry["path"], content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 200, answer.text
    body = json.loads(text) or {}
    check = {"/health": _is_up, "/setup": _names_version, "/versions": _lists_versions, "/predict": _predicts}
    if entry["path"] in check:
        check[entry["path"]](answer.json(), body, Store(own_settings.store))
    else:
        assert entry["path"] == "/webhook"
        _is_noted(answer.json(), body, signals)


def _is_up(answer: dict[str, Any], _: dict[str, Any], __: Store) -> None:
    assert answer["status"] == "UP"


def _names_version(answer: dict[str, Any], body: dict[str, Any], store: Store) -> None:
    champion = store.champion(body["project"])
    assert champion is not None
    assert answer["model_version"] == champion.version


def _lists_versions(answer: dict[str, Any], _: dict[str, Any], store: Store) -> None:
    champions = [store.champion(project) for project in store.projects()]
    assert answer["versions"] == sorted({champion.version for champion in champions if champion is not None})


def _predicts(answer: dict[str, Any], body: dict[str, Any], store: Store) -> None:
    champion = store.champion(body["project"])
    assert champion is not None
    config = parse(body["label_config"])
    controls = {control.name: control for control in config.controls}
    context = (body["params"] or {}).get("context") or {}
    drawn, _ = prompt.read(context, config)
    assert len(answer["results"]) == len(body["tasks"])
    for prediction in answer["results"]:
        assert prediction["model_version"] == champion.version
        assert 0 <= prediction["score"] <= 1
        named = prompt.labels(context)
        skies = [c for c in controls.values() if _has_sky(c.labels)] if not named or "Sky" in named else []
        expected = [drawn.control] if drawn else skies
        assert {region["from_name"] for region in prediction["result"]} == {control.name for control in expected}
        for region in prediction["result"]:
            control = controls[region["from_name"]]
            assert region["type"] == control.type.lower()
            assert region["to_name"] == control.to_name
            assert region["value"][region["type"]] == [drawn.label if drawn else "Sky"]
            assert (region["original_width"], region["original_height"]) == (320, 240)


def _has_sky(labels: Any) -> bool:
    return any(label.value == "Sky" for label in labels)


def _is_noted(answer: dict[str, Any], body: dict[str, Any], signals: Signals) -> None:
    project = key_of(body["project"])
    if body["action"] == "START_TRAINING":
        assert answer == {"job": job_id(project)}
        # The app queues a reconcile of its own when it is due.
        assert [job for job in signals.queue.job_ids if job != "reconcile"] == [job_id(project)]
        return
    expected: dict[str, Callable[[], int]] = {
        "ANNOTATION_CREATED": lambda: 0 if body["annotation"]["was_cancelled"] else 1,
        "ANNOTATION_UPDATED": lambda: 1,
        "ANNOTATIONS_CREATED": lambda: len(body["annotation"]),
        "ANNOTATIONS_DELETED": lambda: len(body["annotations"]),
        "TASKS_CREATED": lambda: sum(task["total_annotations"] for task in body["tasks"]),
        "TASKS_DELETED": lambda: 0,
        "PROJECT_UPDATED": lambda: 0,
    }
    assert answer == {"labels": expected[body["action"]]()}

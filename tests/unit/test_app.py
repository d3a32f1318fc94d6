import base64
import io
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from app_server import listening
from http_server import Answer, Server, serve
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store
from underpaint.labelstudio import rle
from underpaint.segmenter.segmenter import Segmenter
from underpaint.serving.app import create_app
from underpaint.serving.champions import UNTRAINED
from underpaint.settings import Settings
from underpaint.signals import Signals

PROJECT = "3.1795344327"
CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    '<Label value="Skies"/><Label value="Water"/></BrushLabels>'
    '<PolygonLabels name="poly" toName="image"><Label value="Heaven" predicted_values="sky"/></PolygonLabels>'
    '<RectangleLabels name="rect" toName="image"><Label value="Clouds"/></RectangleLabels></View>'
)
Make = Callable[..., Checkpoint]


def jpeg(size: tuple[int, int], orientation: int = 1) -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, (120, 150, 200)).save(file, "JPEG", exif=exif)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be huge, and ends there."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = width.to_bytes(4) + height.to_bytes(4)
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    return bytes(data)


@pytest.fixture
def images() -> Iterator[Server]:
    released = threading.Event()

    def never() -> Iterator[bytes]:
        released.wait(20)
        yield b""

    files: dict[str, Any] = {
        "/good.jpg": jpeg((90, 60)),
        "/turned.jpg": jpeg((90, 60), orientation=6),
        "/truncated.jpg": jpeg((900, 600))[:1000],
        "/text.png": b"this is no picture",
        "/huge.png": png_header(30_000, 30_000),
    }

    def answer(request: Any) -> Answer:
        if request.path == "/never.jpg":
            return Answer(never())
        return Answer(files[request.path]) if request.path in files else Answer(status=404)

    with serve(answer) as server:
        yield server
        released.set()


@pytest.fixture
def settings_here(settings: Settings, images: Server) -> Settings:
    return settings.model_copy(update={"allowed_hosts": [images.host], "fetch_timeout": 1.0, "base": "none"})


@pytest.fixture
def client(settings_here: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings_here)) as client:
        yield client


@pytest.fixture
def version(settings: Settings, make_checkpoint: Make) -> str:
    store = Store(settings.store)
    version = store.put(make_checkpoint(("sky", "water"), "sky"))
    store.promote(PROJECT, version, "test", "test", {})
    return version


def predict(client: TestClient, urls: list[str], config: str = CONFIG, **params: Any) -> Any:
    tasks = [{"id": number, "data": {"image": url}} for number, url in enumerate(urls)]
    body = {"tasks": tasks, "project": PROJECT, "label_config": config, "params": {"context": None, **params}}
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def test_predictions_for_three_kinds_of_control(client: TestClient, images: Server, version: str) -> None:
    [prediction] = predict(client, [f"{images.url}/good.jpg"])
    assert prediction["model_version"] == version
    by_control = {region["from_name"]: region for region in prediction["result"]}
    assert {name: region["type"] for name, region in by_control.items()} == {
        "brush": "brushlabels",
        "poly": "polygonlabels",
        "rect": "rectanglelabels",
    }
    assert by_control["brush"]["value"]["brushlabels"] == ["Skies"]
    assert by_control["poly"]["value"]["polygonlabels"] == ["Heaven"]
    assert (rle.decode(by_control["brush"]["value"]["rle"], (60, 90)) == 255).all()
    rectangle = by_control["rect"]["value"]
    assert [rectangle[side] for side in ("x", "y", "width", "height")] == [0, 0, 100, 100]
    assert len({region["id"] for region in prediction["result"]}) == 3
    assert all(0 < region["score"] <= 1 for region in prediction["result"])


def test_sizes_are_those_the_browser_shows(client: TestClient, images: Server, version: str) -> None:
    [prediction] = predict(client, [f"{images.url}/turned.jpg"])
    assert {(r["original_width"], r["original_height"]) for r in prediction["result"]} == {(60, 90)}


def test_a_bad_image_empties_its_own_slot_only(
    client: TestClient, images: Server, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = ["truncated.jpg", "text.png", "huge.png", "missing.jpg", "never.jpg"]
    urls = [f"{images.url}/{name}" for name in ["good.jpg", *bad, "good.jpg"]]
    results = predict(client, [*urls, "", "file:///etc/passwd"])
    assert len(results) == 9
    assert [bool(prediction["result"]) for prediction in results] == [True, *[False] * 5, True, False, False]
    for place, name in enumerate(bad, start=1):
        assert name in results[place]["reason"]
        assert f"task {place}" in caplog.text


def test_an_untrained_project_gets_empty_results_that_say_why(client: TestClient, images: Server) -> None:
    [prediction] = predict(client, [f"{images.url}/good.jpg"])
    assert prediction["result"] == []
    assert prediction["model_version"] == UNTRAINED
    assert "Start Training" in prediction["reason"]
    answer = client.post("/setup", json={"project": PROJECT, "schema": CONFIG})
    assert answer.json() == {"model_version": UNTRAINED}


@pytest.fixture
def with_base(settings_here: Settings, tmp_path: Path, make_checkpoint: Make) -> Iterator[tuple[TestClient, str]]:
    """A backend whose base sees sky everywhere, and that base's version."""
    version = Store(str(tmp_path / "elsewhere")).put(make_checkpoint(("sky", "water"), "sky"))
    base = tmp_path / "elsewhere" / "checkpoints" / version
    with TestClient(create_app(settings_here.model_copy(update={"base": str(base)}))) as client:
        yield client, version


def test_a_new_project_gets_the_base_s_pre_labels_by_the_version_that_setup_answers(
    with_base: tuple[TestClient, str], images: Server
) -> None:
    client, version = with_base
    setup = {"project": PROJECT, "schema": CONFIG}
    assert client.post("/setup", json=setup).json() == {"model_version": version}
    [prediction] = predict(client, [f"{images.url}/good.jpg"])
    assert prediction["model_version"] == version
    assert {label for region in prediction["result"] for label in region["value"].get("brushlabels", [])} == {"Skies"}
    assert client.post("/setup", json=setup).json() == {"model_version": version}
    assert client.get("/health").json()["champions"] == {PROJECT: version}


def test_a_new_project_whose_labels_the_base_can_not_name_gets_nothing_and_is_told_how_to_map_them(
    with_base: tuple[TestClient, str], images: Server, caplog: pytest.LogCaptureFixture
) -> None:
    client, version = with_base
    config = CONFIG.replace("Skies", "Foo").replace("Water", "Bar").replace("Clouds", "Baz").replace("sky", "qux")
    assert client.post("/setup", json={"project": PROJECT, "schema": config}).json() == {"model_version": UNTRAINED}
    [prediction] = predict(client, [f"{images.url}/good.jpg"], config)
    assert (prediction["result"], prediction["model_version"]) == ([], UNTRAINED)
    assert "Foo, Bar, Heaven, Baz" in prediction["reason"]
    assert '<Label value="Foo" predicted_values="' in prediction["reason"]
    assert "Start Training" in prediction["reason"]
    assert prediction["reason"] in caplog.text
    mapped = config.replace('value="Foo"', 'value="Foo" predicted_values="sky"')
    assert client.post("/setup", json={"project": PROJECT, "schema": mapped}).json() == {"model_version": version}
    assert predict(client, [f"{images.url}/good.jpg"], mapped)[0]["result"]


def test_a_project_whose_labels_nobody_can_name_is_told_how_to_map_them(
    client: TestClient, images: Server, version: str
) -> None:
    config = CONFIG.replace("Skies", "Foo").replace("Water", "Bar").replace("Clouds", "Baz").replace("sky", "qux")
    [prediction] = predict(client, [f"{images.url}/good.jpg"], config)
    assert prediction["result"] == []
    assert "predicted_values" in prediction["reason"]


def test_the_label_config_may_change_between_two_calls(client: TestClient, images: Server, version: str) -> None:
    before = predict(client, [f"{images.url}/good.jpg"])
    after = predict(client, [f"{images.url}/good.jpg"], CONFIG.replace("Skies", "Sky"))
    labels = [p["result"][-1]["value"]["brushlabels"] for [p] in (before, after)]
    assert labels == [["Skies"], ["Sky"]]


def test_two_thousand_tasks_at_once(client: TestClient, version: str) -> None:
    results = predict(client, ["data:image/png;base64,broken"] * 2000)
    assert len(results) == 2000
    assert not any(prediction["result"] for prediction in results)


def test_tasks_beyond_the_deadline_are_left_to_a_worker(
    settings_here: Settings, images: Server, version: str, signals: Signals, caplog: pytest.LogCaptureFixture
) -> None:
    hurried = settings_here.model_copy(update={"predict_deadline": 0.001})
    with TestClient(create_app(hurried)) as client:
        results = predict(client, [f"{images.url}/good.jpg"] * 20)
        assert client.get("/metrics").json()["handed_over"] == 20
    assert results == [[]] * 20  # Label Studio stores nothing for an empty list, and asks again
    assert signals.completions.waiting() == {PROJECT: 20}
    assert "a worker brings the predictions of 20 to Label Studio" in caplog.text


def test_only_what_is_saved_in_label_studio_is_left_to_a_worker(
    settings_here: Settings, images: Server, version: str, signals: Signals, caplog: pytest.LogCaptureFixture
) -> None:
    hurried = settings_here.model_copy(update={"predict_deadline": 0.001})
    with TestClient(create_app(hurried)) as client:
        task = {"data": {"image": f"{images.url}/good.jpg"}}
        body = {"tasks": [task, {"id": "x", **task}], "project": PROJECT, "label_config": CONFIG}
        assert client.post("/predict", json=body).json()["results"] == [[], []]
        assert predict(client, [f"{images.url}/good.jpg"], context={"result": []}) == [[]]
    assert signals.completions.waiting() == {}
    assert "UNDERPAINT_PREDICT_DEADLINE" in caplog.text


def test_a_deadline_is_kept_with_redis_down(
    settings_here: Settings, images: Server, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    alone = {"redis_url": "redis://127.0.0.1:1/0", "predict_deadline": 0.001}
    with TestClient(create_app(settings_here.model_copy(update=alone))) as client:
        assert predict(client, [f"{images.url}/good.jpg"] * 2) == [[], []]
    assert "Redis can't be reached" in caplog.text


def test_what_a_worker_is_bringing_is_not_predicted_twice(
    client: TestClient, images: Server, version: str, signals: Signals
) -> None:
    signals.completions.add(PROJECT, [0, 1, 2])
    assert signals.completions.hold(PROJECT, version, [1]) == [1]
    results = predict(client, [f"{images.url}/good.jpg"] * 3)
    assert [bool(slot) for slot in results] == [True, False, True]
    assert results[1] == []
    assert client.get("/metrics").json()["handed_over"] == 0
    assert signals.completions.hold(PROJECT, version, [0, 2]) == []  # this call has taken them back


def test_a_client_that_hangs_up_costs_no_more_passes(settings_here: Settings, images: Server, version: str) -> None:
    app = create_app(settings_here)
    tasks = [{"id": number, "data": {"image": picture(number)}} for number in range(600)]

    def post(url: str, tasks: list[Any], seconds: float) -> None:
        body = {"tasks": tasks, "project": PROJECT, "label_config": CONFIG}
        httpx.post(f"{url}/predict", json=body, timeout=httpx.Timeout(60, read=seconds), trust_env=False)

    with listening(app) as url:
        metrics = partial(httpx.get, f"{url}/metrics", trust_env=False)
        post(url, tasks[:1], 60)  # which loads the net
        with pytest.raises(httpx.ReadTimeout):
            post(url, tasks, 0.3)
        time.sleep(0.5)
        before = metrics().json()
        assert 1 < before["images"] < 600
        time.sleep(0.5)
        assert metrics().json()["images"] == before["images"]
        assert metrics().json()["waiting"] == 0
    assert Signals(settings_here.redis_url, settings_here.queue).completions.waiting() == {}


def picture(number: int) -> str:
    """A picture unlike those of other numbers, as a data URI."""
    file = io.BytesIO()
    Image.new("RGB", (90, 60), (number % 256, number // 256, 0)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_metrics_say_what_passed_through(client: TestClient, images: Server, version: str) -> None:
    for _ in range(2):
        predict(client, [f"{images.url}/good.jpg"])
    found = client.get("/metrics").json()
    assert found.pop("images_per_second") > 0
    counts = {"waiting": 0, "passes": 1, "images": 1, "dropped": 0, "failed": 0, "cache_hits": 1, "cache_misses": 1}
    assert found == counts | {"handed_over": 0}


def test_predictions_are_kept_from_one_start_to_the_next(settings_here: Settings, images: Server, version: str) -> None:
    answers = []
    for hits in (0, 1):
        with TestClient(create_app(settings_here)) as client:
            answers.append(predict(client, [f"{images.url}/good.jpg"]))
            assert client.get("/metrics").json()["cache_hits"] == hits
    assert answers[0] == answers[1]


def test_the_answer_is_the_json_that_it_always_was(client: TestClient, images: Server, version: str) -> None:
    tasks = [{"id": 1, "data": {"image": f"{images.url}/{name}"}} for name in ("good.jpg", "missing.jpg")]
    answer = client.post("/predict", json={"tasks": tasks, "project": PROJECT, "label_config": CONFIG})
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert list(found) == ["results", "model_version"]
    assert found["model_version"] == version
    assert answer.text == json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def test_no_tasks(client: TestClient, version: str) -> None:
    assert predict(client, []) == []


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/predict", b"{broken", "JSON"),
        ("/predict", b"[]", "object"),
        ("/predict", {"tasks": []}, "project"),
        ("/predict", {"tasks": [{"id": 1}], "project": PROJECT, "label_config": CONFIG}, "tasks.0.data"),
        ("/predict", {"tasks": [], "project": "nonsense", "label_config": CONFIG}, "<id>.<created timestamp>"),
        ("/predict", {"tasks": [], "project": PROJECT, "label_config": "<View>"}, "XML"),
        ("/predict", {"tasks": [], "project": PROJECT, "label_config": "<View/>"}, "Image"),
        ("/setup", {"project": PROJECT, "schema": '<View><Image name="i" value="$i"/></View>'}, "BrushLabels"),
        ("/setup", {}, "project"),
        *(
            ("/setup", {"project": PROJECT, "schema": CONFIG, "extra_params": extra}, said)
            for extra, said in [
                ({"retrain_after_labels": 0}, "retrain_after_labels: Input should be greater than or equal to 1"),
                ({"retrain_after_label": 20}, "retrain_after_labels, retrain_after_minutes, retrain_quiet_seconds"),
                ('{"retrain_quiet_seconds": "long"}', "retrain_quiet_seconds"),
                ("retrain_after_labels=20", "no JSON"),
                ([20], "no JSON object"),
            ]
        ),
        ("/webhook", {"action": "ANNOTATION_CREATED"}, "project"),
        ("/webhook", {"action": "START_TRAINING", "project": {"id": 1}}, "created_at"),
        ("/webhook", {"action": "ANNOTATIONS_DELETED", "annotations": [17], "project": {}}, "annotations"),
        ("/webhook", {"action": "TASKS_CREATED", "tasks": [{"total_annotations": "x"}], "project": {}}, "total_annota"),
        ("/setup", {"project": PROJECT, "schema": CONFIG, "hostname": "studio:80", "access_token": "x"}, "http://"),
        ("/no-such-address", {}, "Not Found"),
        ("/train", {"project": "x"}, "<id>.<created timestamp>"),
        ("/validate", {"config": "<View/>"}, "Image"),
        ("/duplicate_model", {"project_src": "1.1", "project_dst": "2.1"}, "no champion"),
        ("/job_status", {"job": "unheard-of"}, "unheard-of"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(client: TestClient, path: str, body: Any, said: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post(path, content=content)
    assert 400 <= answer.status_code < 500
    assert said in answer.json()["error"]


def test_a_request_that_is_too_large_is_refused(settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"max_request_bytes": 1000}))) as client:
        answer = client.post("/predict", content=b"x" * 2000)
    assert answer.status_code == 413
    assert "UNDERPAINT_MAX_REQUEST_BYTES" in answer.json()["error"]


def test_the_rest_of_the_connector(client: TestClient, version: str) -> None:
    assert client.post("/validate", json={"config": CONFIG}).json() == {"status": "ok"}
    assert client.post("/duplicate_model", json={"project_src": PROJECT, "project_dst": "4.1"}).json() == {
        "model_version": version
    }
    assert client.post("/setup", json={"project": "4.1", "schema": CONFIG}).json() == {"model_version": version}
    assert client.get("/versions", params={"project": PROJECT}).json() == {"versions": [version]}
    assert client.post("/delete", json={"project": PROJECT}).status_code == 200
    assert client.post("/setup", json={"project": PROJECT, "schema": CONFIG}).json() == {"model_version": version}
    queued = client.post("/train", json={"project": PROJECT, "annotations": []})
    assert queued.status_code == 201
    assert client.post("/job_status", json=queued.json()).json()["job_status"] == "queued"


def test_a_job_that_redis_forgot_is_found_in_the_store(client: TestClient, settings: Settings) -> None:
    Store(settings.store).write_run(PROJECT, "20260101", {"id": "20260101", "status": "failed", "error": "no labels"})
    answer = client.post("/job_status", json={"job": "retrain-3-1795344327"}).json()
    assert (answer["job_status"], answer["error"]) == ("failed", "no labels")


def test_basic_auth(settings: Settings) -> None:
    locked = settings.model_copy(update={"basic_auth_user": "u", "basic_auth_password": "p"})
    with TestClient(create_app(locked)) as client:
        for answer in (client.get("/health"), client.get("/health", auth=("u", "wrong"))):
            assert answer.status_code == 401
            assert "Basic Authentication" in answer.json()["error"]
        assert client.get("/health", auth=("u", "p")).status_code == 200


def test_quick_answers_stay_quick_with_redis_down_and_predictions_under_way(
    settings_here: Settings, images: Server, version: str
) -> None:
    alone = settings_here.model_copy(update={"redis_url": "redis://127.0.0.1:1/0", "fetch_timeout": 3.0})
    project = {"id": 3, "created_at": "2026-11-22T10:45:27Z"}
    event = {"action": "ANNOTATION_CREATED", "annotation": {"was_cancelled": False}, "project": project}
    with TestClient(create_app(alone)) as client:
        slow = [threading.Thread(target=predict, args=(client, [f"{images.url}/never.jpg"])) for _ in range(20)]
        for thread in slow:
            thread.start()
        time.sleep(0.3)
        started = time.perf_counter()
        assert client.get("/health").status_code == 200
        assert client.post("/setup", json={"project": PROJECT, "schema": CONFIG}).status_code == 200
        assert client.post("/webhook", json=event).json() == {"labels": 1}
        assert time.perf_counter() - started < 1.0
        refused = client.post("/webhook", json={"action": "START_TRAINING", "project": project})
        assert refused.status_code == 503
        assert "REDIS_URL" in refused.json()["error"]
        for thread in slow:
            thread.join()


def test_a_painting_that_breaks_the_segmenter_empties_its_own_slot_only(
    client: TestClient, images: Server, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = Segmenter.segment

    def fail_on_the_tall(self: Segmenter, pictures: Any, shapes: Any, *args: Any) -> Any:
        if (90, 60) in shapes:
            raise MemoryError("no room")
        return segment(self, pictures, shapes, *args)

    monkeypatch.setattr(Segmenter, "segment", fail_on_the_tall)
    results = predict(client, [f"{images.url}/{name}.jpg" for name in ("good", "turned", "good")])
    assert [bool(prediction["result"]) for prediction in results] == [True, False, True]
    assert "no room" in results[1]["reason"]


@pytest.mark.parametrize(
    "drawn", [["x"], [{"value": None}], [{"type": "brushlabels", "value": {"brushlabels": 1}}], "x"]
)
def test_a_strange_context_is_as_good_as_none(client: TestClient, images: Server, version: str, drawn: Any) -> None:
    [prediction] = predict(client, [f"{images.url}/good.jpg"], context={"result": drawn})
    assert prediction["result"]


def test_what_is_drawn_is_answered_with_its_region_alone(
    client: TestClient, images: Server, version: str, signals: Signals
) -> None:
    value = {"x": 20, "y": 20, "width": 40, "height": 40, "rotation": 0, "rectanglelabels": ["Clouds"]}
    drawn: dict[str, Any] = {
        "id": "r",
        "type": "rectanglelabels",
        "from_name": "rect",
        "to_name": "image",
        "value": value,
    }
    drawn |= {"original_width": 90, "original_height": 60, "image_rotation": 0, "origin": "manual"}
    for _ in range(2):
        [prediction] = predict(client, [f"{images.url}/good.jpg"], context={"result": [drawn]})
        [region] = prediction["result"]
        assert (region["from_name"], region["value"]["rectanglelabels"]) == ("rect", ["Clouds"])
        assert prediction["model_version"] == version
    assert len(images.requests) == 1  # who works on a painting asks many times


def test_a_store_that_is_out_of_reach_is_named_with_the_remedy(settings: Settings) -> None:
    Path(settings.store).write_text("a file where the folder should be")
    with TestClient(create_app(settings)) as client:
        answer = client.post("/setup", json={"project": PROJECT, "schema": CONFIG})
    assert answer.status_code == 503
    assert "UNDERPAINT_STORE" in answer.json()["error"]


def test_two_thousand_real_tasks_fill_two_thousand_slots(
    settings_here: Settings, images: Server, version: str, signals: Signals
) -> None:
    """More than one call can do: what was reached is right, and the rest is left to a worker."""
    hurried = settings_here.model_copy(update={"predict_deadline": 2.0, "fetch_timeout": 20.0})
    with TestClient(create_app(hurried)) as quick:
        results = predict(quick, [f"{images.url}/good.jpg"] * 2000)
    assert len(results) == 2000
    reached = [prediction for prediction in results if prediction]
    assert reached
    assert all(prediction["result"] for prediction in reached)
    assert signals.completions.waiting().get(PROJECT, 0) == 2000 - len(reached)

"""A completion with real nets and a real Redis, against a server that stores predictions as Label Studio does."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rq import SimpleWorker

from http_server import Answer, Request, Server, serve
from underpaint.admin import Admin
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store
from underpaint.labelstudio.client import LabelStudio, LabelStudioError
from underpaint.project import key_of
from underpaint.serving.backend import Backend
from underpaint.settings import Settings
from underpaint.signals import Signals, completion_id
from underpaint_workers import completion as completion_module
from underpaint_workers import jobs
from underpaint_workers.completion import Completion
from underpaint_workers.connection import WrongProject

CREATED = "2026-11-22T10:45:27Z"
PROJECT = key_of({"id": 3, "created_at": CREATED})
CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="label" toName="image">'
    '<Label value="Sky"/><Label value="Water"/></BrushLabels></View>'
)


def painting(number: int) -> str:
    """A data URI of a small image of a colour of its own."""
    file = io.BytesIO()
    Image.new("RGB", (12, 9), (number % 256, number // 256, 99)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


class Studio:
    """One project of a Label Studio, with tasks 1 to 10."""

    def __init__(self) -> None:
        self.images = {number: painting(number) for number in range(1, 11)}
        self.predictions: list[dict[str, Any]] = []
        self.created = CREATED
        self.before: dict[str, Callable[[], Answer | None]] = {}
        """By path, what happens when it is asked; an answer takes the place of the usual one."""

    def __call__(self, request: Request) -> Answer:
        if (before := self.before.get(request.path)) and (answer := before()):
            return answer
        if request.path == "/api/projects/3/":
            return as_json({"id": 3, "created_at": self.created, "label_config": CONFIG})
        if request.path == "/api/tasks/":
            return self.tasks(json.loads(request.query["query"]))
        assert request.path == "/api/projects/3/import/predictions"
        return self.store(json.loads(request.body))

    def tasks(self, query: dict[str, Any]) -> Answer:
        [lacking] = query["filters"]["items"]
        assert (lacking["filter"], lacking["operator"]) == ("filter:tasks:predictions_model_versions", "not_contains")
        having = {each["task"] for each in self.predictions if each["model_version"] in lacking["value"]}
        asked = [number for number in query["selectedItems"]["included"] if number in self.images]
        tasks = [{"id": number, "data": {"image": self.images[number]}} for number in asked if number not in having]
        return as_json({"total": len(tasks), "tasks": tasks})

    def store(self, predictions: list[dict[str, Any]]) -> Answer:
        if any(each["task"] not in self.images for each in predictions):
            return as_json({"validation_errors": "invalid task field"}, 400)
        self.predictions += predictions
        return as_json({"created": len(predictions)}, 201)

    def versions(self) -> dict[int, list[str]]:
        """By task, the versions of its predictions, none of which may be empty."""
        found: dict[int, list[str]] = {}
        for each in self.predictions:
            assert each["result"], each
            found.setdefault(each["task"], []).append(each["model_version"])
        return found


def as_json(content: Any, status: int = 200) -> Answer:
    return Answer(json.dumps(content).encode(), status, {"Content-Type": "application/json"})


@pytest.fixture
def studio() -> Studio:
    return Studio()


@pytest.fixture
def server(studio: Studio) -> Iterator[Server]:
    with serve(studio) as server:
        yield server


@pytest.fixture
def sky(settings: Settings, make_checkpoint: Callable[..., Checkpoint]) -> str:
    """Version of the project's champion, which sees sky."""
    return promote(settings, make_checkpoint(("sky", "water"), "sky"))


def promote(settings: Settings, checkpoint: Checkpoint) -> str:
    store = Store(settings.store)
    version = store.put(checkpoint)
    store.promote(PROJECT, version, "test", "test", {})
    return version


@pytest.fixture
def completion(settings: Settings, server: Server, sky: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Completion]:
    """The project's completion, in chunks of three tasks."""
    monkeypatch.setattr(completion_module, "CHUNK", 3)
    backend = Backend(settings)
    yield Completion(PROJECT, backend, LabelStudio(server.url, "token"))
    backend.predictor.stop()
    backend.batcher.stop()


def wait_for(completion: Completion, *tasks: int) -> None:
    completion.backend.signals.completions.add(PROJECT, tasks)


def never() -> bool:
    return False


def test_all_that_wait_get_one_prediction(completion: Completion, studio: Studio, sky: str) -> None:
    wait_for(completion, *range(1, 9))
    assert completion.run(never)
    assert studio.versions() == {task: [sky] for task in range(1, 9)}
    assert studio.predictions[0].keys() == {"task", "result", "score", "model_version"}
    assert (completion.done, completion.left, completion.version, completion.problems) == (8, 0, sky, [])
    assert completion.backend.signals.completions.waiting() == {}


def test_tasks_that_have_one_already_or_are_gone_are_left_out(completion: Completion, studio: Studio, sky: str) -> None:
    studio.predictions = [{"task": task, "result": ["old"], "model_version": sky} for task in (2, 3)]
    studio.predictions += [{"task": 4, "result": ["old"], "model_version": "another"}]
    del studio.images[5]
    wait_for(completion, 1, 2, 3, 4, 5)
    assert completion.run(never)
    assert studio.versions() == {1: [sky], 2: [sky], 3: [sky], 4: ["another", sky]}
    assert completion.done == 2


def test_a_painting_that_fails_gets_no_empty_prediction(completion: Completion, studio: Studio, sky: str) -> None:
    studio.images[2] = "data:image/png;base64,bm8gaW1hZ2U="
    wait_for(completion, 1, 2, 3)
    assert completion.run(never)
    assert studio.versions() == {1: [sky], 3: [sky]}
    [problem] = completion.problems
    assert problem.startswith("task 2: ")
    assert completion.backend.signals.completions.waiting() == {}


def test_what_a_call_claims_meanwhile_is_left_to_it(completion: Completion, studio: Studio, sky: str) -> None:
    completions = completion.backend.signals.completions

    def claim() -> None:
        del studio.before["/api/tasks/"]
        assert completions.claim(PROJECT, sky, [1, 3]) == set()
        completions.add(PROJECT, [3])  # and the call had no time for 3, either

    studio.before["/api/tasks/"] = claim
    wait_for(completion, 1, 2, 3, 4)
    assert completion.run(never)
    assert studio.versions() == {2: [sky], 3: [sky], 4: [sky]}


@pytest.mark.parametrize("stored", [True, False])
def test_a_worker_that_dies_while_it_stores_leaves_nothing_out_and_nothing_twice(
    completion: Completion, studio: Studio, sky: str, stored: bool
) -> None:
    path = "/api/projects/3/import/predictions"

    def die() -> Answer:
        if stored:
            studio.predictions += [{"task": task, "result": ["kept"], "model_version": sky} for task in (1, 2, 3)]
        return Answer(b"", 500)

    studio.before[path] = die
    wait_for(completion, *range(1, 6))
    with pytest.raises(LabelStudioError):
        completion.run(never)
    assert completion.backend.signals.completions.waiting() == {PROJECT: 5}
    del studio.before[path]
    assert completion.run(never)
    assert studio.versions() == {task: [sky] for task in range(1, 6)}


def test_a_task_deleted_at_the_last_moment_keeps_only_its_own_prediction_out(
    completion: Completion, studio: Studio, sky: str
) -> None:
    def delete() -> None:
        studio.images.pop(2, None)

    studio.before["/api/projects/3/import/predictions"] = delete
    wait_for(completion, 1, 2, 3)
    assert completion.run(never)
    assert studio.versions() == {1: [sky], 3: [sky]}
    assert (completion.done, len(completion.problems)) == (2, 1)


def test_when_the_champion_moves_the_rest_is_predicted_by_the_new_one(
    completion: Completion, studio: Studio, sky: str, settings: Settings, make_checkpoint: Callable[..., Checkpoint]
) -> None:
    def move(_: Completion) -> None:
        if completion.left == 2:
            promote(settings, make_checkpoint(("sky", "water"), "water"))

    completion.report = move
    wait_for(completion, *range(1, 6))
    assert completion.run(never)
    versions = studio.versions()
    [water] = versions[5]
    assert versions == {1: [sky], 2: [sky], 3: [sky], 4: [water], 5: [water]}
    assert water == completion.version != sky
    labels = [each["result"][0]["value"]["brushlabels"] for each in studio.predictions]
    assert labels == [["Sky"]] * 3 + [["Water"]] * 2


@pytest.mark.parametrize("fault", ["deleted", "another"])
def test_a_project_that_is_gone_takes_its_tasks_with_it(completion: Completion, studio: Studio, fault: str) -> None:
    if fault == "deleted":
        studio.before["/api/projects/3/"] = lambda: Answer(b"{}", 404)
    else:
        studio.created = "2027-01-01T00:00:00Z"
    wait_for(completion, 1, 2)
    with pytest.raises(WrongProject, match=PROJECT):
        completion.run(never)
    assert completion.backend.signals.completions.waiting() == {}
    assert studio.predictions == []


def test_it_gives_way_between_two_chunks(completion: Completion, studio: Studio, sky: str) -> None:
    wait_for(completion, *range(1, 6))
    assert not completion.run(lambda: True)
    assert (sorted(studio.versions()), completion.left) == ([1, 2, 3], 2)
    assert completion.run(lambda: True)
    assert sorted(studio.versions()) == [1, 2, 3, 4, 5]


@pytest.fixture
def in_studio(server: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings, for jobs too, that name the server."""
    found = settings.model_copy(update={"label_studio_url": server.url, "label_studio_token": "token"})
    monkeypatch.setattr(jobs, "get_settings", lambda: found)
    monkeypatch.setattr(completion_module, "CHUNK", 3)
    return found


def count_waiting(url: str) -> int:
    """A job: how many tasks wait now."""
    return sum(Signals(url, "any").completions.waiting().values())


def test_jobs_take_turns_on_one_worker(
    in_studio: Settings, studio: Studio, sky: str, signals: Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "COMPLETION_SECONDS", 0.0)
    assert signals.enqueue_completion(PROJECT, range(1, 9), sky, timeout=600)
    another = signals.queue.enqueue(count_waiting, in_studio.redis_url)
    SimpleWorker([signals.queue], connection=signals.redis).work(burst=True)
    assert another.return_value() == 5, "it came after the first three"
    assert studio.versions() == {task: [sky] for task in range(1, 9)}
    assert signals.job(completion_id(PROJECT)) is None, "its id is free again"


def test_an_admin_sees_how_far_it_is(
    in_studio: Settings, studio: Studio, sky: str, signals: Signals, tmp_path: Path
) -> None:
    admin = Admin(in_studio)
    assert admin.completions() == []
    signals.enqueue_completion(PROJECT, range(1, 9), sky, timeout=600)
    [line] = admin.completions()
    assert PROJECT in line
    assert "8 tasks" in line
    assert "queued" in line

    def fail() -> Answer | None:
        [line] = admin.completions()
        said.append(line)
        return Answer(b"", 500) if len(studio.predictions) else None

    said: list[str] = []
    studio.before["/api/projects/3/import/predictions"] = fail
    SimpleWorker([signals.queue], connection=signals.redis).work(burst=True)
    assert ["started" in line for line in said] == [True, True]
    assert "5 tasks" in said[1]
    assert "3 predictions are in Label Studio" in said[1]
    [line] = admin.completions()
    assert "failed" in line
    assert "500" in line

"""What no retrain has seen is found whatever happened, by few requests; Label Studio is played by a few lines here.

What the real one answers is tested in ``tests/faults``.
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from http_server import Answer, Request, Server, serve
from underpaint.checkpoints.store import Store
from underpaint.labelstudio.client import LabelStudio
from underpaint.labelstudio.label_config import parse
from underpaint.project import key_of
from underpaint.settings import Settings
from underpaint.signals import Pending, Signals
from underpaint_workers import manifest as manifests
from underpaint_workers import reconcile as reconciling
from underpaint_workers.manifest import Entry, Manifest, rules_of
from underpaint_workers.reconcile import Difference, command, compare, difference, reconcile, reconcile_all

CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    '<Label value="Sky"/><Label value="Water"/></BrushLabels></View>'
)
CREATED_AT = "2026-11-22T10:45:27Z"
PROJECT = key_of({"id": 3, "created_at": CREATED_AT})


class Studio:
    """A project in Label Studio: its tasks, their annotations, and a clock that ticks with every change."""

    def __init__(self) -> None:
        self.config = CONFIG
        self.created_at = CREATED_AT
        self.tasks: dict[int, dict[str, Any]] = {}
        self._now = datetime(2026, 11, 23, tzinfo=UTC)
        self._last = 0

    def answer(self, request: Request) -> Answer:
        if request.path == "/api/projects/3/":
            return _json({"id": 3, "created_at": self.created_at, "label_config": self.config})
        if request.path == "/api/projects/3/export":
            ids = [int(part.partition("=")[2]) for part in request.target.split("&") if part.startswith("ids%5B%5D=")]
            return _json([task for id_, task in self.tasks.items() if id_ in ids and task["annotations"]])
        if request.path == "/api/tasks/":
            return _json(self._list(json.loads(request.query["query"]), int(request.query["page_size"])))
        return Answer(status=404)

    def _list(self, query: dict[str, Any], size: int) -> dict[str, Any]:
        tasks = list(self.tasks.values())
        for item in query["filters"]["items"]:
            if item["filter"] == "filter:tasks:updated_at":
                assert item["operator"] == "greater_or_equal"
                since = datetime.fromisoformat(item["value"])
                tasks = [task for task in tasks if datetime.fromisoformat(task["updated_at"]) >= since]
            else:
                assert item["filter"] == "filter:tasks:annotations_ids"
                tasks = [task for task in tasks if task["annotations"]]
        if query.get("ordering") == ["-tasks:updated_at"]:
            tasks.sort(key=lambda task: str(task["updated_at"]), reverse=True)
        count = sum(not annotation["was_cancelled"] for task in tasks for annotation in task["annotations"])
        return {"total": len(tasks), "total_annotations": count, "tasks": tasks[:size]}

    def task(self, *, annotated: bool = False) -> int:
        id_ = self._id()
        self.tasks[id_] = {"id": id_, "data": {"image": f"/{id_}.png"}, "annotations": [], "updated_at": self.tick()}
        if annotated:
            self.annotate(id_)
        return id_

    def annotate(self, task: int, regions: str = "Sky", *, was_cancelled: bool = False) -> None:
        annotation = {"id": self._id(), "was_cancelled": was_cancelled, "ground_truth": False}
        self.tasks[task]["annotations"].append(annotation)
        self.edit(task, regions)

    def edit(self, task: int, regions: str) -> None:
        when = self.tick()
        self.tasks[task]["annotations"][-1] |= {"result": [regions], "updated_at": when}
        self.tasks[task]["updated_at"] = when

    def delete_annotations(self, task: int, *, dated: str = "") -> None:
        self.tasks[task] |= {"annotations": [], "updated_at": dated or self.tick()}

    def tick(self) -> str:
        self._now += timedelta(minutes=10)
        return self._now.isoformat().replace("+00:00", "Z")

    def _id(self) -> int:
        self._last += 1
        return self._last

    def manifest(self, settings: Settings) -> Manifest:
        """What a snapshot would hold that is taken now."""
        config = parse(self.config)
        annotated = {id_: task for id_, task in self.tasks.items() if task["annotations"]}
        entries = {id_: Entry.of(copy.deepcopy(task), config, settings) for id_, task in annotated.items()}
        latest = max((task["updated_at"] for task in self.tasks.values()), default="")
        return Manifest(latest, rules_of(config, settings), entries)


def _json(value: Any) -> Answer:
    return Answer(json.dumps(value).encode())


@pytest.fixture
def studio() -> Studio:
    return Studio()


@pytest.fixture
def server(studio: Studio) -> Iterator[Server]:
    with serve(studio.answer) as server:
        yield server


@pytest.fixture
def client(server: Server) -> LabelStudio:
    return LabelStudio(server.url, "token")


@pytest.fixture
def connected(settings: Settings, server: Server) -> Settings:
    return settings.model_copy(update={"label_studio_url": server.url, "label_studio_token": "token"})


def test_created_changed_and_deleted_labels_are_told_apart(
    studio: Studio, client: LabelStudio, settings: Settings
) -> None:
    edited, deleted, skipped, accepted = (studio.task(annotated=number < 3) for number in range(4))
    before = studio.manifest(settings)
    assert difference(client, 3, before, settings) == Difference()
    studio.edit(edited, "Water")
    studio.delete_annotations(deleted)
    studio.annotate(skipped, was_cancelled=True)
    studio.annotate(accepted)
    imported = studio.task(annotated=True)
    found = difference(client, 3, before, settings)
    assert found == Difference((accepted, imported), (edited,), (deleted,))
    assert (found.labels, str(found)) == (4, "2 created, 1 changed, 1 deleted")


def test_the_same_label_accepted_again_is_nothing_new(studio: Studio, client: LabelStudio, settings: Settings) -> None:
    task, again = studio.task(annotated=True), studio.task(annotated=True)
    before = studio.manifest(settings)
    studio.edit(task, "Sky")
    studio.delete_annotations(again)
    studio.annotate(again)
    assert difference(client, 3, before, settings) == Difference()
    studio.annotate(task, "Water")
    assert difference(client, 3, before, settings) == Difference(changed=(task,))


def test_what_leaves_no_date_is_found_by_the_count(
    studio: Studio, client: LabelStudio, server: Server, settings: Settings
) -> None:
    """A deleted task, and labels deleted in bulk by a Label Studio whose local time is behind UTC."""
    gone, bulk, _ = (studio.task(annotated=True) for _ in range(3))
    before = studio.manifest(settings)
    del studio.tasks[gone]
    studio.delete_annotations(bulk, dated="2026-11-22T00:00:00Z")
    assert difference(client, 3, before, settings) == Difference(deleted=(gone, bulk))


def test_a_look_that_finds_nothing_costs_a_few_requests(
    studio: Studio, client: LabelStudio, server: Server, settings: Settings
) -> None:
    for _ in range(300):
        studio.task(annotated=True)
    before = studio.manifest(settings)
    difference(client, 3, before, settings)
    assert len(server.requests) <= 4
    assert sum(request.target.count("ids%5B%5D") for request in server.requests) == 1  # of the latest change alone


def test_what_is_learned_from_a_label_may_change_by_settings_and_label_config(
    studio: Studio, client: LabelStudio, settings: Settings
) -> None:
    task = studio.task(annotated=True)
    before = studio.manifest(settings)
    strict = settings.model_copy(update={"ground_truth_only": True})
    assert difference(client, 3, before, strict) == Difference(deleted=(task,), rules=True)
    studio.config = CONFIG.replace("Water", "Sea")
    found = difference(client, 3, before, settings)
    assert (found, found.labels) == (Difference(rules=True), 1)
    studio.config = CONFIG.replace("<Label", '<Label predicted_values="sea"')
    assert difference(client, 3, before, settings) == Difference(rules=True)
    same = CONFIG.replace("<View>", '<View><Header value="Paint"/>').replace("BrushLabels", "PolygonLabels")
    studio.config = same.replace('"Water"', '"Water" background="#0000ff"')
    assert difference(client, 3, before, settings) == Difference()


def test_before_the_first_retrain_every_label_is_new(studio: Studio, client: LabelStudio, settings: Settings) -> None:
    assert difference(client, 3, Manifest(), settings) == Difference()
    studio.task()
    task = studio.task(annotated=True)
    assert difference(client, 3, Manifest(), settings) == Difference(created=(task,))


kinds = st.sampled_from(["task", "annotate", "skip", "edit", "clear", "remove"])
steps = st.lists(st.tuples(kinds, st.integers(0, 7), st.booleans()), max_size=12)


@given(steps, steps)
@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_people_do_the_difference_is_what_a_new_snapshot_would_bring(
    settings: Settings, before: list[tuple[str, int, bool]], after: list[tuple[str, int, bool]]
) -> None:
    studio = Studio()
    play(studio, before)
    learned = studio.manifest(settings)
    play(studio, after)
    now = studio.manifest(settings)
    with serve(studio.answer) as server:
        found = difference(LabelStudio(server.url, "token"), 3, learned, settings)
    assert found == compare(learned.tasks, now.tasks, {*learned.tasks, *now.tasks})


def play(studio: Studio, steps: list[tuple[str, int, bool]]) -> None:
    for what, number, other in steps:
        ids = sorted(studio.tasks)
        if what == "task" or not ids:
            studio.task(annotated=other)
            continue
        id_ = ids[number % len(ids)]
        if what in ("annotate", "skip"):
            studio.annotate(id_, "Water" if other else "Sky", was_cancelled=what == "skip")
        elif what == "edit" and studio.tasks[id_]["annotations"]:
            studio.edit(id_, "Water" if other else "Sky")
        elif what == "clear":
            studio.delete_annotations(id_, dated="2026-11-01T00:00:00Z" if other else "")
        elif what == "remove":
            del studio.tasks[id_]


def test_what_is_found_is_counted_once_with_what_webhooks_told(
    studio: Studio, connected: Settings, signals: Signals
) -> None:
    store = Store(connected.store)
    for _ in range(3):
        studio.task(annotated=True)
    signals.note(PROJECT, 2, now=10.0)
    for _ in range(2):
        assert reconcile(PROJECT, connected, store, signals).labels == 3
    pending = signals.pending()[PROJECT]
    assert (pending.labels, pending.first) == (3, 10.0)
    signals.note(PROJECT, 4)
    reconcile(PROJECT, connected, store, signals)
    assert signals.pending()[PROJECT].labels == 7


def test_nothing_is_counted_that_a_running_retrain_is_about_to_see(
    studio: Studio, connected: Settings, signals: Signals
) -> None:
    studio.task(annotated=True)
    signals.enqueue_retrain(PROJECT, 60)
    assert reconcile(PROJECT, connected, Store(connected.store), signals) == Difference()
    assert signals.pending() == {}


def test_trouble_with_one_project_keeps_no_other_from_being_looked_at(
    studio: Studio, connected: Settings, signals: Signals, caplog: pytest.LogCaptureFixture
) -> None:
    """One is gone, one was replaced by another of the same id, one is only known by its /setup."""
    studio.task(annotated=True)
    store = Store(connected.store)
    store.write_file("9.1795344327", "setup.json", b"{}")
    store.write_file("3.1600000000", "setup.json", b"{}")
    signals.remember_connection(PROJECT, connected.label_studio_url, "token")
    assert reconcile_all(connected, store, signals) == {PROJECT: Difference(created=(1,))}
    assert signals.pending()[PROJECT].labels == 1
    assert "9.1795344327 can't be reconciled" in caplog.text
    assert f"has project {PROJECT}, not 3.1600000000" in caplog.text


def test_a_manifest_comes_back_as_it_was_written(studio: Studio, settings: Settings) -> None:
    store = Store(settings.store)
    assert Manifest.read(store, PROJECT) == Manifest()
    studio.task(annotated=True)
    written = replace(studio.manifest(settings), fingerprint="abc", settings="def", versions=("", "0123456789ab"))
    written.write(store, PROJECT)
    assert Manifest.read(store, PROJECT) == written


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"tasks": {"x": []}, "rules": [], "versions": []}'])
def test_a_manifest_that_is_broken_makes_every_label_new(
    settings: Settings, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(settings.store)
    store.write_file(PROJECT, manifests.NAME, content)
    assert Manifest.read(store, PROJECT) == Manifest()
    assert manifests.NAME in caplog.text


def test_pending_is_raised_and_never_lowered(signals: Signals) -> None:
    signals.note_total(PROJECT, 3, now=10.0)
    signals.note_total(PROJECT, 2, now=20.0)
    assert signals.pending() == {PROJECT: Pending(3, 10.0, 10.0)}
    signals.note_total(PROJECT, 5, now=30.0)
    assert signals.take(PROJECT) == Pending(5, 10.0, 30.0)


def test_the_command_says_what_it_found(
    studio: Studio,
    server: Server,
    connected: Settings,
    signals: Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(reconciling, "get_settings", lambda: connected)
    studio.task(annotated=True)
    command("3")
    signals.enqueue_retrain(PROJECT, 60)
    command(PROJECT)
    assert capsys.readouterr().out.splitlines() == [
        "project 3: 1 created",
        f"project {PROJECT}: a retrain is under way, and sees all there is",
    ]
    assert signals.pending()[PROJECT].labels == 1

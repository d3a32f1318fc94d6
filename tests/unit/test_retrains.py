import json
import time
from pathlib import Path

import pytest
import redis
from rq.job import Job

from underpaint.checkpoints.store import Store, StoreError
from underpaint.policy import Policy
from underpaint.redis_server import RedisServer, free_port
from underpaint.serving.retrains import Retrains, is_due
from underpaint.settings import Settings
from underpaint.signals import Pending, Signals, job_id

PROJECT = "3.1795344327"
POLICY = Settings(retrain_after_labels=5, retrain_after_minutes=10, retrain_quiet_seconds=30)


@pytest.mark.parametrize(
    ("pending", "now", "due"),
    [
        (Pending(), 1000.0, False),
        (Pending(requested=True), 0.0, True),
        (Pending(labels=5, first=0.0, last=100.0), 129.0, False),  # somebody is still at it
        (Pending(labels=5, first=0.0, last=100.0), 130.0, True),
        (Pending(labels=4, first=0.0, last=100.0), 130.0, False),  # too few, and too early
        (Pending(labels=1, first=0.0, last=0.0), 599.0, False),
        (Pending(labels=1, first=0.0, last=0.0), 600.0, True),  # few, but waited long enough
        (Pending(labels=99, first=0.0, last=600.0), 600.0, True),  # nobody ever pauses here
    ],
)
def test_policy(pending: Pending, now: float, due: bool) -> None:
    assert is_due(pending, now, POLICY) is due


def test_a_storm_of_labels_queues_one_retrain(settings: Settings, signals: Signals) -> None:
    quick = settings.model_copy(update={"retrain_after_labels": 50, "retrain_quiet_seconds": 0.2})
    backends = [Retrains(quick, signals), Retrains(quick, Signals(settings.redis_url, settings.queue))]
    for backend in backends:
        backend.start()
    for _ in range(250):
        for backend in backends:
            backend.note(PROJECT, 1)
    _wait_for(lambda: job_id(PROJECT) in signals.queue.job_ids)
    assert signals.pending()[PROJECT].labels == 500
    for backend in backends:
        backend.stop()
    assert sorted(signals.queue.job_ids) == sorted([job_id(PROJECT), "reconcile"])


def test_a_request_is_queued_at_once_and_repeated_after_a_running_one(settings: Settings, signals: Signals) -> None:
    retrains = Retrains(settings, signals)
    assert retrains.request(PROJECT) == job_id(PROJECT)
    assert signals.queue.job_ids == [job_id(PROJECT)]
    signals.take(PROJECT)  # as the job does when it starts
    retrains.request(PROJECT)
    assert signals.pending()[PROJECT].requested


def test_labels_noted_while_redis_is_down_arrive_when_it_is_back(tmp_path: Path, settings: Settings) -> None:
    port = free_port()
    signals = Signals(f"redis://127.0.0.1:{port}/0", "underpaint")
    retrains = Retrains(settings, signals)
    retrains.start()
    started = time.perf_counter()
    for _ in range(100):
        retrains.note(PROJECT, 1)
    assert time.perf_counter() - started < 0.1
    with pytest.raises(redis.RedisError):
        retrains.request(PROJECT)
    with RedisServer(tmp_path / "late", port):
        _wait_for(lambda: signals.pending().get(PROJECT, Pending()).labels == 100)
        retrains.stop()


def _wait_for(condition: object, seconds: float = 10.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def test_a_worker_learns_where_a_project_is_even_if_redis_was_down(tmp_path: Path, settings: Settings) -> None:
    port = free_port()
    signals = Signals(f"redis://127.0.0.1:{port}/0", "underpaint")
    retrains = Retrains(settings, signals)
    retrains.start()
    retrains.introduce(PROJECT, "http://studio", "secret")
    time.sleep(0.2)
    with RedisServer(tmp_path / "late", port):
        _wait_for(lambda: signals.connection(PROJECT) == ("http://studio", "secret"))
        retrains.stop()


def test_trouble_with_one_project_does_not_end_the_learning_of_all(
    settings: Settings, signals: Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = settings.model_copy(update={"retrain_after_labels": 1, "retrain_quiet_seconds": 0.0})
    pending, calls = signals.pending, []

    def fail_once() -> object:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("something unforeseen")
        return pending()

    monkeypatch.setattr(signals, "pending", fail_once)
    retrains = Retrains(quick, signals)
    retrains.start()
    retrains.note(PROJECT, 1)
    _wait_for(lambda: job_id(PROJECT) in signals.queue.job_ids)
    retrains.stop()


def test_label_studio_is_looked_at_when_a_backend_starts_and_then_once_in_a_while_however_many_there_are(
    settings: Settings, signals: Signals
) -> None:
    hasty = settings.model_copy(update={"reconcile_minutes": 3 / 60})
    backends = [Retrains(hasty, Signals(settings.redis_url, settings.queue)) for _ in range(3)]
    queued: list[float] = []

    def look(seconds: float) -> None:
        """Take each reconcile from the queue as it comes, as a worker does that is quick."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if signals.queue.remove("reconcile"):
                Job.fetch("reconcile", connection=signals.redis).delete()
                queued.append(time.monotonic())
            time.sleep(0.01)

    backends[0].start()
    look(1.5)
    assert len(queued) == 1
    for backend in backends[1:]:
        backend.start()
    look(1.5)
    assert len(queued) in (2, 3)  # each looks as it starts
    started = len(queued)
    look(4.4)
    for backend in backends:
        backend.stop()
    assert 1 <= len(queued) - started <= 2


def test_what_setup_said_outlives_a_wiped_redis(settings: Settings, signals: Signals) -> None:
    hasty = settings.model_copy(update={"reconcile_minutes": 1 / 60})
    retrains = Retrains(hasty, signals)
    retrains.start()
    retrains.introduce(PROJECT, "http://studio", "secret")
    _wait_for(lambda: signals.connected() == [PROJECT])
    _wait_for(lambda: Store(settings.store).projects() == [PROJECT])
    signals.redis.flushall()
    _wait_for(lambda: signals.connection(PROJECT) == ("http://studio", "secret"))
    retrains.stop()
    assert "secret" not in str(Store(settings.store).read_file(PROJECT, "setup.json"))


def test_a_project_has_a_policy_of_its_own_on_every_backend_and_after_redis_was_wiped(
    settings: Settings, signals: Signals
) -> None:
    quiet = settings.model_copy(update={"retrain_quiet_seconds": 0.0})
    first = Retrains(quiet, signals)
    first.introduce(PROJECT, "http://studio", "secret", Policy(retrain_after_labels=2))
    first.introduce("4.1", "http://studio", "secret", Policy())
    first.start()
    _wait_for(lambda: set(Store(settings.store).projects()) == {PROJECT, "4.1"})
    first.stop()
    signals.redis.flushall()
    second = Retrains(quiet, Signals(settings.redis_url, settings.queue))
    second.start()
    second.note("4.1", 2)
    second.note(PROJECT, 1)
    _wait_for(lambda: set(signals.pending()) == {PROJECT, "4.1"})
    assert set(signals.queue.job_ids) <= {"reconcile"}
    second.note(PROJECT, 1)
    _wait_for(lambda: job_id(PROJECT) in signals.queue.job_ids)
    assert job_id("4.1") not in signals.queue.job_ids
    second.introduce(PROJECT, "http://studio", "secret", None)  # as label-studio-ml's runner does, which knows of none
    second.introduce("4.1", "http://studio", "secret", Policy(retrain_after_labels=2))
    _wait_for(lambda: job_id("4.1") in signals.queue.job_ids)
    second.stop()
    kept = json.loads(Store(settings.store).read_file(PROJECT, "setup.json") or b"")
    assert kept["policy"] == {"retrain_after_labels": 2}


@pytest.mark.parametrize("setup", [b"{}", b"[]", b"not JSON", b'{"policy": {"retrain_after_labels": "many"}}'])
def test_a_setup_that_can_not_be_read_leaves_the_settings(settings: Settings, signals: Signals, setup: bytes) -> None:
    Store(settings.store).write_file(PROJECT, "setup.json", setup)
    hasty = settings.model_copy(update={"retrain_after_labels": 1, "retrain_quiet_seconds": 0.0})
    retrains = Retrains(hasty, signals)
    retrains.start()
    retrains.note(PROJECT, 1)
    _wait_for(lambda: job_id(PROJECT) in signals.queue.job_ids)
    retrains.stop()


def test_a_store_that_is_full_keeps_no_connection_from_the_worker(
    settings: Settings, signals: Signals, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise StoreError("No space left on device")

    monkeypatch.setattr(Store, "write_file", full)
    retrains = Retrains(settings, signals)
    retrains.start()
    retrains.introduce(PROJECT, "http://studio", "secret")
    _wait_for(lambda: signals.connection(PROJECT) == ("http://studio", "secret"))
    retrains.stop()
    assert "No space left" in caplog.text

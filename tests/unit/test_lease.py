"""One process at a time retrains a project, whatever becomes of Redis and of processes."""

import tempfile
import time
from pathlib import Path

import pytest

from underpaint.signals import Signals, job_id
from underpaint_workers import lease as leases
from underpaint_workers import scratch as scratches
from underpaint_workers.lease import Busy, Cancelled, Lease
from underpaint_workers.scratch import scratch

PROJECT = "3.1795344327"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "SECONDS", 0.6)
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.05)


def test_a_second_one_waits_and_then_says_that_it_is_not_needed(signals: Signals) -> None:
    with Lease(signals, PROJECT) as first:
        with pytest.raises(Busy, match="already"), Lease(signals, PROJECT):
            pass
        first.check()
        with Lease(signals, "4.1"):  # another project's
            pass
    with Lease(signals, PROJECT) as second:
        second.check()


def test_what_a_killed_process_held_is_free_soon(signals: Signals) -> None:
    signals.leases.hold(PROJECT, "killed", leases.SECONDS)
    with Lease(signals, PROJECT) as lease:
        lease.check()


def test_a_worker_takes_over_from_its_own_killed_job_at_once(signals: Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQ_WORKER_ID", "worker")
    signals.leases.hold(PROJECT, "worker", 60)
    started = time.monotonic()
    with Lease(signals, PROJECT):
        assert time.monotonic() - started < 0.5


def test_it_outlives_a_wiped_redis_and_no_second_retrain_is_queued_meanwhile(signals: Signals) -> None:
    with Lease(signals, PROJECT) as lease:
        signals.redis.flushall()
        time.sleep(0.3)
        lease.check()
        assert not signals.enqueue_retrain(PROJECT, 60)
    assert signals.enqueue_retrain(PROJECT, 60)


def test_one_that_stood_still_for_too_long_stops(signals: Signals) -> None:
    with Lease(signals, PROJECT) as lease:
        signals.redis.set(f"underpaint:retraining:{PROJECT}", "another")
        time.sleep(0.3)
        with pytest.raises(Busy, match="worker another retrains"):
            lease.check()
    assert signals.leases.held(PROJECT)  # by the other


def test_without_redis_it_goes_on() -> None:
    with Lease(Signals("redis://127.0.0.1:1/0", "underpaint"), PROJECT) as lease:
        lease.check()


def test_cancelling_stops_a_running_one_and_forgets_what_waits(signals: Signals) -> None:
    signals.note(PROJECT, 3)
    with Lease(signals, PROJECT) as lease:
        assert signals.cancel_retrain(PROJECT) == "started"
        time.sleep(0.3)
        with pytest.raises(Cancelled):
            lease.check()
    assert signals.pending() == {}


def test_cancelling_takes_a_queued_one_from_the_queue(signals: Signals) -> None:
    assert signals.cancel_retrain(PROJECT) is None
    signals.enqueue_retrain(PROJECT, 60)
    assert signals.cancel_retrain(PROJECT) == "queued"
    assert signals.queue.job_ids == []
    assert signals.job(job_id(PROJECT)) is None
    assert signals.enqueue_retrain(PROJECT, 60)


def test_one_cancelled_while_it_starts_stops_at_its_first_step(signals: Signals) -> None:
    signals.leases.cancel(PROJECT, 60)
    with Lease(signals, PROJECT) as lease, pytest.raises(Cancelled):
        lease.check()


def test_folders_of_killed_processes_are_removed_and_those_in_use_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / f"{scratches.PREFIX}left"
    left.mkdir()
    (left / scratches.LOCK).touch()
    (left / "painting.png").touch()
    (tmp_path / f"{scratches.PREFIX}anothers").mkdir()
    with scratch() as first:
        (first / "painting.png").touch()
        assert not left.exists()
        with scratch() as second:
            assert (first / "painting.png").exists()
            assert first != second
    assert [path.name for path in tmp_path.iterdir()] == [f"{scratches.PREFIX}anothers"]

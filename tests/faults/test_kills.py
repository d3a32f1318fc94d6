"""A retrain survives what happens to processes and machines, and stops when a person says so."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faults.project import Project
from faults.underpaint_processes import Underpaint, job_process, kill
from integration.processes import eventually
from underpaint.signals import job_id
from underpaint_workers.lease import SECONDS as LEASE_SECONDS
from underpaint_workers.resume import FOLDER
from underpaint_workers.scratch import PREFIX

SECONDS = 240.0
TRAINING_SECONDS = 24.0
# The time ends it, long enough after its state is kept for the first time, on any machine.
LONG = {"train_min_steps": 1_000_000, "train_minutes": TRAINING_SECONDS / 60}


@pytest.fixture
def labelled(project: Project, underpaint: Underpaint) -> Project:
    """A project with labels and a retrain in the queue."""
    project.accept(project.add(6))
    underpaint.signals.enqueue_retrain(project.key, underpaint.settings.retrain_timeout)
    return project


def states(underpaint: Underpaint, project: Project) -> dict[str, float]:
    """When each kept state of the project's training was last written, by name."""
    folder = Path(underpaint.settings.store, "projects", project.key, FOLDER)
    return {path.name: path.stat().st_mtime for path in folder.glob("*.pt")} if folder.exists() else {}


def statuses(underpaint: Underpaint, project: Project) -> list[str]:
    return [run["status"] for run in underpaint.store.runs(project.key)]


def test_a_killed_job_and_a_killed_worker_go_on_from_the_last_state(
    underpaint: Underpaint, labelled: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes train at first, then one."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with underpaint.worker(**LONG, train_processes=2) as first:
        eventually(lambda: states(underpaint, labelled), "a state is kept", SECONDS)
        kill(job_process(first))  # as the system does when memory is short
        kept = states(underpaint, labelled)
        eventually(lambda: "training goes on after step" in first.output(), "the same worker goes on", SECONDS)
        eventually(lambda: states(underpaint, labelled) not in ({}, kept), "a later state is kept", SECONDS)
        job = job_process(first)
        kill(first.process.pid)
        eventually(lambda: not Path(f"/proc/{job}").exists(), "its job ends with it", 10)
    killed = time.monotonic()
    with underpaint.worker(**LONG) as second:
        eventually(lambda: "training goes on after step" in second.output(), "another worker goes on", SECONDS)
        assert time.monotonic() - killed < 90
        eventually(lambda: statuses(underpaint, labelled)[-1:] == ["finished"], "the retrain ends", SECONDS)
        eventually(lambda: not underpaint.signals.is_retraining(labelled.key), "its job ends", SECONDS)
        steps = [int(step) for step in re.findall(r"goes on after step (\d+)", f"{first.output()} {second.output()}")]
    assert statuses(underpaint, labelled) == ["interrupted", "interrupted", "finished"]
    [promotion] = underpaint.store.promotions(labelled.key)
    card = underpaint.store.card(promotion.version)
    assert 0 < steps[0] < steps[1] < card.settings["steps"]
    assert TRAINING_SECONDS <= card.seconds < 1.5 * TRAINING_SECONDS
    assert states(underpaint, labelled) == {}
    assert list(temporary.glob(f"{PREFIX}*")) == []


def test_a_redis_that_restarts_costs_nothing(underpaint: Underpaint, labelled: Project) -> None:
    with underpaint.worker(**LONG) as worker:
        eventually(lambda: states(underpaint, labelled), "a state is kept", SECONDS)
        underpaint.redis.stop()
        time.sleep(8)  # longer than a worker's heart beats
        underpaint.redis.start()
        eventually(lambda: statuses(underpaint, labelled)[-1:] == ["finished"], "the retrain ends", SECONDS)
        assert worker.process.poll() is None, worker.output()
        eventually(lambda: not underpaint.signals.is_retraining(labelled.key), "its job ends", SECONDS)
        underpaint.signals.enqueue_retrain(labelled.key, 600)
        eventually(lambda: len(statuses(underpaint, labelled)) == 2, "the worker works on", SECONDS)
        eventually(lambda: statuses(underpaint, labelled)[-1] == "finished", "that retrain ends", SECONDS)
    assert underpaint.store.runs(labelled.key)[-1]["stage"] == "unchanged"
    assert statuses(underpaint, labelled) == ["finished", "finished"]
    assert len(underpaint.store.promotions(labelled.key)) == 1


def test_cancelling_stops_at_once_and_the_same_labels_ask_for_no_retrain(
    underpaint: Underpaint, labelled: Project
) -> None:
    with underpaint.worker(**LONG) as worker:
        eventually(lambda: "train {" in worker.output(), "it trains", SECONDS)
        assert underpaint.signals.cancel_retrain(labelled.key) == "started"
        eventually(lambda: statuses(underpaint, labelled) == ["cancelled"], "it stops", 15)
        eventually(lambda: not underpaint.signals.is_retraining(labelled.key), "its place is free", LEASE_SECONDS)
        underpaint.signals.enqueue_reconcile(300, at_once=True)
        eventually(lambda: underpaint.signals.job("reconcile") is None, "it looks for labels", SECONDS)
        assert underpaint.signals.pending() == {}
    assert states(underpaint, labelled) == {}
    assert underpaint.store.champion(labelled.key) is None


def test_a_full_and_a_read_only_store_say_so_and_change_no_champion(underpaint: Underpaint, labelled: Project) -> None:
    """A limit on the size of files stands for the full disk: records still fit, checkpoints don't."""
    # Root may write whatever the modes say, unless it gives that right away.
    obeys_modes = () if os.geteuid() else ("setpriv", "--bounding-set=-dac_override")
    with underpaint.worker(*obeys_modes, "bash", "-c", 'ulimit -f 1000; exec "$@"', "worker") as worker:
        eventually(lambda: failure(underpaint, labelled), "the retrain ends", SECONDS)
        [run] = underpaint.store.runs(labelled.key)
        assert run["status"] == "failed"
        assert "check that its disk has room" in run["error"]
        assert underpaint.store.champion(labelled.key) is None

        with read_only(Path(underpaint.settings.store)):
            underpaint.signals.enqueue_retrain(labelled.key, 600, again=True)
            eventually(lambda: "Permission denied" in failure(underpaint, labelled), "it fails", SECONDS)
        assert "this user may read and write there" in failure(underpaint, labelled)
        assert worker.process.poll() is None
    assert underpaint.store.runs(labelled.key) == [run]
    # With room again, the labels are still there to learn from.
    with underpaint.worker():
        underpaint.signals.enqueue_retrain(labelled.key, 600, again=True)
        eventually(lambda: statuses(underpaint, labelled)[-1:] == ["finished"], "the retrain ends", SECONDS)
    assert underpaint.store.champion(labelled.key) is not None


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nobody write in ``folder`` until the block ends."""
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def failure(underpaint: Underpaint, project: Project) -> str:
    """What RQ keeps of the project's failed retrain."""
    job = underpaint.signals.job(job_id(project.key))
    return (job.error or "") if job and job.status == "failed" else ""

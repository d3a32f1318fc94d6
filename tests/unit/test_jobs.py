"""Jobs over HTTP: what RQ tells of them, and what the store remembers of those that it forgot."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from rq.job import Job, JobStatus

from underpaint.checkpoints.store import Store
from underpaint.jobs import PRELABEL
from underpaint.serving.app import create_app
from underpaint.settings import Settings
from underpaint.signals import Signals, completion_id, job_id

PROJECT, OTHER = "3.1795344327", "4.1795344328"
RUN, LATER = "20261126T070115000001", "20261126T080115000001"
PROGRESS = {
    **{"stage": "train", "epoch": 3, "epochs": 20, "step": 31, "steps": 200, "loss": 0.61},
    **{"eta_seconds": 42.5, "validation_miou": 0.47},
}


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings.model_copy(update={"base": "none"}))) as client:
        yield client


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings.store)


def started(signals: Signals, identifier: str, **meta: Any) -> Job:
    """Leave a queued job as a worker leaves one that it runs."""
    job = Job.fetch(identifier, connection=signals.redis)
    signals.queue.remove(job)
    job.meta.update(meta)
    job.worker_name, job.started_at = "worker-7", datetime.now(UTC)
    job.save()
    job.set_status(JobStatus.STARTED)
    signals.redis.zadd(signals.queue.started_job_registry.key, {f"{identifier}:1": 2e9})
    return job


def failed(signals: Signals, identifier: str, when: datetime) -> None:
    job = Job.fetch(identifier, connection=signals.redis)
    signals.queue.remove(job)
    job.ended_at = when
    job.save()
    job.set_status(JobStatus.FAILED)
    signals.queue.failed_job_registry.add(job, ttl=600)


def listed(client: TestClient, **query: str) -> list[dict[str, Any]]:
    answer = client.get("/jobs", params=query)
    assert answer.status_code == 200, answer.text
    return [job for job in answer.json()["jobs"] if job["kind"] != "reconcile"]


def test_a_retrain_is_seen_with_its_progress(client: TestClient, signals: Signals, store: Store) -> None:
    signals.enqueue_retrain(PROJECT, timeout=60)
    [queued] = listed(client)
    assert (queued["kind"], queued["project"], queued["status"]) == ("retrain", PROJECT, "queued")
    assert datetime.fromisoformat(queued["enqueued"]) <= datetime.now(UTC)
    assert not {"worker", "started", "ended", "error"} & queued.keys()

    record = {"id": RUN, "project": PROJECT, "status": "started", "started": "2026-11-26T07:01:15+00:00"}
    store.write_run(PROJECT, RUN, record)
    started(signals, job_id(PROJECT), **record, **PROGRESS)
    [job] = listed(client)
    assert job.items() >= PROGRESS.items()
    assert (job["id"], job["run"], job["status"], job["worker"]) == (job_id(PROJECT), RUN, "started", "worker-7")
    for name in (job_id(PROJECT), RUN):
        assert client.get(f"/jobs/{name}").json() == job
    told = client.post("/job_status", json={"job": job_id(PROJECT)}).json()
    assert (told["job_status"], told["error"]) == ("started", None)
    assert told["meta"].items() >= PROGRESS.items()


def test_what_runs_comes_before_what_waits_and_what_ended(client: TestClient, signals: Signals, store: Store) -> None:
    for run in (RUN, LATER):
        store.write_run(PROJECT, run, {"id": run, "project": PROJECT, "status": "finished", "ended": run})
    signals.enqueue_retrain(OTHER, timeout=60)
    signals.enqueue_completion(PROJECT, [1, 2], "v1")
    started(signals, completion_id(PROJECT), done=1, left=1)
    into_folder = signals.queue.enqueue_call(PRELABEL, kwargs={"project": None})
    jobs = listed(client)
    assert [(job["kind"], job["status"]) for job in jobs] == [
        *(("complete", "started"), ("retrain", "queued"), ("prelabel", "queued")),
        *(("retrain", "finished"), ("retrain", "finished")),
    ]
    assert jobs[0].items() >= {"done": 1, "left": 1, "version": "v1", "project": PROJECT}.items()
    assert (jobs[2]["id"], "project" in jobs[2]) == (into_folder.id, False)
    assert [job["id"] for job in jobs[3:]] == [LATER, RUN]
    assert {job["project"] for job in listed(client, project="3")} == {PROJECT}
    assert listed(client, project=OTHER) == [jobs[1]]
    assert listed(client, project="99") == []


def test_of_what_ended_only_the_last_is_listed(client: TestClient, signals: Signals, store: Store) -> None:
    runs = [f"202611{day:02}T070115000001" for day in range(1, 10)]
    for run in runs:
        store.write_run(PROJECT, run, {"id": run, "project": PROJECT, "status": "finished", "ended": run})
    for ago in (timedelta(hours=1), timedelta(days=2)):
        job = signals.queue.enqueue_call(PRELABEL, kwargs={"project": OTHER})
        failed(signals, job.id, datetime.now(UTC) - ago)
    assert [job["id"] for job in listed(client, project=PROJECT)] == runs[:-6:-1]
    assert len(listed(client, project=OTHER)) == 1


def test_a_retrain_that_failed_is_listed_once_with_the_reason(
    client: TestClient, signals: Signals, store: Store
) -> None:
    signals.enqueue_retrain(PROJECT, timeout=60)
    job = Job.fetch(job_id(PROJECT), connection=signals.redis)
    job.meta["id"] = RUN
    job.save()
    failed(signals, job.id, datetime.now(UTC))
    store.write_run(PROJECT, RUN, {"id": RUN, "project": PROJECT, "status": "failed", "error": "no accepted labels"})
    [job_seen] = listed(client)
    assert (job_seen["id"], job_seen["status"], job_seen["error"]) == (RUN, "failed", "no accepted labels")


def test_a_run_that_ended_is_in_the_store_with_its_report(client: TestClient, store: Store) -> None:
    record = {"id": RUN, "project": PROJECT, "status": "finished", "report": f"runs/{RUN}.html", "contradicted": [{}]}
    store.write_run(PROJECT, RUN, record)
    store.write_file(PROJECT, f"runs/{RUN}.html", "<h1>Étude</h1>".encode())
    store.write_run(OTHER, LATER, {"id": LATER, "project": OTHER, "status": "failed", "error": "none"})
    assert client.get(f"/jobs/{RUN}").json() == record | {"kind": "retrain"}
    assert client.get(f"/jobs/{job_id(PROJECT)}").json() == record | {"kind": "retrain"}  # which is free again
    assert all("contradicted" not in job for job in listed(client))
    report = client.get(f"/jobs/{RUN}/report")
    assert (report.text, report.headers["content-type"]) == ("<h1>Étude</h1>", "text/html; charset=utf-8")
    assert "default-src 'none'" in report.headers["content-security-policy"]
    for none in (LATER, "unheard-of"):
        answer = client.get(f"/jobs/{none}/report")
        assert answer.status_code == 404
        assert "GET /jobs" in answer.json()["error"]


@pytest.mark.parametrize("unknown", ["unheard-of", job_id("9.9"), "20200101T000000000000", "..", "rq:job:x"])
def test_a_job_that_nobody_knows_is_said_to_be_unknown(client: TestClient, unknown: str) -> None:
    answer = client.get(f"/jobs/{unknown.replace('.', '%2E')}")
    assert answer.status_code == 404
    assert "GET /jobs" in answer.json()["error"]


def test_a_project_that_can_not_be_is_refused(client: TestClient) -> None:
    answer = client.get("/jobs", params={"project": "../3"})
    assert answer.status_code == 400
    assert "<id>.<created timestamp>" in answer.json()["error"]


def test_somebody_elses_job_hides_none_of_ours(client: TestClient, signals: Signals) -> None:
    foreign = signals.queue.enqueue("time.sleep", 1)
    broken = signals.queue.enqueue("time.sleep", 1)
    signals.redis.hset(broken.key, "data", b"no pickle")
    signals.enqueue_retrain(PROJECT, timeout=60)
    kinds = {job["id"]: job["kind"] for job in listed(client)}
    assert kinds == {foreign.id: "time.sleep", broken.id: "unknown", job_id(PROJECT): "retrain"}


def test_without_redis_jobs_are_unknown_and_reports_are_not(settings: Settings, store: Store) -> None:
    store.write_run(PROJECT, RUN, {"id": RUN, "project": PROJECT, "status": "finished", "report": f"runs/{RUN}.html"})
    store.write_file(PROJECT, f"runs/{RUN}.html", b"<h1>Retrain</h1>")
    alone = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    with TestClient(create_app(alone)) as client:
        for address in ("/jobs", f"/jobs/{job_id(PROJECT)}"):
            answer = client.get(address)
            assert answer.status_code == 503
            assert "REDIS_URL" in answer.json()["error"]
        assert client.get(f"/jobs/{RUN}/report").text == "<h1>Retrain</h1>"

"""Jobs as RQ knows them: what the workers are asked to do, and how far each is."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rq import Queue
from rq.exceptions import DeserializationError
from rq.job import Job

RETRAIN = "underpaint_workers.jobs.retrain"
RECONCILE = "underpaint_workers.reconcile.job"
PRELABEL = "underpaint_workers.jobs.prelabel"
COMPLETE = "underpaint_workers.jobs.complete"

KINDS = {RETRAIN: "retrain", RECONCILE: "reconcile", PRELABEL: "prelabel", COMPLETE: "complete"}


@dataclass(frozen=True)
class JobState:
    """An RQ job at one moment: its status by RQ's name, what it said of itself, and its traceback if it failed."""

    id: str
    kind: str
    """One of ``KINDS``, or the name of a function that isn't ours."""
    project: str | None
    """None where it is for all projects, or for a folder."""
    status: str
    meta: dict[str, Any]
    error: str | None
    worker: str | None
    """RQ's name of the worker that runs it, or ran it last."""
    enqueued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def ended(self) -> bool:
        return self.status in ("finished", "failed", "stopped", "canceled")

    @classmethod
    def of(cls, job: Job) -> "JobState":
        """The state of ``job`` as it was fetched; only why it failed is asked for. Raises ``redis.RedisError``."""
        try:
            kind, project = str(job.func_name), job.kwargs.get("project")
        except DeserializationError:  # somebody else's, of a kind that this process doesn't know
            kind, project = "unknown", None
        status = job.get_status(refresh=False).value
        result = job.latest_result() if status in ("failed", "stopped") else None
        error = result.exc_string if result else None
        times = job.enqueued_at, job.started_at, job.ended_at
        return cls(job.id, KINDS.get(kind, kind), project, status, dict(job.meta), error, job.worker_name, *times)


def in_queue(queue: Queue) -> list[JobState]:
    """Every job that RQ knows of ``queue``: those that wait, in their order, that run, and that ended lately."""
    ids: Iterable[str] = queue.get_job_ids()
    for registry in (
        *(queue.deferred_job_registry, queue.scheduled_job_registry, queue.started_job_registry),
        *(queue.finished_job_registry, queue.failed_job_registry, queue.canceled_job_registry),
    ):
        # Cleaning up is the workers' business: it decides about jobs whose worker died.
        ids = [*ids, *registry.get_job_ids(cleanup=False)]
    found = Job.fetch_many(dict.fromkeys(ids), queue.connection)
    return [JobState.of(job) for job in found if job is not None]

"""What RQ calls, by name: the backend only knows these functions' paths."""

import math
import sys
import time
from pathlib import Path
from typing import Any

from rq import Retry, get_current_job
from rq.job import Job

from underpaint.checkpoints.store import Store
from underpaint.project import project_id
from underpaint.segmenter.segmenter import Segmenter
from underpaint.serving.backend import Backend
from underpaint.settings import get_settings
from underpaint.signals import Signals
from underpaint_workers.completion import Completion
from underpaint_workers.connection import label_studio_of
from underpaint_workers.lease import Cancelled, Lease
from underpaint_workers.parallel import ProcessKilled
from underpaint_workers.prelabel import into_dataset, into_label_studio
from underpaint_workers.retraining import Retraining

REPORT_SECONDS = 0.5
# A completion lets other jobs go first after this: it loses some seconds by starting again, and a retrain, which takes
# minutes, waits a minute at most.
COMPLETION_SECONDS = 60.0


def retrain(project: str) -> dict[str, Any]:
    """Retrain the project with this key; see :meth:`Retraining.run`.

    RQ runs it again where its process was killed, or one that trained for it, not where it failed: what can't work is
    left to the policy.
    """
    settings = get_settings()
    signals = Signals(settings.redis_url, settings.queue)
    try:
        with Lease(signals, project) as lease:
            return Retraining(project, settings, Store(settings.store), signals, lease.check).run()
    except Cancelled as cancelled:
        return {"status": "cancelled", "reason": str(cancelled)}
    except ProcessKilled:
        raise
    except Exception:
        if job := get_current_job():
            job.retries_left = 0
        raise


def prelabel(folder: str, project: str | None, to: str | None, version: str) -> dict[str, Any]:
    """Pre-label a folder with checkpoint ``version``: into the project with this key, or into the folder ``to``.

    Progress and problems are in the job's meta: ``done``, ``total``, ``problems``. Raises ``PrelabelError``.
    """
    settings = get_settings()
    job = get_current_job()
    facts: dict[str, Any] = {"version": version, "done": 0}
    shown = 0.0

    def report(done: int, total: int, problems: list[str]) -> None:
        nonlocal shown
        facts.update(done=done, total=total, problems=problems)
        if time.monotonic() - shown > REPORT_SECONDS:
            shown = time.monotonic()
            save()

    def save() -> None:
        if job is not None:
            job.meta.update(facts)
            job.save_meta()  # type: ignore[no-untyped-call]

    segmenter = Segmenter(Store(settings.store).get(version), settings.device)
    try:
        if to is not None:
            into_dataset(Path(folder), segmenter, Path(to), settings, report)
        elif project is not None:
            label_studio = label_studio_of(project, settings, Signals(settings.redis_url, settings.queue))
            into_label_studio(Path(folder), segmenter, label_studio, project_id(project), settings, report)
    finally:
        save()
    return facts


def complete(project: str) -> dict[str, Any] | Retry:
    """Predict the tasks of the project with this key that wait for a worker; see :class:`Completion`.

    One worker may be all there is, and retrains share the queue with this: once it ran for a minute, it goes back to
    the end of the queue as soon as another job waits there. So neither keeps the other from its turn. Progress is in
    the job's meta: ``done``, ``left``, ``version``, ``problems``.
    """
    settings = get_settings()
    job = get_current_job()
    backend = Backend(settings)
    started = time.monotonic()

    def report(completion: Completion) -> None:
        if job is not None:
            job.meta |= {name: getattr(completion, name) for name in ("done", "left", "version", "problems")}
            job.save_meta()  # type: ignore[no-untyped-call]

    def give_way() -> bool:
        spent = time.monotonic() - started
        # Half of its time at most, so that RQ never has to end it.
        return spent > COMPLETION_SECONDS and (len(backend.signals.queue) > 0 or spent > _timeout(job) / 2)

    before = job.meta if job else {}
    completion = Completion(
        project,
        backend,
        label_studio_of(project, settings, backend.signals),
        report,
        done=before.get("done", 0),
        problems=before.get("problems", []),
    )
    if not completion.run(give_way):
        return Retry(max=sys.maxsize)  # the same job, at the end of the queue
    return {"done": completion.done, "version": completion.version, "problems": completion.problems}


def _timeout(job: Job | None) -> float:
    return float(job.timeout) if job and job.timeout else math.inf

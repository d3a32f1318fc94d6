"""What RQ calls, by name: the backend only knows these functions' paths."""

import time
from pathlib import Path
from typing import Any

from rq import get_current_job

from underpaint.checkpoints.store import Store
from underpaint.project import project_id
from underpaint.segmenter.segmenter import Segmenter
from underpaint.settings import get_settings
from underpaint.signals import Signals
from underpaint_workers.prelabel import into_dataset, into_label_studio
from underpaint_workers.retraining import Retraining, label_studio_of

REPORT_SECONDS = 0.5


def retrain(project: str) -> dict[str, Any]:
    """Retrain the project with this key; see :meth:`Retraining.run`."""
    settings = get_settings()
    return Retraining(project, settings, Store(settings.store), Signals(settings.redis_url, settings.queue)).run()


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

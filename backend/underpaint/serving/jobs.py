"""Jobs as people see them over HTTP: as RQ tells of them while it knows them, retrains as the store does after that."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from underpaint.checkpoints.store import Store
from underpaint.jobs import JobState
from underpaint.project import check_key
from underpaint.signals import Signals, job_id, project_of_job

Job = dict[str, Any]
"""``id``, ``kind``, ``project``, ``status``, and whatever else is known of it; what isn't is left out."""

RUNS = 5
"""Ended retrains of each project that are listed."""
RECENT = timedelta(days=1)
"""How long ago another job may have ended that is listed: RQ remembers those that failed for longer."""
_RUN = re.compile(r"\d{8}T\d{12}")


class Jobs:
    """The jobs of one queue, and the runs in one store. Every method raises ``redis.RedisError`` and ``StoreError``."""

    def __init__(self, signals: Signals, store: Store) -> None:
        self._signals = signals
        self._store = store

    def all(self, project: str | None = None) -> list[Job]:
        """Jobs that run, then those that wait, then those that ended lately, the latest first.

        Args:
            project: the key, or Label Studio's id, of the only project to list; raises ``ProjectError``.
        """
        if project is not None and not project.isdigit():
            check_key(project)
        states = [state for state in self._signals.jobs() if _is_of(state.project or "", project)]
        runs = {record["id"]: _run(record) for record in self._last_runs(project)}
        live = sorted((_live(state) for state in states if not state.ended), key=lambda job: job["status"] != "started")
        for job in live:
            runs.pop(job.get("run"), None)
        since = datetime.now(UTC) - RECENT
        # Of a retrain that failed, its record in the store says more.
        ended = [_live(state) for state in states if state.ended and state.meta.get("id") not in runs]
        ended = [job for job in ended if job.get("ended", "") > since.isoformat()] + list(runs.values())
        return live + sorted(ended, key=lambda job: str(job.get("ended", job.get("started"))), reverse=True)

    def find(self, identifier: str) -> Job | None:
        """The job of this id; or the retrain whose run, or whose job, was of this id: its whole record."""
        if _RUN.fullmatch(identifier):
            return self._find_run(identifier)
        if state := self._signals.job(identifier):
            return _live(state)
        project = project_of_job(identifier)
        runs = self._store.runs(project, last=1) if project else []
        return _run(runs[-1], whole=True) if runs else None

    def report(self, identifier: str) -> bytes | None:
        """The HTML report of the retrain that ``find`` finds; None where it has left none."""
        job = self.find(identifier) or {}
        return self._store.read_file(job["project"], job["report"]) if "report" in job else None

    def _find_run(self, identifier: str) -> Job | None:
        for project in self._store.projects():
            if record := self._store.run(project, identifier):
                state = self._signals.job(job_id(project)) if record.get("status") == "started" else None
                runs_now = state is not None and state.meta.get("id") == identifier
                return _live(state) if state and runs_now else _run(record | {"project": project}, whole=True)
        return None

    def _last_runs(self, project: str | None) -> Iterator[dict[str, Any]]:
        for key in self._store.projects():
            if _is_of(key, project):
                yield from self._store.runs(key, last=RUNS)


def _is_of(key: str, project: str | None) -> bool:
    if project is None:
        return True
    return project == (key.partition(".")[0] if project.isdigit() else key)


def _live(state: JobState) -> Job:
    meta = {name: value for name, value in state.meta.items() if name not in ("id", "project", "status", "started")}
    times = {"enqueued": state.enqueued_at, "started": state.started_at, "ended": state.ended_at}
    job = {
        **{"id": state.id, "kind": state.kind, "project": state.project, "status": state.status},
        **{"run": state.meta.get("id"), "worker": state.worker},
        **{name: when.isoformat(timespec="seconds") for name, when in times.items() if when},
        **{"error": state.error.strip().splitlines()[-1] if state.error else None},
        **meta,
    }
    return {name: value for name, value in job.items() if value is not None}


def _run(record: dict[str, Any], *, whole: bool = False) -> Job:
    """A run's record; without its lists, such as that of contradicted labels, unless it is to be ``whole``."""
    facts = {"id": record["id"], "kind": "retrain", **record}
    return facts if whole else {name: value for name, value in facts.items() if not isinstance(value, list | dict)}

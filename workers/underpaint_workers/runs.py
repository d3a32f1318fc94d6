"""One retrain as people see it: its stage in RQ while it runs, its record in the store for good."""

import logging
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import redis
from rq import get_current_job

from underpaint.checkpoints.store import Store
from underpaint_workers.lease import Cancelled

log = logging.getLogger(__name__)

UNREACHABLE_SECONDS = 30.0  # without a display, after Redis could not be reached


class Run:
    """A ``with`` block around one retrain. The store says how it ended; if killed, when the next starts."""

    def __init__(self, store: Store, project: str) -> None:
        self._store = store
        self._project = project
        self._job = get_current_job()
        self._shown = 0.0
        self._started = time.monotonic()
        self.id = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        self.record: dict[str, Any] = {"id": self.id, "project": project, "status": "started", "started": _now()}

    @property
    def seconds(self) -> float:
        """How long it runs by now."""
        return time.monotonic() - self._started

    def stage(self, name: str, **facts: Any) -> None:
        """Enter a stage, with what is known by now."""
        self.record |= {"stage": name, **facts}
        log.info("project %s: %s %s", self._project, name, facts or "")
        self._save()
        # A display is asked for often; lists of labels and problems are in the store.
        self.show(**{name: value for name, value in self.record.items() if not isinstance(value, list | dict)})

    def show(self, **facts: Any) -> None:
        """Put facts where a progress display looks, at most twice a second except for new stages."""
        if self._job is None or ("stage" not in facts and time.monotonic() - self._shown < 0.5):
            return
        self._shown = time.monotonic()
        self._job.meta.update(facts)
        try:
            self._job.save_meta()  # type: ignore[no-untyped-call]
        except redis.RedisError:  # a display may lag; a training must neither die of it nor wait at every step
            self._shown += UNREACHABLE_SECONDS

    def _save(self) -> None:
        self._store.write_run(self._project, self.id, self.record)

    def __enter__(self) -> "Run":
        # A project's retrains run one at a time, so one that still says so was killed before it could say more.
        for record in self._store.runs(self._project):
            if record["status"] == "started":
                self._store.write_run(self._project, record["id"], record | {"status": "interrupted"})
        self._save()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = "cancelled" if isinstance(error, Cancelled) else "failed" if error else "finished"
        self.record |= {"status": status, "ended": _now(), "seconds": round(self.seconds, 1)}
        if error:
            self.record["error"] = f"{type(error).__name__}: {error}"
        self._save()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

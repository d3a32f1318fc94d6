"""The right to retrain a project, held by one process at a time."""

import logging
import os
import threading
import time
import uuid
from types import TracebackType

import redis

from underpaint.leases import CANCELLED
from underpaint.signals import Signals

log = logging.getLogger(__name__)

SECONDS = 20.0
"""How long a killed process still holds it."""
RENEW_SECONDS = 1.0


class Busy(RuntimeError):
    """Another process retrains the project."""


class Cancelled(Exception):
    """A person wants this retrain to stop."""


class Lease:
    """A ``with`` block that one process at a time is in, by project. A thread renews it and looks for cancellation.

    Who waits for it longer than a killed process could hold it raises `Busy`. Without Redis there is nobody to ask,
    and the block goes on.
    """

    def __init__(self, signals: Signals, project: str) -> None:
        self._leases, self._project = signals.leases, project
        # A worker runs one job at a time, so what its last one held is its next one's.
        self._owner = os.environ.get("RQ_WORKER_ID") or uuid.uuid4().hex
        self._holder = self._owner
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def check(self) -> None:
        """Raise `Cancelled` if a person cancelled the retrain, `Busy` if another process took it over."""
        if self._holder == CANCELLED:
            raise Cancelled("cancelled; the labels count as seen, and are learned from with the next new one")
        if self._holder != self._owner:
            raise Busy(f"worker {self._holder} retrains project {self._project} by now: this one stood still too long")

    def __enter__(self) -> "Lease":
        deadline = time.monotonic() + 1.5 * SECONDS
        while (self._hold() not in (self._owner, CANCELLED)) and time.monotonic() < deadline:
            time.sleep(RENEW_SECONDS)
        if self._holder not in (self._owner, CANCELLED):
            raise Busy(f"worker {self._holder} retrains project {self._project} already: this one isn't needed")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        try:
            self._leases.release(self._project, self._owner)
        except redis.RedisError as failure:
            log.warning("project %s: its lease ends by itself (%s)", self._project, failure)

    def _hold(self) -> str:
        try:
            self._holder = self._leases.hold(self._project, self._owner, SECONDS)
        except redis.RedisError as error:
            log.debug("project %s: its lease could not be renewed (%s)", self._project, error)
        return self._holder

    def _renew(self) -> None:
        while self._hold() == self._owner and not self._ended.wait(RENEW_SECONDS):
            pass

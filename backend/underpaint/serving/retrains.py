"""From accepted labels to one queued retrain a project, by the policy in the settings.

Webhooks say that there are new labels, and may not arrive; every few minutes a worker looks for itself.
"""

import json
import logging
import math
import threading
import time
from collections import Counter
from typing import NamedTuple

import redis

from underpaint.checkpoints.store import Store, StoreError
from underpaint.policy import Policy, PolicyError
from underpaint.settings import Settings
from underpaint.signals import Pending, Signals, job_id

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
# Another backend may have heard of another policy.
POLICY_SECONDS = 30.0
SETUP = "setup.json"


def is_due(pending: Pending, now: float, settings: Settings) -> bool:
    """Whether a retrain should start: asked for; or labels that waited long; or enough of them, and nobody is busy."""
    if pending.requested:
        return True
    if pending.labels == 0:
        return False
    if now - pending.first >= settings.retrain_after_minutes * 60:
        return True
    return pending.labels >= settings.retrain_after_labels and now - pending.last >= settings.retrain_quiet_seconds


class _Introduction(NamedTuple):
    connection: tuple[str, str]
    """URL and token."""
    policy: Policy | None


class Retrains:
    """Notes labels in memory at once and in Redis when it can, and queues retrains and reconciles that are due.

    One thread does the talking, so that a webhook is answered in microseconds even with Redis down. Several
    backends may run one each: the jobs' ids are unique, so they can't queue a retrain twice.
    """

    def __init__(self, settings: Settings, signals: Signals) -> None:
        self._settings = settings
        self._signals = signals
        self._noted: Counter[str] = Counter()
        self._store = Store(settings.store)
        self._introduced: dict[str, _Introduction] = {}
        self._known: dict[str, tuple[str, str]] = {}
        self._policies: dict[str, tuple[Policy, float]] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._complained = False
        self._thread = threading.Thread(target=self._run, name="retrains", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def note(self, project: str, labels: int) -> None:
        """Count newly accepted, changed or deleted labels of a project."""
        with self._lock:
            self._noted[project] += labels
        self._wake.set()

    def introduce(self, project: str, url: str, token: str, policy: Policy | None = None) -> None:
        """Say where a project's Label Studio is, for the worker that will pull its labels, and when to retrain it."""
        with self._lock:
            self._introduced[project] = _Introduction((url, token), policy)
        self._wake.set()

    def request(self, project: str) -> str:
        """Queue a retrain now, because a person asked; returns its job id.

        If one runs already, another follows it. Raises ``redis.RedisError`` when Redis can't be reached.
        """
        self._signals.request(project)
        self._enqueue(project, again=True)
        return job_id(project)

    def _enqueue(self, project: str, *, again: bool = False) -> None:
        if self._signals.enqueue_retrain(project, self._settings.retrain_timeout, again=again):
            log.info("project %s: retrain queued", project)

    def _run(self) -> None:
        started = False
        while not self._stopping:
            self._wake.wait(TICK_SECONDS)
            self._wake.clear()
            try:
                self._flush()
                self._reconcile(at_once=not started)
                started = True
                for project, pending in self._signals.pending().items():
                    if is_due(pending, time.time(), self._policy(project).over(self._settings)):
                        self._enqueue(project)
                for project in self._signals.resume_completions():
                    log.info("project %s: tasks still wait for predictions, a worker is asked again", project)
                self._complained = False
            except redis.RedisError as error:
                self._complain(error)
            except Exception:  # one project's trouble must not end the learning of all
                log.exception("retrains could not be looked after; trying again")

    def _reconcile(self, *, at_once: bool) -> None:
        """Have a worker look for labels that nobody told of: at the start, and when the last look is long ago."""
        if self._signals.enqueue_reconcile(60 * self._settings.reconcile_minutes, at_once=at_once):
            for project, connection in self._known.items():  # again, for Redis may have been wiped
                self._signals.remember_connection(project, *connection)

    def _remember(self, project: str, introduction: _Introduction) -> None:
        connection = introduction.connection
        self._signals.remember_connection(project, *connection)
        known = self._policy(project)
        policy = known if introduction.policy is None else introduction.policy
        if self._known.get(project) == connection and known == policy:
            return
        if known != policy:
            log.info("project %s: its own policy is %s", project, policy.model_dump(exclude_none=True) or "none")
        self._known[project] = connection
        self._policies[project] = policy, time.monotonic()
        # The token stays in Redis; that there is such a project, and what it wants, has to outlive that.
        setup = {"url": connection[0], "policy": policy.model_dump(exclude_none=True)}
        try:
            self._store.write_file(project, SETUP, json.dumps(setup).encode())
        except StoreError as error:
            log.warning("project %s: its first labels may be missed if Redis is wiped (%s)", project, error)

    def _policy(self, project: str) -> Policy:
        """What the project's last /setup said, whichever backend it came to; the last known if the store is down."""
        policy, since = self._policies.get(project, (Policy(), -math.inf))
        if time.monotonic() - since > POLICY_SECONDS:
            try:
                setup = json.loads(self._store.read_file(project, SETUP) or b"{}")
                policy = Policy.of(setup.get("policy"))
            except (StoreError, PolicyError, ValueError, AttributeError) as error:
                log.warning("project %s: its %s can't be read (%s); what was known counts", project, SETUP, error)
            self._policies[project] = policy, time.monotonic()
        return policy

    def _flush(self) -> None:
        """Move what was noted to Redis; what Redis didn't take stays noted."""
        with self._lock:
            noted, self._noted = self._noted, Counter()
            introduced, self._introduced = self._introduced, {}
        try:
            for project in list(introduced):
                self._remember(project, introduced[project])
                del introduced[project]
            for project in list(noted):
                self._signals.note(project, noted[project])
                del noted[project]
        finally:
            with self._lock:
                self._noted.update(noted)
                self._introduced = introduced | self._introduced

    def _complain(self, error: redis.RedisError) -> None:
        if not self._complained:
            log.error("Redis can't be reached (%s): retrains wait. Start it, or set REDIS_URL.", error)
        self._complained = True

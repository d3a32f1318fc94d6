"""Everything Underpaint keeps in Redis: what is new, who may be asked, what was promoted, what is queued.

Nothing here matters if it is lost: labels live in Label Studio, checkpoints and champions in the store.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import redis
from rq import Queue
from rq.exceptions import DuplicateJobError, InvalidJobOperation, NoSuchJobError
from rq.job import Job

from underpaint.project import check_key

PREFIX = "underpaint"
PROMOTED = f"{PREFIX}:promoted"
PENDING = f"{PREFIX}:pending"
RETRAIN = "underpaint_workers.jobs.retrain"
PRELABEL = "underpaint_workers.jobs.prelabel"

# A finished job frees its id at once; a failed one holds it for a minute, so that it can be read and isn't hammered.
RESULT_TTL = 0
FAILURE_TTL = 60

# What waits is one hash a project, and the set of projects that have one. Both change in one step, so that no label
# is lost between a worker's take and a backend's note.

# Counts labels and moves `last`, but keeps the `first` that is already there.
_NOTE = """
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('HINCRBY', KEYS[2], 'labels', ARGV[2])
redis.call('HSETNX', KEYS[2], 'first', ARGV[3])
redis.call('HSET', KEYS[2], 'last', ARGV[3])
"""

_REQUEST = """
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[2], 'requested', '1')
"""

# Reads and clears.
_TAKE = """
local found = redis.call('HGETALL', KEYS[2])
redis.call('DEL', KEYS[2])
redis.call('SREM', KEYS[1], ARGV[1])
return found
"""


@dataclass(frozen=True)
class Pending:
    """Accepted labels of one project that no retrain has taken yet.

    ``first`` and ``last`` are Unix seconds of the first and the latest of them; ``requested`` says that a person
    asked for a retrain whatever the numbers are.
    """

    labels: int = 0
    first: float = 0.0
    last: float = 0.0
    requested: bool = False


@dataclass(frozen=True)
class JobState:
    """An RQ job at one moment: its status by RQ's name, what it said of itself, and its traceback if it failed."""

    status: str
    meta: dict[str, Any]
    error: str | None

    @property
    def ended(self) -> bool:
        return self.status in ("finished", "failed", "stopped", "canceled")


def job_id(project: str) -> str:
    """The RQ id of a project's retrain. There is one, so that two can't run at once."""
    return "retrain-" + check_key(project).replace(".", "-")


def project_of_job(job: str) -> str | None:
    """The project key whose retrain has this RQ id, or None when it isn't a retrain's."""
    head, _, rest = job.partition("-")
    number, _, created = rest.partition("-")
    return f"{number}.{created}" if head == "retrain" and number.isdigit() and created.isdigit() else None


class Signals:
    """Redis as Underpaint uses it. Every method raises ``redis.RedisError`` when Redis can't be reached in 2 s."""

    def __init__(self, url: str, queue: str) -> None:
        self.redis: redis.Redis = redis.Redis.from_url(url, socket_connect_timeout=2, socket_timeout=2)
        self.queue = Queue(queue, connection=self.redis)

    def note(self, project: str, labels: int, now: float | None = None) -> None:
        """Count ``labels`` newly accepted, changed or deleted annotations."""
        self._run(_NOTE, project, labels, time.time() if now is None else now)

    def request(self, project: str) -> None:
        """Remember that a person asked for a retrain."""
        self._run(_REQUEST, project)

    def pending(self) -> dict[str, Pending]:
        """What waits, by project."""
        members: set[Any] = self.redis.smembers(PENDING)
        projects = [member.decode() for member in members]
        return {project: _pending(self.redis.hgetall(f"{PENDING}:{project}")) for project in projects}

    def take(self, project: str) -> Pending:
        """What waits for ``project``, cleared in the same step: a retrain starts with this."""
        flat = self._run(_TAKE, project)
        return _pending(dict(zip(flat[::2], flat[1::2], strict=True)))

    def enqueue_retrain(self, project: str, timeout: float, *, again: bool = False) -> bool:
        """Queue the project's one retrain; False when it is queued or running already. ``timeout`` in seconds.

        A retrain that failed keeps its place for a minute, so that what can't work isn't tried all the time;
        ``again`` says that a person wants it tried at once.
        """
        identifier = job_id(project)
        if again and (state := self.job(identifier)) and state.ended:
            with contextlib.suppress(NoSuchJobError):
                Job.fetch(identifier, connection=self.redis).delete()
        try:
            self.queue.enqueue_call(
                RETRAIN,
                kwargs={"project": project},
                job_id=identifier,
                unique=True,
                timeout=int(timeout),
                result_ttl=RESULT_TTL,
                failure_ttl=FAILURE_TTL,
                description=f"retrain project {project}",
            )
        except DuplicateJobError:
            return False
        return True

    def job(self, identifier: str) -> JobState | None:
        """The RQ job of this id as it is now, while Redis knows it."""
        try:
            job = Job.fetch(identifier, connection=self.redis)
            status, meta, result = job.get_status(), job.get_meta(), job.latest_result()
        except (NoSuchJobError, InvalidJobOperation):  # a job that succeeds is gone between two looks
            return None
        return JobState(status.value, dict(meta), result.exc_string if result else None)

    def remember_connection(self, project: str, url: str, token: str) -> None:
        """Keep where a project's Label Studio is, as its /setup said. The pair is only ever used together."""
        self.redis.hset(f"{PREFIX}:connection:{project}", mapping={"url": url, "token": token})

    def give_back(self, project: str, pending: Pending) -> None:
        """Count labels again that a retrain took and didn't learn from; who asked for it may ask again."""
        if pending.labels:
            self.note(project, pending.labels)

    def connection(self, project: str) -> tuple[str, str] | None:
        """``(url, token)`` of the project's last /setup, or None."""
        found: Mapping[Any, Any] = self.redis.hgetall(f"{PREFIX}:connection:{project}")
        return (found[b"url"].decode(), found[b"token"].decode()) if found else None

    def announce(self, project: str) -> None:
        """Tell every backend that the project's champion moved."""
        self.redis.publish(PROMOTED, project)

    def promoted(self, stopping: threading.Event) -> Iterator[str]:
        """Projects as they are announced, until ``stopping`` is set."""
        with self.redis.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
            subscription.subscribe(PROMOTED)
            while not stopping.is_set():
                message = subscription.get_message(timeout=0.1)
                if message:
                    yield message["data"].decode()

    def _run(self, script: str, project: str, *arguments: float) -> Any:
        """One of the scripts above; all know the set of waiting projects, and the project's own hash."""
        return self.redis.eval(script, 2, PENDING, f"{PENDING}:{check_key(project)}", project, *arguments)


def _pending(fields: Mapping[Any, Any]) -> Pending:
    return Pending(
        labels=int(fields.get(b"labels", b"0")),
        first=float(fields.get(b"first", b"0")),
        last=float(fields.get(b"last", b"0")),
        requested=b"requested" in fields,
    )

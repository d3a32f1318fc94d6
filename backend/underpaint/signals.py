"""Everything Underpaint keeps in Redis: what is new, who may be asked, what was promoted, what is queued.

Nothing here matters if it is lost: labels live in Label Studio, checkpoints and champions in the store.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from rq import Queue
from rq.exceptions import DuplicateJobError, InvalidJobOperation, NoSuchJobError
from rq.job import Job, Retry

from underpaint.completions import Completions
from underpaint.jobs import COMPLETE, RECONCILE, RETRAIN, JobState, in_queue
from underpaint.leases import Leases
from underpaint.project import check_key

PREFIX = "underpaint"
PROMOTED = f"{PREFIX}:promoted"
PENDING = f"{PREFIX}:pending"
RECONCILED = f"{PREFIX}:reconciled"

COMPLETION_TIMEOUT = 24 * 3600
"""Seconds after which RQ would end a completion; it gives way to other jobs, and starts again, long before."""

# A finished job frees its id at once; a failed one holds it for a minute, so that it can be read and isn't hammered.
RESULT_TTL = 0
FAILURE_TTL = 60
# Times that RQ runs a retrain again whose process was killed; it goes on where it was.
RETRIES = 5
RECONCILE_TIMEOUT = 3600
CANCEL_SECONDS = 10.0

# What waits is one hash a project, and the set of projects that have one. Both change in one step, so that no label
# is lost between a worker's take and a backend's note.

# Counts labels and moves `last`, but keeps the `first` that is already there.
_NOTE = """
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('HINCRBY', KEYS[2], 'labels', ARGV[2])
redis.call('HSETNX', KEYS[2], 'first', ARGV[3])
redis.call('HSET', KEYS[2], 'last', ARGV[3])
"""

# Raises the count to what was found in Label Studio; labels that webhooks told of are among those.
_NOTE_TOTAL = """
if tonumber(redis.call('HGET', KEYS[2], 'labels') or '0') < tonumber(ARGV[2]) then
    redis.call('SADD', KEYS[1], ARGV[1])
    redis.call('HSETNX', KEYS[2], 'first', ARGV[3])
    redis.call('HSET', KEYS[2], 'labels', ARGV[2], 'last', ARGV[3])
end
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

# A job that runs while Redis is wiped still writes what it does under its id, and that would keep the id taken for ever
# should the job be killed. Only what was queued has a date.
_DROP_REMNANT = """
if redis.call('HEXISTS', KEYS[1], 'created_at') == 0 then
    redis.call('DEL', KEYS[1])
end
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


def job_id(project: str) -> str:
    """The RQ id of a project's retrain. There is one, so that two can't run at once."""
    return "retrain-" + check_key(project).replace(".", "-")


def completion_id(project: str) -> str:
    """The RQ id of a project's completion. There is one: what comes while it is queued or runs, it does as well."""
    return "complete-" + check_key(project).replace(".", "-")


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
        self.completions = Completions(self.redis)
        self.leases = Leases(self.redis)

    def note(self, project: str, labels: int, now: float | None = None) -> None:
        """Count ``labels`` newly accepted, changed or deleted annotations."""
        self._run(_NOTE, project, labels, time.time() if now is None else now)

    def note_total(self, project: str, labels: int, now: float | None = None) -> None:
        """Count at least ``labels`` annotations that no retrain has seen, those noted already among them."""
        self._run(_NOTE_TOTAL, project, labels, time.time() if now is None else now)

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

        RQ queues it again when its process is killed.

        A retrain that failed keeps its place for a minute, so that what can't work isn't tried all the time;
        ``again`` says that a person wants it tried at once.
        """
        identifier = job_id(project)
        if again and (state := self.job(identifier)) and state.ended:
            self._delete(identifier)
        if self.leases.held(project):  # it runs, though RQ has forgotten its id
            return False
        kwargs = {"project": project}
        return self._enqueue_once(
            RETRAIN, identifier, kwargs, timeout, f"retrain project {project}", retry=Retry(max=RETRIES)
        )

    def cancel_retrain(self, project: str) -> str | None:
        """Forget what waits for the project's retrain, and stop it: within a step, if it runs.

        Returns what it was doing by RQ's name, ``queued`` or ``started``, or None if there was none.
        """
        self.take(project)
        state = self.job(job_id(project))
        if not self.leases.held(project) and (state is None or state.ended):
            return None
        if state is not None and state.status != "started":
            self._delete(job_id(project))
            return state.status
        self.leases.cancel(project, CANCEL_SECONDS)
        return "started"

    def is_retraining(self, project: str) -> bool:
        """Whether the project's retrain is queued or runs."""
        state = self.job(job_id(project))
        return self.leases.held(project) or (state is not None and not state.ended)

    def enqueue_reconcile(self, every: float, *, at_once: bool = False) -> bool:
        """Queue a look for labels that nobody told of, unless one is queued or runs; see the workers' ``reconcile``.

        It is once in ``every`` seconds, however many backends ask for it; or ``at_once``.
        """
        if not self.redis.set(RECONCILED, "1", nx=not at_once, px=int(1000 * every)):
            return False
        return self._enqueue_once(RECONCILE, "reconcile", {}, RECONCILE_TIMEOUT, "reconcile with Label Studio")

    def enqueue_completion(
        self, project: str, tasks: Sequence[int], version: str, timeout: float = COMPLETION_TIMEOUT
    ) -> bool:
        """Hand tasks that a /predict call by ``version`` did not reach to a worker, which brings their predictions.

        There is one a project: where it is queued or running already, it does these tasks as well. Returns False when
        it failed within the last minute, so that the tasks wait for `resume_completions`.
        """
        self.completions.add(project, tasks)
        if self._enqueue_completion(project, timeout, {"version": version}):
            return True
        state = self.job(completion_id(project))
        return state is None or not state.ended

    def resume_completions(self, timeout: float = COMPLETION_TIMEOUT) -> list[str]:
        """Queue a completion for every project that has tasks waiting and none queued or running; returns those.

        This finds tasks that came in the moment in which a completion ended, and those of one that failed a minute
        ago or was killed.
        """
        return [project for project in self.completions.waiting() if self._enqueue_completion(project, timeout, {})]

    def _enqueue_completion(self, project: str, timeout: float, meta: dict[str, Any]) -> bool:
        what = f"complete the predictions of project {project}"
        kwargs = {"project": project}
        return self._enqueue_once(COMPLETE, completion_id(project), kwargs, timeout, what, meta=meta)

    def _enqueue_once(
        self, function: str, identifier: str, kwargs: dict[str, Any], timeout: float, what: str, **options: Any
    ) -> bool:
        self.redis.eval(_DROP_REMNANT, 1, Job.key_for(identifier))
        try:
            self.queue.enqueue_call(
                function,
                kwargs=kwargs,
                job_id=identifier,
                unique=True,
                timeout=int(timeout),
                result_ttl=RESULT_TTL,
                failure_ttl=FAILURE_TTL,
                description=what,
                **options,
            )
        except DuplicateJobError:
            return False
        return True

    def _delete(self, identifier: str) -> None:
        with contextlib.suppress(NoSuchJobError):
            job = Job.fetch(identifier, connection=self.redis)
            # RQ lists a dead worker's execution for longer than it keeps it, and can't delete the job meanwhile.
            self.redis.delete(job.execution_registry.key)
            job.delete()

    def job(self, identifier: str) -> JobState | None:
        """The RQ job of this id as it is now, while Redis knows it."""
        try:
            return JobState.of(Job.fetch(identifier, connection=self.redis))
        # A job that succeeds is gone between two looks, and RQ says ValueError where none can have the id.
        except (NoSuchJobError, InvalidJobOperation, ValueError):
            return None

    def jobs(self) -> list[JobState]:
        """The RQ jobs of all projects: those that wait, that run, and that ended lately."""
        return in_queue(self.queue)

    def remember_connection(self, project: str, url: str, token: str) -> None:
        """Keep where a project's Label Studio is, as its /setup said. The pair is only ever used together."""
        self.redis.hset(f"{PREFIX}:connection:{project}", mapping={"url": url, "token": token})

    def connected(self) -> list[str]:
        """Projects whose /setup said where their Label Studio is."""
        keys = self.redis.scan_iter(match=f"{PREFIX}:connection:*")
        return sorted(key.decode().rpartition(":")[2] for key in keys)

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

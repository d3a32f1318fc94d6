"""The tasks that a /predict call had no time for, until a worker brings their predictions to Label Studio.

Label Studio stores whatever it is told, so that two answers for a task would be two predictions. Therefore a task that
waits is either the worker's or a call's: the worker's, until another call that has it too claims it, for people who ask
now come before those who asked earlier. Nothing here matters if it is lost: Label Studio asks for what it lacks at the
next retrieve.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import redis

from underpaint.project import check_key

COMPLETIONS = "underpaint:completions"

# Seconds after which Label Studio is believed to know of a prediction that the worker set out to store: it looks which
# tasks lack one, and seconds later, when it has written down thousands of them, sends its call.
STORED_SECONDS = 60
# Seconds after which tasks are forgotten that nobody came for.
KEEP_SECONDS = 24 * 3600

# What waits is one sorted set a project, by when a task came, and the set of projects that have one. What a worker
# stores is one sorted set a project and version, by when it began to.

# Those that are being stored; the others wait no longer.
_CLAIM = f"""
local since = redis.call('TIME')[1] - {STORED_SECONDS}
local stored = {{}}
for _, task in ipairs(ARGV) do
    local began = redis.call('ZSCORE', KEYS[2], task)
    if began and tonumber(began) >= since then
        stored[#stored + 1] = task
    else
        redis.call('ZREM', KEYS[1], task)
    end
end
return stored
"""

_HOLD = f"""
local now = redis.call('TIME')[1]
local held = {{}}
for _, task in ipairs(ARGV) do
    if redis.call('ZSCORE', KEYS[1], task) then
        redis.call('ZADD', KEYS[2], now, task)
        held[#held + 1] = task
    end
end
redis.call('EXPIRE', KEYS[2], {STORED_SECONDS})
return held
"""

_REMOVE = """
for i = 2, #ARGV do redis.call('ZREM', KEYS[1], ARGV[i]) end
local left = redis.call('ZCARD', KEYS[1])
if left == 0 then redis.call('SREM', KEYS[2], ARGV[1]) end
return left
"""


class Completions:
    """Every project's tasks that wait for a worker. Every method raises ``redis.RedisError``, as `Signals` does."""

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection

    def add(self, project: str, tasks: Sequence[int]) -> None:
        """Let tasks wait, in this order, behind those that wait already."""
        if not tasks:
            return
        now = time.time()
        # A microsecond apart, which is what a double can tell apart in this century.
        scores: dict[Any, float] = {task: now + place * 1e-6 for place, task in enumerate(tasks)}
        with self._redis.pipeline() as pipeline:
            pipeline.sadd(COMPLETIONS, check_key(project))
            pipeline.zadd(_key(project), scores, nx=True)
            pipeline.expire(_key(project), KEEP_SECONDS)
            pipeline.execute()

    def claim(self, project: str, version: str, tasks: Sequence[int]) -> set[int]:
        """Take tasks back from the worker, because a /predict call by ``version`` is going to predict them.

        Returns those that come too late: the worker is storing predictions by this version of them, or has just done
        so, and another answer would be a second one.
        """
        return set(self._each(_CLAIM, project, version, tasks))

    def first(self, project: str, count: int) -> list[int]:
        """The ``count`` tasks that have waited longest."""
        found: list[Any] = self._redis.zrange(_key(project), 0, count - 1)
        return [int(task) for task in found]

    def hold(self, project: str, version: str, tasks: Sequence[int]) -> list[int]:
        """Those of ``tasks`` that still wait: their predictions by ``version`` are the worker's to store, at once."""
        return self._each(_HOLD, project, version, tasks)

    def remove(self, project: str, tasks: Iterable[int]) -> int:
        """Forget tasks that are done, or can't be; returns how many are left."""
        left: int = self._redis.eval(_REMOVE, 2, _key(project), COMPLETIONS, project, *tasks)
        return left

    def clear(self, project: str) -> None:
        """Forget all of a project's tasks."""
        with self._redis.pipeline() as pipeline:
            pipeline.delete(_key(project))
            pipeline.srem(COMPLETIONS, project)
            pipeline.execute()

    def waiting(self) -> dict[str, int]:
        """How many tasks wait, by project, where any do."""
        members: set[Any] = self._redis.smembers(COMPLETIONS)
        counts = {project: self.remove(project, ()) for project in sorted(member.decode() for member in members)}
        return {project: count for project, count in counts.items() if count}

    def _each(self, script: str, project: str, version: str, tasks: Sequence[int]) -> list[int]:
        if not tasks:
            return []
        found: list[bytes] = self._redis.eval(script, 2, _key(project), f"{_key(project)}:{version}", *tasks)
        return [int(task) for task in found]


def _key(project: str) -> str:
    return f"{COMPLETIONS}:{check_key(project)}"

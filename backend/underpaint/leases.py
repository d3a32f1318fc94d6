"""Who retrains a project at this moment: one process, whatever becomes of Redis and of RQ's job ids.

RQ queues a project's retrain once. A Redis that is wiped, or a worker that stood still for a while, can bring about a
second one all the same: it waits until the first has let go, and one that finds another in its place stops.
"""

import redis

from underpaint.project import check_key

PREFIX = "underpaint:retraining"
CANCELLED = "cancelled"

# Takes or extends it, unless another holds it; answers who does.
_HOLD = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
    return holder
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""

_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('DEL', KEYS[1])
end
"""


class Leases:
    """The leases of all projects. Every method raises ``redis.RedisError`` when Redis can't be reached."""

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection

    def hold(self, project: str, owner: str, seconds: float) -> str:
        """Hold the project's lease for ``seconds`` from now, if nobody else does; returns who holds it."""
        return str(self._redis.eval(_HOLD, 1, _key(project), owner, int(1000 * seconds)).decode())

    def release(self, project: str, owner: str) -> None:
        """Let go of it, if ``owner`` holds it."""
        self._redis.eval(_RELEASE, 1, _key(project), owner)

    def held(self, project: str) -> bool:
        return bool(self._redis.exists(_key(project)))

    def cancel(self, project: str, seconds: float) -> None:
        """Take it from who holds it or is about to, who then stops; nobody gets it for ``seconds``."""
        self._redis.set(_key(project), CANCELLED, px=int(1000 * seconds))


def _key(project: str) -> str:
    return f"{PREFIX}:{check_key(project)}"

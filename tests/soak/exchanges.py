"""Every request to a backend, judged as Label Studio would judge its answer."""

import json
import statistics
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from soak.journal import Journal, Outages

# Seconds that Label Studio 1.23 waits for an answer.
LIMITS = {"/health": 1.0, "/setup": 3.0, "/webhook": 1.0, "START_TRAINING": 100.0, "/predict": 100.0, "/versions": 3.0}
# What can't be done without Redis says so; everything else has to do without.
NEEDS_REDIS = frozenset({"START_TRAINING", "/job_status"})
REDIS = "Redis"


@dataclass(frozen=True)
class Exchange:
    """One request and what came back; times are ``time.monotonic()``."""

    backend: str
    path: str
    began: float
    ended: float
    request: bytes = b""
    status: int | None = None
    """None where the backend gave no answer; ``answer`` then says why."""
    answer: bytes = b""

    @property
    def kind(self) -> str:
        """The path; for a webhook that is a command, the command."""
        path = self.path.partition("?")[0]
        return "START_TRAINING" if path == "/webhook" and b'"START_TRAINING"' in self.request else path

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def fault(self) -> str:
        """Why Label Studio could make no use of the answer; empty if it is good."""
        if self.status is None:
            return f"no answer ({self.answer.decode(errors='replace')})"
        if not 200 <= self.status < 300:
            return f"{self.status}: {self.answer[:300].decode(errors='replace')}"
        return _fault_of_prediction(self.request, self.answer) if self.kind == "/predict" else ""

    @property
    def late(self) -> bool:
        """Whether Label Studio had hung up by then: asked for /health, it tries again; told by webhook, it forgets."""
        return self.seconds > LIMITS.get(self.kind, 10.0)

    def excused(self, outages: Outages) -> bool:
        """Whether what it needed was down on purpose: the backend gave no answer, or said that Redis is away."""
        if self.status is None:
            return outages.during(self.backend, self.began, self.ended)
        return self.status == 503 and self.kind in NEEDS_REDIS and outages.during(REDIS, self.began, self.ended)


def _fault_of_prediction(request: bytes, answer: bytes) -> str:
    tasks = _tasks(request)
    try:
        said = json.loads(answer)
        slots: list[Any] = said["results"]
        versions = {slot["model_version"] for slot in slots if slot} | {said["model_version"]}
    except (ValueError, KeyError, TypeError) as error:
        return f"an answer that can't be read ({error!r}): {answer[:200]!r}"
    if len(slots) != len(tasks):
        return f"{len(slots)} results for {len(tasks)} tasks"
    if len(versions) != 1 or not all(versions):
        return f"one answer by versions {sorted(map(str, versions))}"
    for task, slot in zip(tasks, slots, strict=True):
        if not slot or slot.get("reason"):
            return f"task {task['id']} stays empty: {slot['reason'] if slot else 'it was not reached'}"
    return ""


def _tasks(request: bytes) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = json.loads(request)["tasks"]
    return tasks


class Ledger:
    """All requests, by kind: how many, how long they took, which failed. Safe to use from many threads."""

    def __init__(self, outages: Outages, journal: Journal) -> None:
        self._outages, self._journal = outages, journal
        self._lock = threading.Lock()
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.predictions = 0
        """Slots that were filled."""
        self.excused: Counter[str] = Counter()
        self.failed: list[str] = []
        self.late: list[str] = []
        """Good answers that came later than Label Studio waits for them."""

    def enter(self, exchange: Exchange) -> None:
        fault = exchange.fault()
        what = f"{exchange.backend} {exchange.kind}"
        with self._lock:
            self._seconds[exchange.kind].append(exchange.seconds)
            if not fault:
                if exchange.late:
                    self.late.append(f"{what} took {exchange.seconds:.2f} s")
                self.predictions += len(_tasks(exchange.request)) if exchange.kind == "/predict" else 0
                return
            if excused := exchange.excused(self._outages):
                self.excused[exchange.kind] += 1
            else:
                self.failed.append(f"{what}: {fault}")
        self._journal.say("request", f"{'excused' if excused else 'FAILED'}: {what}: {fault}")

    @property
    def count(self) -> int:
        """How many requests there were."""
        with self._lock:
            return sum(map(len, self._seconds.values()))

    def summary(self) -> dict[str, dict[str, float]]:
        """By kind: count, excused, and milliseconds of the median, the 99th of 100 and the slowest."""
        with self._lock:
            return {
                kind: {
                    "count": len(seconds),
                    "excused": self.excused[kind],
                    "p50_ms": 1000 * statistics.median(seconds),
                    "p99_ms": 1000 * sorted(seconds)[int(0.99 * (len(seconds) - 1))],
                    "max_ms": 1000 * max(seconds),
                }
                for kind, seconds in sorted(self._seconds.items())
            }

"""Who ends processes, wipes Redis and fills the disk."""

import os
import signal
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from soak.actor import Act, Actor
from soak.house import House, Part
from soak.journal import Journal

JOB_SECONDS = 20.0  # longest to wait for a job to kill, and longest to let it live
FULL = ("bash", "-c", 'ulimit -f 1000; exec "$@"', "worker")
"""Files of a megabyte at most: for a worker's records there is room, for a checkpoint there isn't."""


class Saboteur(Actor):
    """Does each of its deeds once, then each again in another order, and so on.

    Backend 2 and worker 2 it leaves alone, so that what they hold can be watched from the beginning to the end; the
    jobs that worker 2 runs it doesn't.
    """

    name = "saboteur"
    rest = (3.0, 12.0)

    def __init__(self, house: House, journal: Journal, seed: str) -> None:
        super().__init__(house, journal, seed)
        self.backend, self.worker = house.backends[0], house.workers[0]
        self.kills: Counter[str] = Counter()
        """How often a retrain may have been cut short, by what did it."""
        self._deck: list[Act] = []

    def acts(self) -> Mapping[Act, float]:
        if not self._deck:
            self._deck = [
                self.kills_a_worker, self.kills_a_job, self.kills_a_job, self.kills_a_job, self.stops_a_worker,
                self.restarts_a_backend, self.kills_a_backend, self.restarts_redis, self.wipes_redis,
                self.switches_webhooks_off, self.fills_the_disk,
            ]  # fmt: skip
            self.random.shuffle(self._deck)
        return {self._deck.pop(): 1}

    def kills_a_worker(self) -> object:
        return self._again(self.worker, signal.SIGKILL)

    def stops_a_worker(self) -> object:
        return self._again(self.worker, signal.SIGTERM)

    def restarts_a_backend(self) -> object:
        return self._again(self.backend, signal.SIGTERM)

    def kills_a_backend(self) -> object:
        return self._again(self.backend, signal.SIGKILL)

    def kills_a_job(self) -> object:
        """At any moment of its life: one that has just begun is given a while."""
        for _ in range(int(10 * JOB_SECONDS)):
            if running := [(part, job) for part in self.house.workers for job in part.jobs]:
                part, job = self.random.choice(running)
                self._wait(self.random.uniform(0, JOB_SECONDS))
                if job not in part.jobs:
                    continue  # it has ended
                with suppress(ProcessLookupError):
                    os.kill(job, signal.SIGKILL)
                    self.kills["job"] += 1
                    return part.name, job
            if self.stopping.wait(0.1):
                break
        return "there was none"

    def restarts_redis(self) -> object:
        seconds = self.random.uniform(0, 8)
        self.house.restart_redis(lambda: self._wait(seconds))
        return f"down for {seconds:.1f} s"

    def wipes_redis(self) -> object:
        return self.house.underpaint.signals.redis.flushall()

    def switches_webhooks_off(self) -> object:
        place = self.random.choice(self.house.places)
        self.house.set_webhook(place, active=False)
        try:
            self._wait(self.random.uniform(5, 20))
        finally:
            self.house.set_webhook(place, active=True)
        return place.id

    def fills_the_disk(self) -> object:
        """That of worker 1: the other may do what it can't."""
        self._again(self.worker, signal.SIGTERM, *FULL)
        self._wait(self.random.uniform(15, 30))
        return self._again(self.worker, signal.SIGTERM)

    def _again(self, part: Part, number: signal.Signals, *wrapper: str) -> object:
        """End it and start it again, maybe not at once."""
        if part in self.house.workers:
            self.kills[part.name] += 1
        with self.house.outages.of(part.name):
            part.end(number)
            self._wait(self.random.choice((0, 0, 5)))
            part.start(*wrapper)
            part.wait()
        return part.pid

    def _wait(self, seconds: float) -> None:
        """Rest, but not when told to stop."""
        self.stopping.wait(seconds)

"""The RQ worker: one job at a time, each in a fresh interpreter, so that CUDA starts clean."""

import contextlib
import logging
import signal
import time

import redis
from redis.client import Pipeline
from rq import Queue, SpawnWorker
from rq.executions import Execution
from rq.job import Job

from underpaint.orphans import be_parent, end_with_parent

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5
ABANDONED_SECONDS = 30
"""Seconds without a heartbeat after which a job's worker counts as dead."""
LOOK_SECONDS = 15
"""Seconds between an idle worker's looks for jobs of dead ones."""
RECONNECT_SECONDS = 2.0


def log_to_stderr(level: int = logging.INFO) -> None:
    """Say what happens, but not every request to Label Studio."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


class Worker(SpawnWorker):
    """An RQ worker whose job, should it be killed, is taken up within a minute, by it or another.

    Told to stop, it stops its job as well: a retrain may take longer than anyone waits. Killed, it takes its job along,
    so that no two run. Without Redis for a while, it lets its job go on.
    """

    def handle_warm_shutdown_request(self) -> None:
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]
        if self.horse_pid:
            self.kill_horse()

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002 (RQ passes both)
        return ABANDONED_SECONDS

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        try:
            super().maintain_heartbeats(job, execution)
        except redis.RedisError as error:
            log.warning("Redis can't be reached (%s): the job goes on", error)

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        # A Redis that was wiped knows nothing of this worker, and `underpaint status` would miss it.
        if pipeline is None and not self.is_horse and not self.connection.sismember(self.redis_workers_keys, self.key):
            self.connection.delete(self.key)
            self.register_birth()  # type: ignore[no-untyped-call]
        super().heartbeat(timeout, pipeline)

    def prepare_execution(self, job: Job) -> Execution:
        # RQ lists a dead worker's execution for longer than it keeps it, and can't delete the job meanwhile.
        self.connection.delete(job.execution_registry.key)
        return super().prepare_execution(job)

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        be_parent()
        super().fork_work_horse(job, queue)

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        log_to_stderr()
        if end_with_parent():  # else the worker was killed just now
            super().main_work_horse(job, queue)

    @property
    def was_told_to_stop(self) -> bool:
        return self._shutdown_requested_date is not None


def work(queue: Queue) -> None:
    """Run the queue's jobs until told to stop, by however many workers: each ends with its connection to Redis."""
    while True:
        try:
            worker = Worker(
                [queue],
                connection=queue.connection,
                worker_ttl=2 * LOOK_SECONDS,
                job_monitoring_interval=HEARTBEAT_SECONDS,
                maintenance_interval=LOOK_SECONDS,
            )
        except redis.RedisError as error:
            log.error("Redis can't be reached (%s): start it, or set REDIS_URL. Trying again.", error)
        else:
            with contextlib.suppress(redis.RedisError):
                worker.work()
            if worker.was_told_to_stop:
                return
            log.warning("the connection to Redis broke: connecting again")
            for stop in (signal.SIGINT, signal.SIGTERM):
                signal.signal(stop, signal.SIG_DFL)
        time.sleep(RECONNECT_SECONDS)

"""The RQ worker: one job at a time, each in a fresh interpreter, so that CUDA starts clean."""

from rq import SpawnWorker


class Worker(SpawnWorker):
    """An RQ worker that, told to stop, stops its job as well: a retrain may take longer than anyone waits."""

    def handle_warm_shutdown_request(self) -> None:
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]
        if self.horse_pid:
            self.kill_horse()

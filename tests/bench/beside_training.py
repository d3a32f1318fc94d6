"""How long a single task takes while a worker trains on the same machine."""

import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from bench.servers import Client, environment
from integration.processes import UNDERPAINT, eventually, running
from underpaint.settings import get_settings
from underpaint.signals import Signals

_PAINTINGS = 4
_QUEUE = "bench-training"
_FIRST_STEP_SECONDS = 300.0  # it paints first, and yields to everybody


def train_on(folder: str) -> None:
    """The job: paint scenes and train on them with the worker's settings, and count the steps in ``folder``/steps."""
    from underpaint_workers.dataset import Dataset
    from underpaint_workers.scenes import write_dataset
    from underpaint_workers.train_settings import TrainSettings
    from underpaint_workers.training import Progress, train

    steps = Path(folder) / "steps"

    def count(progress: Progress) -> None:
        fresh = steps.with_suffix(".fresh")
        fresh.write_text(str(progress.step))
        fresh.replace(steps)

    write_dataset(Path(folder), _PAINTINGS)
    data = Dataset.open(Path(folder))
    train(
        [data.load(name) for name in data.names], data.classes, None, TrainSettings.of(get_settings()), progress=count
    )


def measure(
    port: int, urls: Sequence[str], redis_url: str, values: Mapping[str, str], folder: Path, seconds: float = 30.0
) -> dict[str, float]:
    """What training does to the tasks of one client, and they to it.

    Args:
        port: of a backend.
        urls: of images, which the tasks take in turn.
        redis_url, values: the worker's Redis, and its other settings.
        folder: an empty one, for the worker.
        seconds: how long tasks are asked for beside the training, and as long again without it.
    """
    steps = folder / "steps"

    def pace(started: float, first: int) -> float:
        return (int(steps.read_text()) - first) / (time.perf_counter() - started)

    calm = _latencies(port, urls, seconds / 2)
    endless = {"UNDERPAINT_TRAIN_MIN_STEPS": "1000000", "UNDERPAINT_TRAIN_MINUTES": "600"}
    values = {**values, **endless, "UNDERPAINT_QUEUE": _QUEUE}
    with running([*UNDERPAINT, "work"], folder.with_suffix(".log"), environment(**values)):
        Signals(redis_url, _QUEUE).queue.enqueue("bench.beside_training.train_on", str(folder), job_timeout=3600)
        eventually(steps.exists, "the worker trains", _FIRST_STEP_SECONDS)
        started, first = time.perf_counter(), int(steps.read_text())
        time.sleep(seconds / 2)
        alone = pace(started, first)
        started, first = time.perf_counter(), int(steps.read_text())
        busy = _latencies(port, urls, seconds)
        beside = pace(started, first)
    calm += _latencies(port, urls, seconds / 2)
    return {
        "idle_p95_ms": _p95(calm),
        "training_p95_ms": _p95(busy),
        "training_p95_ratio": _p95(busy) / _p95(calm),
        "training_p50_ratio": statistics.median(busy) / statistics.median(calm),
        "training_steps_per_second": alone,
        "training_steps_per_second_beside": beside,
    }


def _latencies(port: int, urls: Sequence[str], seconds: float) -> list[float]:
    """Seconds of each task of a client that asks for one after the other, for so many seconds."""
    client = Client(port)
    taken: list[float] = []
    ends = time.perf_counter() + seconds
    for url in cycle(urls):
        started = time.perf_counter()
        if started > ends:
            return taken
        client.predict([url])
        taken.append(time.perf_counter() - started)
    return taken


def _p95(taken: Sequence[float]) -> float:
    """Milliseconds within which 95 of 100 tasks were answered."""
    return 1000 * statistics.quantiles(taken, n=100, method="inclusive")[94]

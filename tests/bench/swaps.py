"""Hot swaps under constant load, and what becomes of memory."""

import http.client
import itertools
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.servers import PROJECT, Client, Refused
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store
from underpaint.signals import Signals

CLIENTS = 4
SWAP_SECONDS = 60.0  # longest that one may take
_BULK = 64  # tasks a call, where only memory is looked at


@dataclass
class Load:
    """What callers saw who asked one task after the other, without a pause."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def p99(self) -> float:
        """Milliseconds within which 99 of 100 requests were answered."""
        return 1000 * statistics.quantiles(self.seconds, n=100, method="inclusive")[98]


@contextmanager
def constant_load(port: int, urls: Sequence[str], clients: int = CLIENTS) -> Iterator[Load]:
    """`clients` ask for single tasks, each as soon as it has its last answer, until the block ends."""
    load, stopping = Load(), threading.Event()

    def work(first: int) -> None:
        client = Client(port)
        for url in itertools.islice(itertools.cycle(urls), first, None):
            if stopping.is_set():
                return
            started = time.perf_counter()
            try:
                client.predict([url])
            except (Refused, OSError, http.client.HTTPException) as error:
                load.failures.append(repr(error))
                client = Client(port)
            load.seconds.append(time.perf_counter() - started)

    threads = [threading.Thread(target=work, args=(number * len(urls) // clients,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def variants(checkpoint: Checkpoint) -> list[Checkpoint]:
    """`checkpoint` twice, under different versions."""
    return [replace(checkpoint, card=replace(checkpoint.card, snapshot=name)) for name in ("one", "other")]


def swap(port: int, store: Store, signals: Signals, version: str) -> float:
    """Promote `version`, announce it as a worker does, and wait until the backend serves it; returns the seconds.

    Raises:
        TimeoutError: it doesn't within a minute.
    """
    store.promote(PROJECT, version, "bench", "bench", {})
    started = time.perf_counter()
    signals.announce(PROJECT)
    client = Client(port)
    while client.champions().get(PROJECT) != version:
        if time.perf_counter() - started > SWAP_SECONDS:
            raise TimeoutError(f"the backend does not serve {version} after {SWAP_SECONDS:.0f} s; its log says why")
        time.sleep(0.02)
    return time.perf_counter() - started


def predict_many(port: int, urls: Sequence[str], count: int) -> None:
    """`count` predictions or a few more, in calls of 64 tasks."""
    client = Client(port)
    supply = itertools.cycle(urls)
    for _ in range(-(-count // _BULK)):
        client.predict(list(itertools.islice(supply, _BULK)))


def resident_mib(process: int) -> float:
    """Memory that a process holds, in MiB, once it rests."""
    time.sleep(1.0)
    [line] = [each for each in Path(f"/proc/{process}/status").read_text().splitlines() if each.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def measure(
    port: int,
    process: int,
    store: Store,
    signals: Signals,
    versions: Sequence[str],
    paintings: Sequence[str],
    strips: Sequence[str],
    *,
    swaps: int = 20,
    predictions: int = 10_000,
    first: int = 500,
    pause: float = 3.0,
) -> dict[str, float]:
    """What swaps do to requests, and what they and many predictions do to memory.

    Args:
        port, process: of a backend that has served nothing yet.
        store, signals, versions: where two checkpoints are that take turns.
        paintings: URLs of what the load consists of.
        strips: URLs of images that take little time, for what is missing of `predictions` after the load.
        swaps: how many.
        predictions: how many in all, before memory is read again.
        first: how many, before it is read for the first time; of both kinds of images, as are as many of the last.
        pause: seconds from one promotion to the next, at least.
    """
    both = [*paintings, *strips]
    predict_many(port, both, first)
    memory = resident_mib(process)
    with constant_load(port, paintings) as steady:
        time.sleep(swaps * pause)
    taken = []
    with constant_load(port, paintings) as swapping:
        for number in range(swaps):
            started = time.perf_counter()
            taken.append(swap(port, store, signals, versions[number % 2]))
            time.sleep(max(0.0, pause - (time.perf_counter() - started)))
    done = 2 * first + len(steady.seconds) + len(swapping.seconds)
    predict_many(port, strips, max(0, predictions - done))
    predict_many(port, both, first)
    memory_after = resident_mib(process)
    return {
        "swap_count": swaps,
        "swap_requests": len(swapping.seconds),
        "swap_failed": len(swapping.failures),
        "swap_seconds": statistics.median(taken),
        "steady_failed": len(steady.failures),
        "steady_p99_ms": steady.p99,
        "swap_p99_ms": swapping.p99,
        "swap_p99_ratio": swapping.p99 / steady.p99,
        "rss_first_mib": memory,
        "rss_last_mib": memory_after,
        "rss_growth": memory_after / memory - 1,
    }

"""How many images a second a backend predicts over HTTP, and how long one takes."""

import queue
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.servers import Client


def bulk(port: int, urls: Sequence[str]) -> float:
    """Images a second of one client that sends all tasks in one call."""
    client = Client(port)
    started = time.perf_counter()
    client.predict(urls)
    return len(urls) / (time.perf_counter() - started)


def single(port: int, urls: Sequence[str], clients: int = 16) -> float:
    """Images a second of many clients at once, each of which sends one task a call."""
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    for url in urls:
        todo.put(url)

    def work() -> None:
        client = Client(port)
        while True:
            try:
                url = todo.get_nowait()
            except queue.Empty:
                return
            client.predict([url])

    with ThreadPoolExecutor(clients) as pool:
        started = time.perf_counter()
        for future in [pool.submit(work) for _ in range(clients)]:
            future.result()
        return len(urls) / (time.perf_counter() - started)


def latency(port: int, urls: Sequence[str]) -> float:
    """Median milliseconds that a single task takes, one client asking."""
    client = Client(port)
    taken = []
    for url in urls:
        started = time.perf_counter()
        client.predict([url])
        taken.append(time.perf_counter() - started)
    return 1000 * statistics.median(taken)

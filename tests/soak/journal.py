"""What happened when, so that a failure can be understood; and when what was down on purpose."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Journal:
    """A log of everything that any actor does, with seconds since the start. Safe to use from many threads."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1)
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        """How often each actor did what."""

    def did(self, actor: str, action: str, outcome: object = "") -> None:
        """Note something that counts."""
        with self._lock:
            self.counts[f"{actor}: {action}"] += 1
        self.say(actor, f"{action} {outcome}")

    def say(self, actor: str, text: str) -> None:
        with self._lock:
            self._file.write(f"{time.monotonic() - self._started:8.2f} {actor:<12} {text.rstrip()}\n")

    def close(self) -> None:
        self._file.close()


class Outages:
    """When which part was down because somebody took it down. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: dict[str, list[list[float]]] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """``name`` is down in this block, which begins before it is taken down and ends when it answers again."""
        span = [time.monotonic(), float("inf")]
        with self._lock:
            self._spans.setdefault(name, []).append(span)
        try:
            yield
        finally:
            span[1] = time.monotonic()

    def during(self, name: str, began: float, ended: float) -> bool:
        """Whether ``name`` was down at any moment between the two (``time.monotonic()``)."""
        with self._lock:
            return any(down < ended and began < up for down, up in self._spans.get(name, ()))

"""What the long-lived processes hold: memory, open files, threads."""

import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

WARM_UP = 0.3
"""Share of a life that doesn't count: libraries, caches and the allocator's arenas fill."""
ENDS = 0.2  # share of the rest that counts as its beginning, and as its end


@dataclass(frozen=True)
class Sample:
    """One process at one moment."""

    seconds: float
    memory: float
    """Resident MiB."""
    files: int
    threads: int


@dataclass(frozen=True)
class Growth:
    """How what a process holds changed after its warm-up, from the first fifth to the last, by medians."""

    memory: tuple[float, float]
    files: tuple[float, float]
    threads: tuple[float, float]
    slope: float
    """MiB an hour, of the line through all samples after the warm-up."""

    def problems(self, memory_share: float, memory_mib: float, files: int, threads: int) -> list[str]:
        """What grew beyond its bound; for memory, the larger of a share of the beginning and some MiB."""
        found = []
        most = self.memory[0] + max(memory_share * self.memory[0], memory_mib)
        if self.memory[1] > most:
            found.append(f"memory grew from {self.memory[0]:.0f} to {self.memory[1]:.0f} MiB")
        if self.files[1] > self.files[0] + files:
            found.append(f"open files grew from {self.files[0]:.0f} to {self.files[1]:.0f}")
        if self.threads[1] > self.threads[0] + threads:
            found.append(f"threads grew from {self.threads[0]:.0f} to {self.threads[1]:.0f}")
        return found


def growth(samples: Sequence[Sample]) -> Growth:
    """Raises ValueError where there are too few samples to tell."""
    late = samples[int(WARM_UP * len(samples)) :]
    count = max(1, int(ENDS * len(late)))
    if len(late) < 5:
        raise ValueError(f"{len(samples)} samples don't tell how it grew: run for longer")
    first, last = late[:count], late[-count:]

    def medians(of: Callable[[Sample], float]) -> tuple[float, float]:
        return statistics.median(map(of, first)), statistics.median(map(of, last))

    line = statistics.linear_regression([each.seconds / 3600 for each in late], [each.memory for each in late])
    return Growth(
        medians(lambda each: each.memory),
        medians(lambda each: each.files),
        medians(lambda each: each.threads),
        line.slope,
    )


def sample(pid: int, seconds: float) -> Sample:
    """A process now. Raises OSError when it has ended."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    memory = int(status["VmRSS"].split()[0]) / 1024
    return Sample(seconds, memory, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"]))  # noqa: PTH208


class Watch:
    """A thread that samples processes again and again."""

    def __init__(self, processes: Callable[[], dict[str, int]], every: float) -> None:
        """``processes()`` are process ids by name; ``every`` in seconds."""
        self._processes, self._every = processes, every
        self._started = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.samples: defaultdict[str, list[Sample]] = defaultdict(list)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._every):
            for name, pid in self._processes().items():
                try:
                    self.samples[name].append(sample(pid, time.monotonic() - self._started))
                except (OSError, KeyError):  # it ends at this moment
                    continue

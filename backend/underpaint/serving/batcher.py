"""Forward passes for everyone who asks: who goes first, who goes together, and who is not waited for."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from underpaint.segmenter.channels import Image
from underpaint.segmenter.segmenter import ClassMap, Confidence, Segmenter

Answer = tuple[ClassMap, Confidence]


class Gone(Exception):
    """Nobody waits for the answer any more, so none was made."""


def _never() -> bool:
    return False


@dataclass(eq=False)
class _Job:
    segmenter: Segmenter
    image: Image
    shape: tuple[int, int] | None
    """The natural size of the answer; None asks for probabilities."""
    urgent: bool
    gone: Callable[[], bool]
    since: float = field(default_factory=time.monotonic)
    answer: Future[Any] = field(default_factory=Future)

    def joins(self, other: "_Job") -> bool:
        """Whether both can share a pass: never where two checkpoints would have to make it."""
        alike = (self.shape is None) == (other.shape is None) and self.image.shape == other.image.shape
        return alike and self.segmenter is other.segmenter and self.image.dtype == other.image.dtype


class Batcher:
    """Runs the passes of all segmenters on the one device that they share, from threads of its own.

    Where a device gains by batches, images of one shape share a pass, whoever asked for them; elsewhere each
    has its own, and as many run side by side as the segmenter finds best. What is urgent goes before what is not.
    As :meth:`segment` blocks, no more can wait here than there are threads that ask: the queue needs no bound.
    """

    def __init__(self, size: int, wait: float) -> None:
        """At most ``size`` images share a pass; ``wait`` is the most seconds that an image is held back for others,
        which happens only while some are known to be on their way and it is not urgent."""
        self._size = size
        self._wait = wait
        self._waiting: dict[bool, deque[_Job]] = {True: deque(), False: deque()}  # urgent ones first
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._stopping = False
        self._expected = self._running = 0
        self._passes = self._images = self._dropped = self._failed = 0
        self._busy = self._busy_since = 0.0

    def segment(
        self,
        segmenter: Segmenter,
        image: Image,
        shape: tuple[int, int],
        *,
        urgent: bool = False,
        gone: Callable[[], bool] = _never,
    ) -> Answer:
        """Class map and confidence, uint8 (H, W) both, of one image that ``segmenter.prepare`` made.

        Args:
            shape: natural (H, W) of the image.
            urgent: goes before everything that isn't.
            gone: asked when the image's turn comes, from another thread; must answer at once.

        Raises:
            Gone: ``gone()``, or the batcher was stopped.
            Exception: whatever the pass raised for this image, when it was tried alone.
        """
        answer: Answer = self._answer(_Job(segmenter, image, shape, urgent, gone))
        return answer

    def probabilities(
        self, segmenter: Segmenter, image: Image, *, urgent: bool = False, gone: Callable[[], bool] = _never
    ) -> NDArray[np.float32]:
        """Probabilities (classes, h, w) of one image (h, w, channels); all else is as in :meth:`segment`."""
        answer: NDArray[np.float32] = self._answer(_Job(segmenter, image, None, urgent, gone))
        return answer

    def _answer(self, job: _Job) -> Any:
        with self._changed:
            if self._stopping:
                raise Gone("the backend is stopping")
            self._waiting[job.urgent].append(job)
            while len(self._threads) < job.segmenter.passes:
                thread = threading.Thread(target=self._work, name=f"passes-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify_all()
        return job.answer.result()

    @contextmanager
    def expected(self) -> Iterator[None]:
        """Says that an image will be here in milliseconds, so that a pass may wait for it; leave it to ``segment``."""
        with self._changed:
            self._expected += 1
        try:
            yield
        finally:
            with self._changed:
                self._expected -= 1

    def stop(self) -> None:
        """Finish the passes that run; whoever still waits gets :class:`Gone`."""
        with self._changed:
            self._stopping = True
            for job in chain(*self._waiting.values()):
                job.answer.set_exception(Gone("the backend is stopping"))
            for queue in self._waiting.values():
                queue.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def metrics(self) -> dict[str, float]:
        """What passed through since the start; ``images_per_second`` counts only the time in which a pass ran."""
        with self._changed:
            busy = self._busy + (time.monotonic() - self._busy_since if self._running else 0.0)
            return {
                "waiting": sum(map(len, self._waiting.values())),
                "passes": self._passes,
                "images": self._images,
                "dropped": self._dropped,
                "failed": self._failed,
                "images_per_second": round(self._images / busy, 2) if busy else 0.0,
            }

    def _work(self) -> None:
        while self._work_once():  # a frame of its own, so that an idle thread keeps no old segmenter alive
            pass

    def _work_once(self) -> bool:
        batch = self._next()
        if batch:
            try:
                _run(batch)
            finally:
                self._finished(batch)
        return bool(batch)

    def _next(self) -> list[_Job]:
        """The jobs of the next pass, as soon as it may begin; none when it is time to stop."""
        with self._changed:
            while not self._stopping:
                self._drop()
                batch = self._batch()
                patience = self._patience(batch) if batch else None
                if batch and patience is not None and patience <= 0:
                    for job in batch:
                        self._waiting[job.urgent].remove(job)
                    if not self._running:
                        self._busy_since = time.monotonic()
                    self._running += 1
                    self._passes += 1
                    self._images += len(batch)
                    return batch
                self._changed.wait(patience)
            return []

    def _drop(self) -> None:
        for queue in self._waiting.values():
            for job in [job for job in queue if job.gone()]:
                queue.remove(job)
                self._dropped += 1
                job.answer.set_exception(Gone("nobody waits for it any more"))

    def _batch(self) -> list[_Job]:
        waiting = list(chain(*self._waiting.values()))
        if not waiting or self._running >= waiting[0].segmenter.passes:
            return []
        first = waiting[0]
        size = self._size if first.segmenter.batches else 1
        return [job for job in waiting if job.joins(first)][:size]

    def _patience(self, batch: list[_Job]) -> float:
        """Seconds for which ``batch`` should wait for others."""
        first = batch[0]
        full = len(batch) == self._size or not first.segmenter.batches
        if full or first.urgent or not self._expected:
            return 0.0
        return first.since + self._wait - time.monotonic()

    def _finished(self, batch: list[_Job]) -> None:
        with self._changed:
            self._running -= 1
            if not self._running:
                self._busy += time.monotonic() - self._busy_since
            self._failed += sum(job.answer.exception() is not None for job in batch)
            self._changed.notify_all()


def _run(batch: list[_Job]) -> None:
    """One pass for all; if it fails, one for each, so that what breaks it fails alone."""
    try:
        segmenter, images = batch[0].segmenter, [job.image for job in batch]
        shapes = [job.shape for job in batch if job.shape is not None]
        answers: list[Any] = segmenter.segment(images, shapes) if shapes else segmenter.probabilities(images)
        answered = list(zip(batch, answers, strict=True))
    except Exception as error:
        if len(batch) == 1:
            batch[0].answer.set_exception(error)
            return
        for job in batch:
            _run([job])
    else:
        for job, answer in answered:
            job.answer.set_result(answer)

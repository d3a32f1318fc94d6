"""Tasks in, Label Studio predictions out."""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from underpaint import base
from underpaint.labelstudio import prompt, regions
from underpaint.labelstudio.decoding import Picture, decode_small
from underpaint.labelstudio.images import ImageError, ImageFetcher, name_of
from underpaint.labelstudio.label_config import LabelConfig
from underpaint.labelstudio.label_space import LabelSpace
from underpaint.segmenter.segmenter import Segmenter
from underpaint.serving.batcher import Batcher, Gone
from underpaint.serving.cache import PredictionCache, key
from underpaint.serving.champions import UNTRAINED
from underpaint.serving.interactive import Interactive
from underpaint.settings import Settings

log = logging.getLogger(__name__)

Task = Mapping[str, Any]
Prediction = dict[str, Any]
Slot = Prediction | list[Prediction]
"""A prediction; or an empty list, for which Label Studio stores nothing, so that it asks again."""

NO_CHAMPION = (
    "this project has no trained segmenter yet, so there is nothing honest to predict with: "
    "label some paintings, then press Start Training in Settings → Model"
)
BASE_NAMES_NOTHING = (
    "this project has no trained segmenter yet, and the base segmenter can name none of its labels: map some to its "
    "classes, or label some paintings, then press Start Training in Settings → Model. "
)


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Call:
    """One /predict."""

    project: str
    tasks: Sequence[Task]
    config: LabelConfig
    deadline: float
    """``time.monotonic()`` by which it is to be answered."""
    context: Mapping[str, Any] | None = None
    """The editor's ``{"result": [regions]}``, where a person drew something and waits."""
    gone: Callable[[], bool] = _never
    """Whether its caller has hung up."""

    @property
    def urgent(self) -> bool:
        """Whether a person looks at a painting and waits; the data manager asks for many at once."""
        return len(self.tasks) == 1

    def over(self) -> bool:
        """Whether nothing that is still to be done for it would be of use."""
        return time.monotonic() > self.deadline or self.gone()


class Predictor:
    """Takes tasks through fetching, decoding, the forward pass and encoding, many side by side, so that while one
    waits for its file another has the device.

    A call of one task runs on its caller's thread, those of more share a pool. Of the latter's images at most
    ``fetch_concurrency`` are in memory at their natural size before the pass; they wait for it at the size of the net.
    """

    def __init__(self, settings: Settings, batcher: Batcher, cache: PredictionCache) -> None:
        self._settings = settings
        self._batcher = batcher
        self._cache = cache
        self._drawn = Interactive()
        self._base = base.load(settings.base)
        self._fetching = threading.BoundedSemaphore(settings.fetch_concurrency)
        most = settings.fetch_concurrency + 2 * max(settings.batch_size, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="predict")
        self._lock = threading.Lock()
        self._hits = self._misses = 0

    def stop(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def metrics(self) -> dict[str, int]:
        """Images whose prediction the cache had and hadn't, since the start."""
        return {"cache_hits": self._hits, "cache_misses": self._misses}

    def predict(self, call: Call, segmenter: Segmenter | None, fetcher: ImageFetcher) -> list[Slot]:
        """One slot a task, in order: ``{"result", "score", "model_version"}``, all made by ``segmenter``.

        A task that can't be predicted gets an empty result with a ``reason``, also logged. One that is not reached
        before the deadline, or whose caller has hung up, gets an empty *list*. A drawn ``context`` is answered with
        the region that it is drawn for.
        """
        if segmenter is None:
            reason = self._why_untrained(call.config)
            log.warning("%d tasks stay empty: %s", len(call.tasks), reason)
            return [_empty(UNTRAINED, reason) for _ in call.tasks]
        space = LabelSpace.match(call.config, segmenter.classes)
        if space.empty and call.context is None:  # what is drawn can be found without a class for it
            log.warning("%d tasks stay empty: %s", len(call.tasks), space.explain())
            return [_empty(segmenter.version, space.explain()) for _ in call.tasks]
        predict = partial(self._predict_safely, call, space, segmenter, fetcher)
        if call.urgent:
            return [predict(call.tasks[0])]
        # Enough to fill the next pass while one runs, and to have as many files on their way.
        a_pass = self._settings.batch_size if segmenter.batches else segmenter.passes
        return self._side_by_side(predict, call, self._settings.fetch_concurrency + 2 * a_pass)

    def _side_by_side(self, predict: Callable[[Task], Slot], call: Call, window: int) -> list[Slot]:
        """A slot for each task, ``window`` at a time, so that no call keeps the pool from the others."""
        room = threading.Semaphore(window)
        futures: list[Future[Slot]] = []
        for task in call.tasks:
            if not room.acquire(timeout=max(0.0, call.deadline - time.monotonic())) or call.over():
                break
            future = self._pool.submit(predict, task)
            future.add_done_callback(lambda _: room.release())
            futures.append(future)
        done, _ = wait(futures, timeout=max(0.0, call.deadline - time.monotonic()))
        for future in futures:
            future.cancel()
        slots: list[Slot] = [future.result() if future in done else [] for future in futures]
        return slots + [[] for _ in range(len(call.tasks) - len(slots))]

    def _predict_safely(
        self, call: Call, space: LabelSpace, segmenter: Segmenter, fetcher: ImageFetcher, task: Task
    ) -> Slot:
        """A slot whatever one painting does to us, so that the others get theirs."""
        try:
            if call.over():
                return []
            return self._predict_task(call, space, segmenter, fetcher, task)
        except Gone:
            return []
        except Exception as error:
            if call.over():  # it was given up, and that says nothing about the painting
                return []
            if isinstance(error, ImageError):
                log.warning("task %s stays empty: %s", task.get("id"), error)
                return _empty(segmenter.version, str(error))
            log.exception("task %s stays empty", task.get("id"))
            return _empty(segmenter.version, f"{type(error).__name__}: {error}")

    def _predict_task(
        self, call: Call, space: LabelSpace, segmenter: Segmenter, fetcher: ImageFetcher, task: Task
    ) -> Prediction:
        if call.context is not None:
            return self._interactive(call, space, segmenter, fetcher, task)
        found = [self._predict_image(call, space, segmenter, fetcher, task, key) for key in call.config.image_keys]
        result = [region for each in found for region in each["result"]]
        score = float(np.mean([each["score"] for each in found]))
        return {"result": result, "score": score, "model_version": segmenter.version}

    def _interactive(
        self, call: Call, space: LabelSpace, segmenter: Segmenter, fetcher: ImageFetcher, task: Task
    ) -> Prediction:
        """The region that was drawn for; where nothing drawn says where, all regions of the labels that were."""
        drawn, problems = prompt.read(call.context, call.config)
        for problem in problems:
            log.info("task %s: %s", task.get("id"), problem)
        if drawn is None:
            whole = self._predict_task(replace(call, context=None), space, segmenter, fetcher, task)
            return _only(whole, prompt.labels(call.context))
        url, task_id = _url(task, drawn.control.image_key), task.get("id")
        return self._drawn.answer(
            drawn,
            (url, task_id),
            space,
            segmenter,
            fetch=lambda: fetcher.fetch_bytes(url, task_id, call.deadline),
            decode=lambda file: self._decode(file, name_of(url, task_id), segmenter),
            look=partial(self._batcher.probabilities, segmenter, urgent=True, gone=call.over),
        )

    def _predict_image(
        self, call: Call, space: LabelSpace, segmenter: Segmenter, fetcher: ImageFetcher, task: Task, image_key: str
    ) -> Prediction:
        """Regions and score of one of a task's images."""
        url, task_id = _url(task, image_key), task.get("id")
        with self._room(call):
            # A moment later, so that who is cut short by it is known from who had all of fetch_timeout.
            file = fetcher.fetch_bytes(url, task_id, call.deadline + 0.1)
            kept_as = key(hashlib.blake2b(file).hexdigest(), segmenter.version, space, image_key, "fast")
            kept = self._cache.get(kept_as)
            self._count(hit=kept is not None)
            if kept is not None:
                return kept
            with self._batcher.expected():
                picture = self._decode(file, name_of(url, task_id), segmenter)
                image = segmenter.prepare(picture.pixels, picture.shape)
        del file  # a hundred of them may wait for the device
        class_map, confidence = self._batcher.segment(
            segmenter, image, picture.shape, urgent=call.urgent, gone=call.over
        )
        found, score = regions.encode(class_map, confidence, space, image_key)
        prediction = {"result": found, "score": score}
        self._cache.put(kept_as, prediction)
        return prediction

    def _decode(self, file: bytes, name: str, segmenter: Segmenter) -> Picture:
        most, side = self._settings.max_image_pixels, segmenter.card.image_size
        picture = decode_small(file, most, name, side)
        # Of a large scan more is looked at, which is known only now.
        if max(picture.pixels.shape) < (side := min(segmenter.side(picture.shape), max(picture.shape))):
            picture = decode_small(file, most, name, side)
        return picture

    @contextmanager
    def _room(self, call: Call) -> Iterator[None]:
        """A place among the images at their natural size; who is urgent needs none, and is bounded by its own threads.

        Raises ``Gone`` where there was none before the deadline.
        """
        if call.urgent:
            yield
            return
        if not self._fetching.acquire(timeout=max(0.0, call.deadline - time.monotonic())):
            raise Gone("the deadline came first")
        try:
            yield
        finally:
            self._fetching.release()

    def _count(self, *, hit: bool) -> None:
        with self._lock:
            self._hits += hit
            self._misses += not hit

    def _why_untrained(self, config: LabelConfig) -> str:
        if self._base is None:
            return NO_CHAMPION
        return BASE_NAMES_NOTHING + LabelSpace.match(config, self._base.card.classes).explain()


def _empty(version: str, reason: str) -> Prediction:
    return {"result": [], "score": 0.0, "model_version": version, "reason": reason}


def _only(prediction: Prediction, labels: Set[str]) -> Prediction:
    """``prediction`` with its regions of ``labels``; with all, where there are none."""
    result = [region for region in prediction["result"] if labels & set(region["value"][region["type"]])]
    return prediction | {"result": result} if labels else prediction


def _url(task: Task, image_key: str) -> str:
    return str(task.get("data", {}).get(image_key) or "")

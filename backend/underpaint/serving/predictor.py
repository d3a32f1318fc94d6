"""Tasks in, Label Studio predictions out."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from underpaint import base
from underpaint.labelstudio import regions
from underpaint.labelstudio.images import ImageError, ImageFetcher, Rgb
from underpaint.labelstudio.label_config import LabelConfig
from underpaint.labelstudio.label_space import LabelSpace
from underpaint.segmenter.segmenter import Segmenter
from underpaint.serving.champions import UNTRAINED
from underpaint.settings import Settings

log = logging.getLogger(__name__)

Task = Mapping[str, Any]
Prediction = dict[str, Any]

NO_CHAMPION = (
    "this project has no trained segmenter yet, so there is nothing honest to predict with: "
    "label some paintings, then press Start Training in Settings → Model"
)
BASE_NAMES_NOTHING = (
    "this project has no trained segmenter yet, and the base segmenter can name none of its labels: map some to its "
    "classes, or label some paintings, then press Start Training in Settings → Model. "
)


class Predictor:
    """Runs segmenters on tasks, one forward pass at a time, whoever asks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._base = base.load(settings.base)
        self._device = threading.Lock()

    def predict(
        self,
        tasks: Sequence[Task],
        config: LabelConfig,
        segmenter: Segmenter | None,
        fetcher: ImageFetcher,
        deadline: float,
        context: Mapping[str, Any] | None = None,
    ) -> list[Prediction | list[Prediction]]:
        """One slot a task, in order: ``{"result", "score", "model_version"}``, all made by ``segmenter``.

        A task that can't be predicted gets an empty result with a ``reason``, also logged. A task not reached
        before ``deadline`` (``time.monotonic()``) gets an empty *list*: Label Studio then stores nothing for it, and
        asks again at the next retrieve. ``context`` is the editor's ``{"result": [regions]}``: only their labels are
        answered.
        """
        if segmenter is None:
            reason = self._why_untrained(config)
            log.warning("%d tasks stay empty: %s", len(tasks), reason)
            return [_empty(UNTRAINED, reason) for _ in tasks]
        space = LabelSpace.match(config, segmenter.classes)
        if space.empty:
            log.warning("%d tasks stay empty: %s", len(tasks), space.explain())
            return [_empty(segmenter.version, space.explain()) for _ in tasks]
        asked = _selected_labels(context)
        predictions: list[Prediction | list[Prediction]] = []
        for task, images in zip(tasks, self._images(tasks, config, fetcher, deadline), strict=True):
            if time.monotonic() > deadline:
                break
            try:
                predictions.append(self._predict_task(task, images, space, segmenter, asked))
            except Exception as error:  # whatever one painting does to us, the others get their slots
                log.exception("task %s stays empty", task.get("id"))
                predictions.append(_empty(segmenter.version, f"{type(error).__name__}: {error}"))
        if left := len(tasks) - len(predictions):
            log.warning(
                "%d of %d tasks were not reached in %.0f s and got no prediction: retrieve again, select fewer "
                "tasks, or raise UNDERPAINT_PREDICT_DEADLINE",
                left,
                len(tasks),
                self._settings.predict_deadline,
            )
        return predictions + [[] for _ in range(left)]

    def _why_untrained(self, config: LabelConfig) -> str:
        if self._base is None:
            return NO_CHAMPION
        return BASE_NAMES_NOTHING + LabelSpace.match(config, self._base.card.classes).explain()

    def _predict_task(
        self,
        task: Task,
        images: Mapping[str, Rgb | ImageError],
        space: LabelSpace,
        segmenter: Segmenter,
        asked: frozenset[str] | None,
    ) -> Prediction:
        result: list[dict[str, Any]] = []
        scores: list[float] = []
        for key, image in images.items():
            if isinstance(image, ImageError):
                log.warning("task %s stays empty: %s", task.get("id"), image)
                return _empty(segmenter.version, str(image))
            with self._device:
                class_map, confidence = segmenter.predict(image)
            found, score = regions.encode(class_map, confidence, space, key)
            result += [region for region in found if asked is None or _labels(region) & asked]
            scores.append(score)
        return {"result": result, "score": float(np.mean(scores)), "model_version": segmenter.version}

    def _images(
        self, tasks: Sequence[Task], config: LabelConfig, fetcher: ImageFetcher, deadline: float
    ) -> Iterator[dict[str, Rgb | ImageError]]:
        """For each task, its decoded images by data key, fetched ahead while earlier ones are predicted."""
        keys = config.image_keys
        wanted = [(str(task.get("data", {}).get(key) or ""), task.get("id")) for task in tasks for key in keys]
        fetched = fetcher.iter_all(wanted, deadline)
        for _ in tasks:
            yield {key: next(fetched) for key in keys}


def _empty(version: str, reason: str) -> Prediction:
    return {"result": [], "score": 0.0, "model_version": version, "reason": reason}


def _labels(region: Any) -> frozenset[str]:
    """The label values a region carries: the one list of strings named after its own type."""
    value = region.get("value") if isinstance(region, dict) else None
    labels = value.get(str(region.get("type")).lower()) if isinstance(value, dict) else None
    return frozenset(filter(lambda label: isinstance(label, str), labels)) if isinstance(labels, list) else frozenset()


def _selected_labels(context: Mapping[str, Any] | None) -> frozenset[str] | None:
    """Labels that the regions drawn in the editor carry, or None when nothing was drawn."""
    drawn = (context or {}).get("result")
    return frozenset[str]().union(*map(_labels, drawn if isinstance(drawn, list) else ())) or None

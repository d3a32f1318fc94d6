"""How well a segmenter does on paintings whose labels are known."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from underpaint.labelstudio.class_mapping import ClassMapping
from underpaint.segmenter.segmenter import Quality, Segmenter
from underpaint.taxonomy import UNLABELLED
from underpaint_workers.boundary import boundary_f1
from underpaint_workers.calibration import Calibration
from underpaint_workers.dataset import Item


@dataclass(frozen=True)
class Metrics:
    """Scores over all labelled pixels of all paintings together; unlabelled pixels count nowhere."""

    miou: float
    """Mean intersection over union (0–1) of the classes that the labels contain; 0 where nothing is labelled."""
    accuracy: float
    """Share (0–1) of labelled pixels whose class is right."""
    per_class: dict[str, float | None]
    """Intersection over union (0–1) a class; None for a class that the labels do not contain."""
    confusion: list[list[int]]
    """Pixels by class: a row a labelled class, a column a predicted one, the last for classes that have no row."""
    paintings: int
    """Paintings that were looked at."""
    boundary_f1: float | None = None
    """F1 (0–1) of boundary pixels within 2 pixels, at the paintings' natural size: the mean over the classes of a
    painting, then over paintings; see :func:`~underpaint_workers.boundary.boundary_f1`. None where nothing has one."""
    calibration_error: float | None = None
    """Expected calibration error (0–1, less is better) of labelled pixels, in 15 bins; see
    :class:`~underpaint_workers.calibration.Calibration`. None where confidences are not known."""


Seen = Callable[[Item, NDArray[np.uint8], Metrics], None]
"""Called with a painting and its labels, its predicted map in the labels' ids, and its own scores."""


def evaluate(
    segmenter: Segmenter,
    items: Iterable[Item],
    classes: Sequence[str],
    *,
    mapping: ClassMapping | None = None,
    quality: Quality = "fast",
    seen: Seen | None = None,
) -> Metrics:
    """Metrics of `segmenter` on `items`, whose class maps hold ids of `classes`, at the paintings' natural size.

    `mapping` is that of the segmenter's classes to `classes`, if more than their names say so. What it predicts beyond
    them counts as wrong, and has the id ``len(classes)`` in the map that `seen` is given. The painting's own scores,
    which `seen` is given too, are without calibration error.
    """
    columns = (mapping or ClassMapping.of(classes, segmenter.classes)).label_ids
    confusion = np.zeros((len(classes), len(classes) + 1), np.int64)
    calibration = Calibration()
    outlines: list[float] = []
    paintings = 0
    for image, class_map in items:
        prediction, confidence = segmenter.predict(image, quality)
        prediction = columns[prediction]
        counts = confusion_of(class_map, prediction, len(classes))
        confusion += counts
        outline = boundary_f1(class_map, prediction, len(classes))
        if outline is not None:
            outlines.append(outline)
        known = class_map != UNLABELLED
        calibration.add((prediction == class_map)[known], confidence[known] / np.float32(255))
        paintings += 1
        if seen:
            seen((image, class_map), prediction, replace(metrics_of(counts, classes, 1), boundary_f1=outline))
    return replace(
        metrics_of(confusion, classes, paintings),
        boundary_f1=float(np.mean(outlines)) if outlines else None,
        calibration_error=calibration.error if confusion.any() else None,
    )


@dataclass(frozen=True)
class Examination:
    """What a segmenter did on paintings, together and one by one."""

    metrics: Metrics
    confusions: NDArray[np.int64]
    """(paintings, classes, classes + 1), each painting's as ``confusion_of`` counts it."""
    class_maps: tuple[NDArray[np.uint8], ...]
    """What it predicted, in the ids that ``evaluate`` gives, small enough to keep all of them."""


def examine(
    segmenter: Segmenter,
    items: Iterable[Item],
    classes: Sequence[str],
    longer_side: int,
    mapping: ClassMapping | None = None,
) -> Examination:
    """``evaluate``, keeping what each painting came to; its predicted map shrunk to `longer_side` pixels at most."""
    confusions: list[list[list[int]]] = []
    class_maps: list[NDArray[np.uint8]] = []

    def keep(_: Item, predicted: NDArray[np.uint8], own: Metrics) -> None:
        confusions.append(own.confusion)
        step = math.ceil(max(predicted.shape) / longer_side)
        class_maps.append(predicted[step // 2 :: step, step // 2 :: step].copy())

    metrics = evaluate(segmenter, items, classes, mapping=mapping, seen=keep)
    shape = len(confusions), len(classes), len(classes) + 1
    return Examination(metrics, np.array(confusions, np.int64).reshape(shape), tuple(class_maps))


def confusion_of(labels: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Counts (classes, classes + 1) of pixels by labelled and predicted class; both maps are uint8 (H, W).

    A predicted id of `classes` means none of them; pixels labelled 255 are left out.
    """
    known = labels != UNLABELLED
    pairs = labels[known].astype(np.int64) * (classes + 1) + predicted[known]
    return np.bincount(pairs, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def metrics_of(confusion: NDArray[np.int64], classes: Sequence[str], paintings: int) -> Metrics:
    """Metrics of a confusion matrix (classes, classes + 1) as ``confusion_of`` counts it: all that it can tell."""
    scores = iou_of(tallies_of(confusion))
    labelled = confusion.sum(axis=1)
    return Metrics(
        miou=float(miou_of(scores)),
        accuracy=float(np.trace(confusion) / max(1, labelled.sum())),
        per_class={
            name: None if np.isnan(score) else float(score) for name, score in zip(classes, scores, strict=True)
        },
        confusion=confusion.tolist(),
        paintings=paintings,
    )


def tallies_of(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels of each class (…, 3, classes) that are right, labelled and predicted; those of paintings add up.

    The confusion matrices are (…, classes, classes + 1), as ``confusion_of`` counts them.
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack((right, confusion.sum(axis=-1), confusion.sum(axis=-2)[..., :-1]), axis=-2)


def iou_of(tallies: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union (…, classes), 0–1, by the ``tallies_of`` paintings (…, 3, classes).

    NaN for a class that the labels do not contain.
    """
    right, labelled, predicted = np.moveaxis(tallies, -2, 0)
    return np.where(labelled > 0, right / np.maximum(1, labelled + predicted - right), np.nan)


def miou_of(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean (…) of the scores (…, classes) that ``iou_of`` gives, over the classes that have one; 0 where none has."""
    present = ~np.isnan(scores)
    mean: NDArray[np.float64] = np.where(present, scores, 0).sum(axis=-1) / np.maximum(1, present.sum(axis=-1))
    return mean

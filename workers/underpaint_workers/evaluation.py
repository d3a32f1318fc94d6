"""How well a segmenter does on paintings whose labels are known."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from underpaint.segmenter.segmenter import Quality, Segmenter
from underpaint.taxonomy import UNLABELLED, corresponding
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
    quality: Quality = "fast",
    seen: Seen | None = None,
) -> Metrics:
    """Metrics of `segmenter` on `items`, whose class maps hold ids of `classes`, at the paintings' natural size.

    The segmenter's classes are matched to `classes` by name; what it predicts beyond them counts as wrong, and has the
    id ``len(classes)`` in the map that `seen` is given. The painting's own scores, which `seen` is given too, are
    without calibration error.
    """
    nothing = len(classes)
    columns = np.full(256, nothing, np.uint8)
    for predicted, match in enumerate(corresponding(segmenter.classes, classes)):
        columns[predicted] = nothing if match is None else match
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
        calibration.add((prediction == class_map)[known], confidence[known])
        paintings += 1
        if seen:
            seen((image, class_map), prediction, replace(metrics_of(counts, classes, 1), boundary_f1=outline))
    return replace(
        metrics_of(confusion, classes, paintings),
        boundary_f1=float(np.mean(outlines)) if outlines else None,
        calibration_error=calibration.error if confusion.any() else None,
    )


def confusion_of(labels: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Counts (classes, classes + 1) of pixels by labelled and predicted class; both maps are uint8 (H, W).

    A predicted id of `classes` means none of them; pixels labelled 255 are left out.
    """
    known = labels != UNLABELLED
    pairs = labels[known].astype(np.int64) * (classes + 1) + predicted[known]
    return np.bincount(pairs, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def metrics_of(confusion: NDArray[np.int64], classes: Sequence[str], paintings: int) -> Metrics:
    """Metrics of a confusion matrix (classes, classes + 1) as ``confusion_of`` counts it: all that it can tell."""
    right = np.diagonal(confusion)
    labelled = confusion.sum(axis=1)
    union = labelled + confusion.sum(axis=0)[:-1] - right
    scores = {
        name: float(right[index] / union[index]) if labelled[index] else None for index, name in enumerate(classes)
    }
    present = [score for score in scores.values() if score is not None]
    return Metrics(
        miou=float(np.mean(present)) if present else 0.0,
        accuracy=float(right.sum() / max(1, labelled.sum())),
        per_class=scores,
        confusion=confusion.tolist(),
        paintings=paintings,
    )

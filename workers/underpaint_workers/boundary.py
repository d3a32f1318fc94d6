"""How well the outlines of a predicted class map follow those of the labels."""

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from underpaint.taxonomy import UNLABELLED

TOLERANCE = 2
"""How far, in pixels, an outline may lie from where it should."""

_CROSS = np.asarray(cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)), np.uint8)


def boundary_f1(
    labels: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int, tolerance: int = TOLERANCE
) -> float | None:
    """F1 (0–1) of the boundary pixels of one painting, the mean of its classes; None where there is nothing to compare.

    Both maps are uint8 (H, W). A boundary pixel of a class is one of its pixels with another class above, below, left
    or right of it; the edge of the painting is no boundary. Precision is the share of the predicted map's boundary
    pixels of a class that have one of the labels', of the same class, within `tolerance` pixels (a disc); recall is
    the same the other way round. It takes those of the `classes` that the labels contain and that have a boundary in
    either map; where only one has it, the class scores 0.

    Where the labels end at unlabelled pixels (255) they have no boundary, and predicted boundary pixels within
    `tolerance` of one are left out: the true outline may lie there.

    Source: Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC 2013;
    matching within a disc as in Perazzi et al., "A benchmark dataset and evaluation methodology for video object
    segmentation", CVPR 2016.
    """
    unlabelled = (labels == UNLABELLED).view(np.uint8)
    known = _widen(unlabelled, tolerance) == 0
    scores = []
    for each in np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[:classes]):
        true = _inner_boundary((labels == each).view(np.uint8), unlabelled)
        guess = _inner_boundary((predicted == each).view(np.uint8))
        counted = guess.astype(bool) & known
        if not true.any() and not counted.any():
            continue
        precision = _share(counted, _widen(true, tolerance))
        recall = _share(true.astype(bool), _widen(guess, tolerance))
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return float(np.mean(scores)) if scores else None


def _inner_boundary(mask: NDArray[np.uint8], beside: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Pixels of `mask` (0 or 1) with a direct neighbour outside it that is not in `beside` either."""
    inside = mask if beside is None else mask | beside
    return mask & ~np.asarray(cv2.erode(inside, _CROSS), np.uint8)


def _widen(mask: NDArray[np.uint8], radius: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.dilate(mask, _disc(radius)), np.uint8)


def _share(pixels: NDArray[np.bool_], near: NDArray[np.uint8]) -> float:
    return float(near[pixels].mean()) if pixels.any() else 1.0  # no boundary, so none that is wrong


@cache
def _disc(radius: int) -> NDArray[np.uint8]:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x * x + y * y <= radius * radius, np.uint8)

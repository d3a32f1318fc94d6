"""Whether a segmenter is as often right as it says."""

import numpy as np
from numpy.typing import NDArray

BINS = 15


class Calibration:
    """Expected calibration error, summed up map by map.

    Confidences fall into bins of equal width; the error is the difference between the mean confidence of a bin and the
    share of its pixels that are right, averaged over the bins by their pixels.

    Source: Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017.
    """

    def __init__(self, bins: int = BINS) -> None:
        self._pixels = np.zeros(bins, np.int64)
        self._right = np.zeros(bins, np.int64)
        self._confidence = np.zeros(bins)

    def add(self, right: NDArray[np.bool_], confidence: NDArray[np.float32]) -> None:
        """Count pixels (N,): whether each is right, and the confidence (0–1) that it is."""
        bins = len(self._pixels)
        # As in the paper, a bin holds its upper edge.
        place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
        self._pixels += np.bincount(place, minlength=bins)
        self._right += np.bincount(place[right], minlength=bins)
        self._confidence += np.bincount(place, confidence, minlength=bins)

    @property
    def error(self) -> float:
        """The expected calibration error (0–1); 0 where nothing was counted."""
        return float(np.abs(self._right - self._confidence).sum() / max(1, self._pixels.sum()))

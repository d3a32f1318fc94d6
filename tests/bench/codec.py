"""Brush RLE: how many times faster than label-studio-sdk's own."""

import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
from label_studio_sdk.converter import brush
from numpy.typing import NDArray

from underpaint.labelstudio import rle

# (width, height, grain): regions as large as a segmenter's, and on the last the strokes of a busy hand.
MASKS = ((1024, 768, 80), (4000, 3000, 190), (4000, 3000, 41))


def mask(width: int, height: int, grain: int) -> NDArray[np.uint8]:
    """A mask (height, width) of 0 and 255 with irregular regions about `grain` pixels wide."""
    noise = np.random.default_rng(0).normal(size=(height // grain + 2, width // grain + 2)).astype(np.float32)
    return np.where(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) > 0, 255, 0).astype(np.uint8)


def compare(width: int, height: int, grain: int, rounds: int = 3) -> dict[str, float | str]:
    """Median milliseconds of both to encode and decode one mask, taken in turn, and how many times ours is faster.

    Raises:
        AssertionError: the two don't agree to the byte.
    """
    drawn = mask(width, height, grain)
    encoded = brush.mask2rle(drawn)  # type: ignore[no-untyped-call]
    assert rle.encode(drawn) == encoded
    assert np.array_equal(
        rle.decode(encoded, (height, width)), brush.decode_rle(encoded).reshape(height, width, 4)[..., 3]
    )
    jobs: dict[str, tuple[Callable[[], object], int]] = {
        "sdk_encode_ms": (lambda: brush.mask2rle(drawn), 1),  # type: ignore[no-untyped-call]
        "encode_ms": (lambda: rle.encode(drawn), 10),
        "sdk_decode_ms": (lambda: brush.decode_rle(encoded), 1),
        "decode_ms": (lambda: rle.decode(encoded, (height, width)), 10),
    }
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, (job, times) in jobs.items():
            taken[name] += [_milliseconds(job) for _ in range(times)]
    medians = {name: statistics.median(values) for name, values in taken.items()}
    runs = int(np.count_nonzero(np.diff(drawn.ravel()))) + 1
    return {
        "mask": f"{width}×{height}, {runs:,} runs",
        **medians,
        "encode_ratio": medians["sdk_encode_ms"] / medians["encode_ms"],
        "decode_ratio": medians["sdk_decode_ms"] / medians["decode_ms"],
    }


def _milliseconds(job: Callable[[], object]) -> float:
    started = time.perf_counter()
    job()
    return 1000 * (time.perf_counter() - started)

"""The limit: what the net alone can do here, with images that are decoded and resized already."""

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from underpaint.segmenter.channels import Image
from underpaint.segmenter.segmenter import Segmenter

_BATCHES = (4, 8, 16, 32, 64)


def ways(segmenter: Segmenter, images: Sequence[Image]) -> dict[str, Callable[[], object]]:
    """By name, each way to put prepared `images` through the net that may be the fastest."""

    def passes(at_once: int) -> Callable[[], object]:
        pool = ThreadPoolExecutor(at_once)
        return lambda: list(pool.map(lambda image: segmenter.probabilities([image]), images))

    def batches(size: int) -> Callable[[], object]:
        shapes: dict[tuple[int, ...], list[Image]] = defaultdict(list)
        for image in images:
            shapes[image.shape].append(image)
        groups = [each[first : first + size] for each in shapes.values() for first in range(0, len(each), size)]
        return lambda: [segmenter.probabilities(group) for group in groups]

    counts = sorted({1, segmenter.passes, os.cpu_count() or 1} if not segmenter.batches else {1, segmenter.passes})
    found = {f"{count} passes at once" if count > 1 else "one pass at a time": passes(count) for count in counts}
    return found | ({f"batches of {size}": batches(size) for size in _BATCHES} if segmenter.batches else {})


def images_a_second(way: Callable[[], object], images: Sequence[Image]) -> float:
    """How fast one of the ``ways`` is."""
    started = time.perf_counter()
    way()
    return len(images) / (time.perf_counter() - started)


def latency(segmenter: Segmenter, images: Sequence[Image]) -> float:
    """Median milliseconds of the forward pass of one image, with the device to itself."""
    taken = []
    for image in images:
        started = time.perf_counter()
        segmenter.probabilities([image])
        taken.append(time.perf_counter() - started)
    return 1000 * statistics.median(taken)

"""Batches on a GPU: images a second, and how much of the time the device was busy."""

import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.segmenter.channels import Image
from underpaint.segmenter.segmenter import Segmenter

BATCHES = (1, 2, 4, 8, 16, 32, 64)
SIZES = (512, 1024)  # pixels, squares
_SAMPLE_SECONDS = 0.05


def table(
    checkpoint: Checkpoint, sizes: Sequence[int] = SIZES, batches: Sequence[int] = BATCHES, seconds: float = 3.0
) -> list[dict[str, float]]:
    """For each size and batch size, what `seconds` of passes over noise come to; [] without a GPU.

    ``busy`` is the share of the time in which the driver saw a kernel run, NaN where it can't be asked.
    """
    if not torch.cuda.is_available():
        return []
    rows = []
    for size in sizes:
        segmenter = Segmenter(
            replace(checkpoint, card=replace(checkpoint.card, image_size=size)), "cuda", runtime="auto"
        )
        for batch in batches:
            images = list(np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8))
            shapes = [(size, size)] * batch
            segmenter.segment(images, shapes)
            rows.append({"size": size, "batch": batch, **_measure(segmenter, images, shapes, seconds)})
        segmenter.close()
    return rows


def _measure(
    segmenter: Segmenter, images: list[Image], shapes: list[tuple[int, int]], seconds: float
) -> dict[str, float]:
    busy: list[float] = []
    stopping = threading.Event()

    def sample() -> None:
        while not stopping.wait(_SAMPLE_SECONDS):
            try:
                busy.append(torch.cuda.utilization() / 100)
            except (ModuleNotFoundError, RuntimeError):  # it wants nvidia-ml-py, and a driver that answers
                return

    thread = threading.Thread(target=sample)
    thread.start()
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        segmenter.segment(images, shapes)
        done += len(images)
    taken = time.perf_counter() - started
    stopping.set()
    thread.join()
    return {"images_per_second": done / taken, "busy": statistics.mean(busy) if busy else float("nan")}

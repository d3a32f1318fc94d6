"""Batches on a GPU: ``PYTHONPATH=tests python -m bench.gpu``, or a part of ``make bench`` where there is one.

What UNDERPAINT_BATCH_SIZE and UNDERPAINT_BATCH_WAIT come to in a whole prediction, from a file in memory to regions,
with all cores of the machine; and, for passes alone, images a second and how much of the time the device was busy.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

from bench import paintings
from bench.servers import CONFIG, PROJECT
from underpaint import base
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.labelstudio.images import ImageFetcher
from underpaint.labelstudio.label_config import parse
from underpaint.segmenter.channels import Image
from underpaint.segmenter.segmenter import Segmenter
from underpaint.serving.batcher import Batcher
from underpaint.serving.cache import PredictionCache
from underpaint.serving.predictor import Call, Predictor
from underpaint.settings import Settings

BATCHES = (1, 2, 4, 8, 16, 32, 64)
SIZES = (512, 1024)  # pixels, squares
WAITS = (0.0, 2.0, 5.0, 10.0)  # milliseconds
CLIENTS = 16
_SAMPLE_SECONDS = 0.05


def table(
    checkpoint: Checkpoint,
    runtime: str,
    sizes: Sequence[int] = SIZES,
    batches: Sequence[int] = BATCHES,
    seconds: float = 3.0,
) -> list[dict[str, float]]:
    """For each size and batch size, what `seconds` of passes over noise by `runtime` come to; [] without a GPU.

    ``busy`` is the share of the time in which the driver saw a kernel run, NaN where it can't be asked.
    """
    if not torch.cuda.is_available():
        return []
    rows = []
    for size in sizes:
        card = replace(checkpoint.card, image_size=size)
        segmenter = Segmenter(replace(checkpoint, card=card), "cuda", runtime=runtime)
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


class _InMemory:
    """Files by their number, as a fetcher."""

    def __init__(self, files: Sequence[bytes]) -> None:
        self._files = files

    def fetch_bytes(self, url: str, task: object = None, deadline: float | None = None) -> bytes:
        return self._files[int(url)]


def sweep(
    segmenter: Segmenter, files: Sequence[bytes], sizes: Sequence[int], waits: Sequence[float], rounds: int
) -> list[dict[str, float]]:
    """For each batch size and wait (ms), median images a second of one call and of 16 clients, and images a pass."""
    found: dict[tuple[int, float], list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="underpaint-bench-") as folder:
        for number, (size, wait) in itertools.product(range(rounds + 1), itertools.product(sizes, waits)):
            settings = Settings(batch_size=size, batch_wait=wait, cache_bytes=0)
            batcher = Batcher(size, wait / 1000)
            predictor = Predictor(settings, batcher, PredictionCache(Path(folder), 0))
            call = _seconds(predictor, segmenter, files, len(files))
            passes = batcher.metrics()["passes"]
            singles = _seconds(predictor, segmenter, files, 1)
            predictor.stop()
            batcher.stop()
            print(f"{size} images, {wait} ms: {call:.1f} s and {singles:.1f} s", file=sys.stderr, flush=True)
            if number:  # the first round captures graphs and fills memory pools
                found.setdefault((size, wait), []).append(
                    (len(files) / call, len(files) / singles, len(files) / passes)
                )
    names = ("call_ips", "clients_ips", "images_a_pass")
    return [
        {"batch": size, "wait": wait}
        | {name: statistics.median(values) for name, values in zip(names, zip(*each, strict=True), strict=True)}
        for (size, wait), each in found.items()
    ]


def _seconds(predictor: Predictor, segmenter: Segmenter, files: Sequence[bytes], tasks_a_call: int) -> float:
    """How long it takes to predict all files in calls of so many tasks, 16 at a time."""
    config, fetcher = parse(CONFIG), cast(ImageFetcher, _InMemory(files))
    tasks = [{"id": number, "data": {"image": str(number)}} for number in range(len(files))]

    def predict(first: int) -> None:
        part = tasks[first : first + tasks_a_call]
        slots = predictor.predict(Call(PROJECT, part, config, time.monotonic() + 600), segmenter, fetcher)
        if not all(isinstance(slot, dict) and slot["result"] for slot in slots):
            raise RuntimeError(f"a prediction failed: {slots}")

    with ThreadPoolExecutor(CLIENTS) as pool:
        started = time.perf_counter()
        list(pool.map(predict, range(0, len(tasks), tasks_a_call)))
        return time.perf_counter() - started


def main() -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=paintings.DATA, help="where the images are made from")
    parser.add_argument("--count", type=int, default=256, help="images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of passes for each size and batch")
    parser.add_argument("--runtime", default="auto", help="what runs the net; auto for the fastest")
    parser.add_argument("--sizes", type=int, nargs="+", default=(1, 4, 8, 16, 32), help="of batches")
    parser.add_argument("--waits", type=float, nargs="+", default=WAITS, help="for others, in milliseconds")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no GPU here: a CPU takes one image a pass, so there is nothing to measure")
    checkpoint = base.load()
    if checkpoint is None:
        parser.error("the base segmenter is missing from the package: `make base` makes it")
    segmenter = Segmenter(checkpoint, "cuda", runtime=args.runtime)
    print(f"{torch.cuda.get_device_name()}, {os.cpu_count()} cores, {segmenter.runtime}\n")
    print("| batch | wait, ms | one call, img/s | 16 clients, img/s | images a pass |\n|---|---|---|---|---|")
    for row in sweep(segmenter, paintings.make(args.count, args.data), args.sizes, args.waits, args.rounds):
        print(
            f"| {row['batch']} | {row['wait']:.0f} | {row['call_ips']:.0f} | {row['clients_ips']:.0f} "
            f"| {row['images_a_pass']:.1f} |",
            flush=True,
        )
    print("\n| size | batch | img/s | busy |\n|---|---|---|---|")
    for row in table(checkpoint, segmenter.runtime, seconds=args.seconds):
        print(f"| {row['size']}² | {row['batch']} | {row['images_per_second']:.0f} | {row['busy']:.0%} |", flush=True)


if __name__ == "__main__":
    main()

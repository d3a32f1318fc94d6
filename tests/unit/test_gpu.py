"""What only a GPU shows: it sees what a CPU sees, and predictions go on while others load, leave or train."""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
import torch

from toy import CLASSES, painting
from underpaint import base
from underpaint.checkpoints import Checkpoint
from underpaint.segmenter.channels import Image
from underpaint.segmenter.choice import REFERENCE
from underpaint.segmenter.segmenter import Segmenter
from underpaint.serving.batcher import Batcher
from underpaint_workers.evaluation import evaluate
from underpaint_workers.scenes import paint
from underpaint_workers.train_settings import TrainSettings
from underpaint_workers.training import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

GRAPHS = "torch-graphs-float16"
QUICK = TrainSettings(strategy="all", epochs=1, min_steps=0, image_size=64, batch_size=2, device="cuda")
ALIKE = 0.99
"""Share of pixels of whose class two devices have to be of one mind."""


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    shipped = base.load()
    assert shipped
    return shipped


@pytest.fixture(scope="module")
def pictures() -> list[Image]:
    shapes = (120, 160), (160, 120), (160, 160), (500, 330), (90, 400)
    return [paint(seed, shape).image for seed, shape in enumerate(shapes)]


def alike(segmenter: Segmenter, other: Segmenter, pictures: Sequence[Image]) -> bool:
    answers = zip(segmenter.predict_batch(pictures), other.predict_batch(pictures), strict=True)
    return all((found == expected).mean() > ALIKE for (found, _), (expected, _) in answers)


def test_a_fast_runtime_is_chosen_and_sees_what_the_cpu_sees(
    checkpoint: Checkpoint, pictures: list[Image], tmp_path: Path
) -> None:
    segmenter = Segmenter(checkpoint, "cuda", runtime="auto", cache=tmp_path)
    assert segmenter.runtime != REFERENCE
    assert alike(segmenter, Segmenter(checkpoint), pictures)


def test_an_image_of_many_megapixels_is_grown_in_strips(checkpoint: Checkpoint, pictures: list[Image]) -> None:
    image = pictures[0].repeat(25, axis=0).repeat(25, axis=1)
    assert alike(Segmenter(checkpoint, "cuda"), Segmenter(checkpoint), [image])


def test_successors_get_ready_while_the_champion_works(checkpoint: Checkpoint, pictures: list[Image]) -> None:
    """Their graphs are captured meanwhile; neither the champion's answers nor theirs are disturbed by it."""
    champion, batcher = Segmenter(checkpoint, "cuda", runtime=GRAPHS), Batcher(8, 0.002)
    champion.warm()
    expected = [class_map for class_map, _ in champion.predict_batch(pictures)]
    stopping, answered = Event(), [0] * 4

    def work(number: int) -> None:
        while not stopping.is_set():
            for picture, class_map in zip(pictures, expected, strict=True):
                height, width = class_map.shape
                found, _ = batcher.segment(champion, champion.prepare(picture), (height, width))
                assert (found == class_map).mean() > ALIKE
                answered[number] += 1

    others = [train([painting(seed)], CLASSES, None, replace(QUICK, seed=seed)) for seed in range(5)]
    with ThreadPoolExecutor(len(answered)) as pool:
        workers = [pool.submit(work, number) for number in range(len(answered))]
        try:
            for other in others:
                successor = Segmenter(other, "cuda", runtime=GRAPHS)
                successor.warm(champion.shapes, aside=True)
                assert alike(successor, Segmenter(other), pictures)
                successor.close()
        finally:
            stopping.set()
        for worker in workers:
            worker.result()
    batcher.stop()
    assert min(answered) > 0


def test_two_get_ready_at_once(checkpoint: Checkpoint, pictures: list[Image]) -> None:
    segmenters = [Segmenter(checkpoint, "cuda", runtime=GRAPHS) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda segmenter: segmenter.predict_batch(pictures), segmenters))
    on_cpu = Segmenter(checkpoint).predict_batch(pictures)
    for both, (expected, _) in zip(zip(*answers, strict=True), on_cpu, strict=True):
        assert all((found == expected).mean() > ALIKE for found, _ in both)


def test_what_is_closed_gives_its_memory_back(checkpoint: Checkpoint, pictures: list[Image]) -> None:
    def held_afterwards() -> int:
        segmenter = Segmenter(checkpoint, "cuda", runtime=GRAPHS)
        segmenter.predict_batch(pictures)
        segmenter.close()
        return torch.cuda.memory_reserved()

    first = held_afterwards()
    assert max(held_afterwards() for _ in range(5)) <= first


def test_predictions_go_on_beside_a_training(checkpoint: Checkpoint, pictures: list[Image]) -> None:
    """It runs in a process of its own, as a worker's does, in its share of the memory."""
    program = """
from dataclasses import replace
import torch
from test_gpu import CLASSES, QUICK, painting, train
train([painting(seed) for seed in range(4)], CLASSES, None, replace(QUICK, epochs=40, gpu_memory=0.25))
assert torch.cuda.get_per_process_memory_fraction() == 0.25
"""
    segmenter = Segmenter(checkpoint, "cuda", runtime=GRAPHS)
    expected = [class_map for class_map, _ in segmenter.predict_batch(pictures)]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": path}) as training:
        while training.poll() is None:
            found = [class_map for class_map, _ in segmenter.predict_batch(pictures)]
            assert all((one == other).mean() > ALIKE for one, other in zip(found, expected, strict=True))
    assert training.returncode == 0


def test_it_learns_what_it_is_shown() -> None:
    learned = train([painting(seed) for seed in range(4)], CLASSES, None, replace(QUICK, epochs=15))
    assert evaluate(Segmenter(learned), [painting(9)], CLASSES).accuracy > 0.9

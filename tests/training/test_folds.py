"""Cross-validation finds how long to train, on real, tiny runs."""

from dataclasses import replace

import numpy as np

from underpaint_workers.dataset import Item
from underpaint_workers.folds import train_by_folds
from underpaint_workers.train_settings import TrainSettings
from underpaint_workers.training import Progress, train

QUICK = TrainSettings(epochs=10, min_steps=20, image_size=64, batch_size=2, device="cpu", threads=1, strategy="head")
CLASSES = ("sky", "sea")


def _painting(seed: int) -> Item:
    random = np.random.default_rng(seed)
    class_map = np.zeros((64, 64), np.uint8)
    class_map[random.integers(16, 48) :] = 1
    image = np.where(class_map[..., None] == 0, [180, 200, 230], [20, 60, 70]) + random.integers(-15, 15, (64, 64, 3))
    return image.astype(np.uint8), class_map


def test_every_painting_is_left_out_once_and_the_last_run_learns_from_all() -> None:
    told: list[Progress] = []
    items = [_painting(seed) for seed in range(3)]
    made = train_by_folds(items, CLASSES, None, replace(QUICK, folds=3), snapshot="abc", progress=told.append)
    starts = [each for each in told if each.step == 1]
    assert len(starts) == 4
    assert [each.validation_miou is not None for each in told if each.step == 20][:3] == [True] * 3
    assert made.card.settings["paintings"] == 3
    assert made.card.snapshot == "abc"
    best = made.card.settings["stop_after"]
    assert 0 < best <= 1
    assert made.card.settings["steps"] == round(best * 20)


def test_it_stops_where_the_folds_did_best() -> None:
    """At a rate of zero every look scores the same, and the longest of equals is taken."""
    items = [_painting(seed) for seed in range(2)]
    made = train_by_folds(items, CLASSES, None, replace(QUICK, lr=0.0, folds=5))
    assert made.card.settings["stop_after"] == 1
    assert made.weights == train(items, CLASSES, None, replace(QUICK, lr=0.0)).weights


def test_one_painting_cannot_be_folded() -> None:
    told: list[Progress] = []
    made = train_by_folds([_painting(0)], CLASSES, None, replace(QUICK, folds=3), progress=told.append)
    assert len(told) == made.card.settings["steps"] == 20
    assert all(each.validation_miou is None for each in told)

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from underpaint.checkpoints import Card, Checkpoint
from underpaint.segmenter.architecture import Architecture, build
from underpaint.segmenter.segmenter import Segmenter
from underpaint.taxonomy import corresponding
from underpaint_workers.evaluation import confusion_of, evaluate, metrics_of


def test_scores_of_a_map_worked_out_by_hand() -> None:
    labels = np.array([[0, 0, 0, 1], [1, 1, 255, 255]], np.uint8)
    predicted = np.array([[0, 0, 1, 1], [1, 3, 0, 2]], np.uint8)
    metrics = metrics_of(confusion_of(labels, predicted, 3), ("sky", "sea", "tree"), 1)
    assert metrics.confusion == [[2, 1, 0, 0], [0, 2, 0, 1], [0, 0, 0, 0]]
    assert metrics.per_class == {"sky": pytest.approx(2 / 3), "sea": pytest.approx(2 / 4), "tree": None}
    assert metrics.miou == pytest.approx((2 / 3 + 2 / 4) / 2)
    assert metrics.accuracy == pytest.approx(4 / 6)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32))
def test_scores_agree_with_their_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.choice(np.array([0, 1, 2, 255], np.uint8), (9, 9))
    predicted = random.integers(0, 3, (9, 9), np.uint8)
    metrics = metrics_of(confusion_of(labels, predicted, 3), ("a", "b", "c"), 1)
    known = labels != 255
    for index, name in enumerate("abc"):
        both = ((labels == index) & (predicted == index))[known].sum()
        either = ((labels == index) | (predicted == index))[known].sum()
        assert metrics.per_class[name] == (pytest.approx(both / either) if (labels == index).any() else None)
    assert metrics.accuracy == pytest.approx((labels == predicted)[known].mean() if known.any() else 0)


def test_nothing_labelled_scores_nothing() -> None:
    empty = np.full((2, 2), 255, np.uint8)
    metrics = metrics_of(confusion_of(empty, np.zeros((2, 2), np.uint8), 1), ("sky",), 1)
    assert (metrics.miou, metrics.accuracy, metrics.per_class) == (0.0, 0.0, {"sky": None})


@pytest.fixture(scope="module")
def sea_painter() -> Segmenter:
    """A net that calls everything `Sea`, by the bias of its head."""
    classes = ("Sky", "Sea", "bicycle")
    module = build(Architecture(encoder="resnet18", classes=classes))
    head = module.get_submodule("segmentation_head.0")
    with torch.no_grad():
        head.get_parameter("weight").zero_()
        head.get_parameter("bias").copy_(torch.tensor([0.0, 1.0, 0.0]))
    half = (0.5, 0.5, 0.5)
    card = Card(architecture="FPN", encoder="resnet18", classes=classes, image_size=64, mean=half, std=half)
    return Segmenter(Checkpoint.from_module(module, card))


def test_classes_are_matched_by_name(sea_painter: Segmenter) -> None:
    labels = np.full((64, 64), 255, np.uint8)
    labels[:10] = 0
    labels[10:40] = 1
    item = (np.zeros((64, 64, 3), np.uint8), labels)
    metrics = evaluate(sea_painter, [item, item], ("water", "sky"))
    assert metrics.per_class == {"water": pytest.approx(0.25), "sky": 0.0}
    assert metrics.accuracy == pytest.approx(0.25)
    assert metrics.paintings == 2
    assert json.loads(json.dumps(asdict(metrics))) == asdict(metrics)


def test_what_has_no_match_is_wrong(sea_painter: Segmenter) -> None:
    item = (np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8))
    metrics = evaluate(sea_painter, [item], ("tree",))
    assert metrics.confusion == [[0, 1024]]
    assert metrics.miou == metrics.accuracy == 0.0


@pytest.mark.parametrize(
    ("names", "others", "positions"),
    [
        (["sky"], ["sea", "sky"], [1]),
        (["Sky"], ["sky", "Sky"], [1]),
        (["SKY"], ["cloud", "sky"], [1]),
        (["Trees", "river"], ["water", "tree"], [1, 0]),
        (["bicycle"], ["sky"], [None]),
        (["sea", "lake"], ["lake", "sea"], [1, 0]),
        (["sea", "lake"], ["water"], [0, 0]),
        ([], ["sky"], []),
    ],
)
def test_the_likest_spelling_wins(names: list[str], others: list[str], positions: list[int | None]) -> None:
    assert corresponding(names, others) == positions

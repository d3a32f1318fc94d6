import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from underpaint.checkpoints import Card, Checkpoint
from underpaint.segmenter.architecture import Architecture, build
from underpaint.segmenter.segmenter import Segmenter
from underpaint.taxonomy import corresponding
from underpaint_workers.boundary import boundary_f1
from underpaint_workers.calibration import Calibration
from underpaint_workers.dataset import Item
from underpaint_workers.evaluation import (
    Metrics,
    confusion_of,
    evaluate,
    examine,
    iou_of,
    metrics_of,
    miou_of,
    tallies_of,
)


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


def test_confusions_of_several_paintings_are_scored_at_once() -> None:
    random = np.random.default_rng(0)
    confusions = random.integers(0, 9, (4, 5, 3, 4)) * random.integers(0, 2, (4, 5, 3, 1))
    scores = iou_of(tallies_of(confusions))
    assert scores.shape == (4, 5, 3)
    for index in np.ndindex(4, 5):
        one = metrics_of(confusions[index], ("a", "b", "c"), 1)
        assert [None if np.isnan(score) else score for score in scores[index]] == pytest.approx(
            [*one.per_class.values()]
        )
        assert miou_of(scores)[index] == pytest.approx(one.miou)
    assert (iou_of(tallies_of(confusions[0].sum(axis=0))) == iou_of(tallies_of(confusions[0]).sum(axis=0))).all()


def test_an_examination_keeps_what_each_painting_came_to(sea_painter: Segmenter) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (50, 70, 3), np.uint8)
    items = [(image, np.full((50, 70), label, np.uint8)) for label in (0, 1, 0)]
    found = examine(sea_painter, items, ("water", "tree"), 32)
    assert found.metrics == evaluate(sea_painter, items, ("water", "tree"))
    assert found.confusions.sum(axis=(1, 2)).tolist() == [3500] * 3
    assert found.confusions.sum(axis=0).tolist() == found.metrics.confusion
    assert [(each.shape, int(each.max())) for each in found.class_maps] == [((17, 23), 0)] * 3
    assert examine(sea_painter, [], ("water",), 32).confusions.shape == (0, 1, 2)


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
    # It is as sure of itself everywhere, and right in one labelled pixel of four.
    _, confidence = sea_painter.predict(item[0])
    assert np.ptp(confidence) <= 1
    assert metrics.calibration_error == pytest.approx(float(confidence.mean()) / 255 - 0.25, abs=1e-4)
    assert metrics.boundary_f1 == 0.0
    assert json.loads(json.dumps(asdict(metrics))) == asdict(metrics)


def test_each_painting_is_shown_with_its_own_scores(sea_painter: Segmenter) -> None:
    image, water, tree = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8), np.ones((32, 32), np.uint8)
    shown: list[tuple[Item, int, Metrics]] = []
    metrics = evaluate(
        sea_painter,
        [(image, water), (image, tree)],
        ("water", "tree"),
        seen=lambda item, predicted, own: shown.append((item, int(predicted[0, 0]), own)),
    )
    assert [(item[1] is each, predicted) for (item, predicted, _), each in zip(shown, (water, tree), strict=True)] == [
        (True, 0),
        (True, 0),
    ]
    assert [own.miou for _, _, own in shown] == [1.0, 0.0]
    assert metrics.miou == pytest.approx((1 / 2 + 0) / 2)
    assert metrics.boundary_f1 is None  # neither map has a boundary anywhere


def test_nothing_labelled_has_no_calibration(sea_painter: Segmenter) -> None:
    item = (np.zeros((32, 32, 3), np.uint8), np.full((32, 32), 255, np.uint8))
    metrics = evaluate(sea_painter, [item], ("water",))
    assert (metrics.miou, metrics.boundary_f1, metrics.calibration_error) == (0.0, None, None)


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


def halves(width: int, first: int = 0, second: int = 1) -> NDArray[np.uint8]:
    """A map 20 pixels wide whose first `width` columns are `first`."""
    class_map = np.full((10, 20), second, np.uint8)
    class_map[:, :width] = first
    return class_map


@pytest.mark.parametrize(("shift", "score"), [(0, 1.0), (1, 1.0), (2, 1.0), (-2, 1.0), (3, 0.0)])
def test_outlines_count_within_two_pixels(shift: int, score: float) -> None:
    assert boundary_f1(halves(10), halves(10 + shift), 2) == score


def test_an_outline_too_many_costs_precision_alone() -> None:
    predicted = halves(10)
    predicted[:, 3] = 1
    # Class 0 has 10 boundary pixels right and 20 wrong; class 1 has 10 right and 10 wrong.
    precise = (10 / 30, 10 / 20)
    assert boundary_f1(halves(10), predicted, 2) == pytest.approx(np.mean([2 * p / (p + 1) for p in precise]))


def test_a_class_without_an_outline_is_left_out_or_wrong() -> None:
    whole = np.zeros((10, 20), np.uint8)
    assert boundary_f1(whole, whole, 2) is None
    assert boundary_f1(whole, halves(10), 2) == 0.0
    assert boundary_f1(halves(10), whole, 2) == 0.0
    assert boundary_f1(np.full((10, 20), 255, np.uint8), halves(10), 2) is None


def test_where_unlabelled_pixels_hide_the_outline_none_is_asked_for() -> None:
    labels = halves(8)
    labels[:, 8:12] = 255
    for width in range(7, 14):  # in the gap, or its pixels within two of the gap's
        assert boundary_f1(labels, halves(width), 2) is None
    assert boundary_f1(labels, halves(4), 2) == 0.0


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 3]), st.booleans())
def test_boundary_f1_agrees_with_its_definition(seed: int, tolerance: int, gaps: bool) -> None:
    random = np.random.default_rng(seed)
    labels, predicted = (np.kron(random.integers(0, 3, (3, 4)), np.ones((5, 4))).astype(np.uint8) for _ in range(2))
    if gaps:
        labels[random.random(labels.shape) < 0.02] = 255
    found = boundary_f1(labels, predicted, 3, tolerance)
    wanted = [score for each in range(3) if (score := slow_f1(labels, predicted, each, tolerance)) is not None]
    assert found == (pytest.approx(np.mean(wanted)) if wanted else None)


def slow_f1(labels: NDArray[np.uint8], predicted: NDArray[np.uint8], each: int, tolerance: int) -> float | None:
    """Boundary F1 of one class, pixel by pixel."""
    if each not in labels:
        return None
    true, guess = outline(labels, each), outline(predicted, each)
    gaps = [(int(y), int(x)) for y, x in np.argwhere(labels == 255)]
    counted = [pixel for pixel in guess if not near(pixel, gaps, tolerance)]
    if not true and not counted:
        return None
    precision = np.mean([near(pixel, true, tolerance) for pixel in counted]) if counted else 1.0
    recall = np.mean([near(pixel, guess, tolerance) for pixel in true]) if true else 1.0
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def outline(class_map: NDArray[np.uint8], each: int) -> list[tuple[int, int]]:
    height, width = class_map.shape
    return [
        (y, x)
        for y, x in np.ndindex(height, width)
        if class_map[y, x] == each
        and any(
            0 <= v < height and 0 <= u < width and class_map[v, u] not in (each, 255)
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        )
    ]


def near(pixel: tuple[int, int], others: list[tuple[int, int]], tolerance: int) -> bool:
    return any((pixel[0] - y) ** 2 + (pixel[1] - x) ** 2 <= tolerance**2 for y, x in others)


def test_calibration_worked_out_by_hand() -> None:
    calibration = Calibration(bins=2)
    calibration.add(np.array([True, False]), np.array([0.25, 0.5], np.float32))  # bin one: half are right, 0.375 sure
    calibration.add(np.array([True, False]), np.array([0.75, 1.0], np.float32))  # bin two: half too, 0.875 sure
    assert calibration.error == pytest.approx(0.5 * 0.125 + 0.5 * 0.375)


def test_who_is_as_often_right_as_he_says_is_calibrated() -> None:
    random = np.random.default_rng(0)
    confidence = random.random(200_000).astype(np.float32)
    calibration = Calibration()
    calibration.add(random.random(200_000) < confidence, confidence)
    assert calibration.error < 0.005
    boaster = Calibration()
    boaster.add(random.random(200_000) < confidence / 2, confidence)
    assert boaster.error == pytest.approx(0.25, abs=0.01)
    assert Calibration().error == 0.0

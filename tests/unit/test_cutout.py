from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from conftest import DATA
from underpaint import base
from underpaint.labelstudio.geometry import Mask
from underpaint.labelstudio.label_config import Control, Label, Options
from underpaint.labelstudio.prompt import Prompt
from underpaint.segmenter.segmenter import Segmenter
from underpaint.serving.cutout import refine_region

SHAPE = HEIGHT, WIDTH = 120, 160
CLASSES = 3
BRUSH = Control("BrushLabels", "brush", "image", "image", (Label("Boat", ()),), Options())


def prompt(**parts: Any) -> Prompt:
    return Prompt("Boat", BRUSH, **parts)


def outline(left: float, top: float, right: float, bottom: float) -> NDArray[np.float64]:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)]) / (WIDTH, HEIGHT)


def disc(x: int, y: int, radius: int) -> Mask:
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


LEFT, RIGHT = disc(40, 60, 25), disc(120, 60, 25)


def painted(*masks: Mask) -> NDArray[np.uint8]:
    """(HEIGHT, WIDTH, 3): masks of one paint on another, both brushed on unevenly."""
    pixels = np.empty((*SHAPE, 3))
    pixels[:] = (90, 110, 150)
    for mask in masks:
        pixels[mask] = (170, 120, 80)
    pixels += np.random.default_rng(0).normal(0, 8, pixels.shape)
    return pixels.clip(0, 255).astype(np.uint8)


def clueless() -> NDArray[np.float32]:
    return np.full((CLASSES, *SHAPE), 1 / CLASSES, np.float32)


def sees(class_id: int, mask: Mask) -> NDArray[np.float32]:
    """Probabilities of a net that sees a class, a bit blurred, where `mask` is and class 0 elsewhere."""
    soft = 0.05 + 0.85 * cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 3)
    probabilities = np.full((CLASSES, *SHAPE), 0.05, np.float32)
    probabilities[class_id], probabilities[0] = soft, 0.95 - soft
    return probabilities


def iou(found: Mask, true: Mask) -> float:
    return float((found & true).sum() / (found | true).sum())


STROKE = np.zeros(SHAPE, bool)
STROKE[58:62, 25:55] = True
WAYS = [
    {"outlines": (outline(12, 32, 68, 88),)},
    {"positive": ((40 / WIDTH, 60 / HEIGHT),)},
    {"strokes": (STROKE,)},
]


@pytest.mark.parametrize("way", WAYS, ids=["rectangle", "point", "stroke"])
@pytest.mark.parametrize(
    ("probabilities", "class_ids"),
    [
        (sees(1, LEFT | RIGHT), (1,)),
        (sees(2, LEFT | RIGHT), (1,)),
        (sees(2, LEFT | RIGHT), ()),
        (clueless(), ()),
        (clueless(), (1,)),
    ],
    ids=["right", "mistaken", "unnamed", "clueless", "named but clueless"],
)
def test_finds_the_one_that_is_meant(
    probabilities: NDArray[np.float32], class_ids: tuple[int, ...], way: dict[str, Any]
) -> None:
    image = painted(LEFT, RIGHT)
    found = refine_region(probabilities, image, class_ids, prompt(**way))
    assert found.shape == SHAPE
    assert found.dtype == bool
    assert iou(found, LEFT) > 0.85
    assert np.array_equal(found, refine_region(probabilities, image, class_ids, prompt(**way)))


def test_classes_tell_what_colours_don_t() -> None:
    image = painted()
    found = refine_region(sees(1, LEFT), image, (1,), prompt(positive=((40 / WIDTH, 60 / HEIGHT),)))
    assert iou(found, LEFT) > 0.7


def test_a_negative_point_takes_away_what_is_nearer_to_it() -> None:
    whole = disc(60, 60, 25) | disc(100, 60, 25)
    image, probabilities = painted(whole), sees(1, whole)
    on, off = (55 / WIDTH, 60 / HEIGHT), (110 / WIDTH, 60 / HEIGHT)
    both = refine_region(probabilities, image, (1,), prompt(positive=(on,)))
    left = refine_region(probabilities, image, (1,), prompt(positive=(on,), negative=(off,)))
    assert iou(both, whole) > 0.8
    assert iou(left, whole & (np.arange(WIDTH) < 82)) > 0.7
    assert not left[:, 105:].any()


def test_nothing_beyond_the_outline_nor_apart_from_the_seeds() -> None:
    image, probabilities = painted(LEFT, RIGHT), sees(1, LEFT | RIGHT)
    area = prompt(outlines=(outline(0, 0, 40, HEIGHT),)).area(SHAPE)
    found = refine_region(probabilities, image, (1,), prompt(outlines=(outline(0, 0, 40, HEIGHT),)))
    assert area is not None
    assert not (found & ~area).any()
    assert iou(found, LEFT & area) > 0.85
    seeds = ((40 / WIDTH, 60 / HEIGHT), (120 / WIDTH, 60 / HEIGHT))
    assert iou(refine_region(probabilities, image, (1,), prompt(positive=seeds)), LEFT | RIGHT) > 0.85


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (7, 3), (500, 40)])
def test_any_size_and_flat_paint(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 128, np.uint8)
    probabilities = np.full((CLASSES, *size), 1 / CLASSES, np.float32)
    box = np.array([(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8)])
    tiny = box / 1000 + 0.5
    for asked in (prompt(positive=((0.5, 0.5),)), prompt(outlines=(box,)), prompt(outlines=(tiny,))):
        found = refine_region(probabilities, image, (), asked)
        assert found.shape == size
        area = asked.area(size)
        if area is None:
            assert found[size[0] // 2, size[1] // 2]
        else:
            assert not (found & ~area).any()
            assert found.any() == area.any()


def test_on_paintings_it_beats_what_was_drawn_and_what_was_predicted() -> None:
    if not DATA.exists():
        pytest.skip(f"no paintings at {DATA}")
    checkpoint = base.load()
    assert checkpoint is not None
    segmenter = Segmenter(checkpoint)
    scores: dict[str, list[float]] = {"drawn": [], "predicted": [], "found": [], "found though mistaken": []}
    for path in sorted((DATA / "monet/val/images").iterdir())[::4]:
        picture = np.asarray(Image.open(path))
        labels = np.asarray(Image.open(DATA / "monet/val/labels" / f"{path.stem}.png"))
        (probabilities,) = segmenter.probabilities([segmenter.prepare(picture)])
        size = probabilities.shape[2], probabilities.shape[1]
        image = cv2.resize(picture, size).astype(np.uint8)
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
        for class_id in range(len(segmenter.classes)):
            _, pieces, stats, _ = cv2.connectedComponentsWithStats((labels == class_id).astype(np.uint8))
            for number in 1 + np.flatnonzero((stats[1:, 4] > 0.02 * labels.size) & (stats[1:, 4] < 0.5 * labels.size)):
                left, top, width, height, _ = stats[number]
                corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
                asked = prompt(outlines=(np.array(corners) / size,))
                area, true = asked.area((size[1], size[0])), np.asarray(pieces == number)
                assert area is not None
                mistaken = probabilities.copy()
                mistaken[class_id] = 1e-3
                mistaken /= mistaken.sum(axis=0)
                scores["drawn"].append(iou(area, true))
                scores["predicted"].append(iou(area & (probabilities.argmax(axis=0) == class_id), true))
                scores["found"].append(iou(refine_region(probabilities, image, (class_id,), asked), true))
                scores["found though mistaken"].append(iou(refine_region(mistaken, image, (class_id,), asked), true))
    mean = {name: float(np.mean(values)) for name, values in scores.items()}
    assert len(scores["drawn"]) > 10
    assert mean["found"] > max(mean["drawn"], mean["predicted"]) + 0.1, mean
    assert mean["found though mistaken"] > mean["drawn"] + 0.03, mean

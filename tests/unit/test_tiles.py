from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from conftest import DATA
from underpaint.base import load
from underpaint.checkpoints import Card, Checkpoint
from underpaint.segmenter.architecture import Architecture, build
from underpaint.segmenter.segmenter import Segmenter, fit
from underpaint.segmenter.tiles import Tile, blend, tiles
from underpaint_workers.dataset import Dataset
from underpaint_workers.evaluation import confusion_of, metrics_of

CLASSES = ("sky", "sea")


@settings(deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), side=st.integers(4, 80).map(lambda half: 2 * half))
def test_tiles_cover_the_image_and_overlap_by_half(height: int, width: int, side: int) -> None:
    found = list(tiles(height, width, side))
    covered = np.zeros((height, width), bool)
    for rows, columns in found:
        covered[rows, columns] = True
        for each, length in ((rows, height), (columns, width)):
            assert each.stop - each.start == min(side, length)
            assert each.start % 2 == 0 or each.stop == length
    assert covered.all()
    for axis in (0, 1):
        starts = sorted({tile[axis].start for tile in found})
        assert all(after - before <= side // 2 + 1 for before, after in pairwise(starts))


def distribution(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.manual_seed(seed)).mul(3).softmax(dim=0)


def cut(view: Tensor, side: int) -> list[tuple[Tile, Tensor]]:
    """Tiles of a view that all see what it sees."""
    return [(place, view[:, place[0], place[1]]) for place in tiles(view.shape[1], view.shape[2], side)]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_tiles_that_see_the_same_change_nothing(share: float) -> None:
    view = distribution(4, 30, 50)
    torch.testing.assert_close(blend(view, cut(view, 16), share), view, atol=1e-5, rtol=0)


def test_the_share_weighs_between_the_whole_and_the_tiles() -> None:
    whole, finer = distribution(4, 30, 50), distribution(4, 30, 50, seed=1)
    torch.testing.assert_close(blend(whole, cut(finer, 16), 1), finer, atol=1e-5, rtol=0)
    half = blend(whole, cut(finer, 16), 0.5)
    torch.testing.assert_close(half.sum(dim=0), torch.ones(30, 50))
    torch.testing.assert_close(half, (whole * finer).sqrt() / (whole * finer).sqrt().sum(dim=0), atol=1e-5, rtol=0)


def test_tiles_that_disagree_are_joined_without_seams() -> None:
    """Where one says sky and the next says sea, one passes into the other smoothly."""
    whole = torch.full((2, 20, 96), 0.5)
    parts = [
        (place, torch.tensor([0.9, 0.1] if index % 2 else [0.1, 0.9])[:, None, None].expand(2, 20, 20))
        for index, place in enumerate(tiles(20, 96, 20))
    ]
    sky = blend(whole, parts, 1)[0]
    assert np.ptp(sky.numpy()) > 0.5
    assert sky.diff(dim=1).abs().max() < 0.25


def test_certainty_of_nothing_is_no_nan() -> None:
    sure = torch.stack([torch.ones(8, 8), torch.zeros(8, 8)])
    assert torch.equal(blend(sure, cut(sure.flip(0), 4), 0.4).argmax(dim=0), torch.zeros(8, 8, dtype=torch.long))


@pytest.mark.parametrize("size", [(150, 200), (201, 77), (200, 3)])
def test_a_large_image_is_looked_at_in_tiles(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    monkeypatch.setattr("underpaint.segmenter.segmenter._LARGE", 199)
    architecture = Architecture(encoder="resnet18", classes=CLASSES)
    half = (0.5, 0.5, 0.5)
    card = Card(architecture="FPN", encoder="resnet18", classes=CLASSES, image_size=64, mean=half, std=half)
    segmenter = Segmenter(Checkpoint.from_module(build(architecture), card))
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    prepared = segmenter.prepare(image)
    assert max(prepared.shape) == 128
    class_map, confidence = segmenter.predict(image)
    assert class_map.shape == confidence.shape == size
    [found] = segmenter.probabilities([prepared])
    assert found.shape == (2, *prepared.shape[:2])
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    # An answer among others is the answer alone.
    small = segmenter.prepare(image[:60, :60])
    for one, alone in zip(segmenter.probabilities([small, prepared, small]), (small, prepared, small), strict=True):
        np.testing.assert_array_equal(one, segmenter.probabilities([alone])[0])


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data at {DATA}")
def test_enlarged_paintings_are_seen_no_worse_in_tiles() -> None:
    base = load()
    if base is None:
        pytest.skip("this checkout has no base segmenter yet; `make base` makes it")
    segmenter = Segmenter(base)
    data = Dataset.open(DATA / "monet" / "val")
    count = len(data.classes)
    plain, tiled = np.zeros((2, count, count + 1), np.int64)
    for name in data.names[:4]:
        image, labels = data.load(name)
        enlarged = fit(image, 2 * base.card.image_size)
        plain += confusion_of(labels, segmenter.predict(image)[0], count)
        tiled += confusion_of(labels, segmenter.segment([enlarged], [(labels.shape[0], labels.shape[1])])[0][0], count)
    assert metrics_of(tiled, data.classes, 4).miou > metrics_of(plain, data.classes, 4).miou - 0.003

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from conftest import DATA
from underpaint.segmenter.refinement import CELL, refine, refine_in_torch
from underpaint_workers.dataset import Dataset


def halves(height: int, width: int, edge: int, sharpness: float = 100) -> Tensor:
    """Probabilities (1, 2, height, width) of a class left of `edge` and one right of it."""
    right = torch.sigmoid((torch.arange(width) + 0.5 - edge) * sharpness).expand(height, width)
    return torch.stack([1 - right, right])[None].contiguous()


def step(height: int, width: int, edge: int) -> Tensor:
    """A picture (1, 3, height, width): dark red left of `edge`, light blue right of it, with a little texture."""
    right = (torch.arange(width) >= edge).float().expand(height, width)
    colours = torch.tensor([[0.3, 0.1, 0.1], [0.6, 0.7, 0.9]])
    picture = torch.lerp(colours[0].view(3, 1, 1), colours[1].view(3, 1, 1), right)
    return (picture + 0.02 * torch.randn(picture.shape, generator=torch.manual_seed(0)))[None]


def refine_pixels(probabilities: Tensor, pictures: Tensor) -> Tensor:
    """``refine`` of what is given pixel by pixel."""
    cells = refine(*(functional.avg_pool2d(each, CELL) for each in (probabilities, pictures)))
    return functional.interpolate(cells, probabilities.shape[2:], mode="bilinear")


def boundary(probabilities: Tensor) -> Tensor:
    """Where each row passes from the left class to the right one."""
    return (probabilities.argmax(dim=1)[0] == 0).sum(dim=1)


@pytest.mark.parametrize("edge", [40, 61, 64, 66, 91])
@pytest.mark.parametrize("off", [-5, -2, 3, 5])
def test_a_blurred_boundary_moves_to_the_edge(edge: int, off: int) -> None:
    blurred = halves(96, 128, edge + off, sharpness=0.3)
    assert ((boundary(blurred) - edge).abs() > 1).all()
    refined = refine_pixels(blurred, step(96, 128, edge))
    assert ((boundary(refined) - edge).abs() <= 1).all()


def test_a_painting_of_one_colour_keeps_its_boundary() -> None:
    before = halves(80, 128, 64, sharpness=0.3)
    assert torch.equal(refine_pixels(before, torch.full((1, 3, 80, 128), 0.4)).argmax(dim=1), before.argmax(dim=1))


def test_speckles_within_a_stroke_go() -> None:
    before = halves(96, 128, 64)
    speckled = before.clone()
    speckled[:, :, 40:46, 20:26] = before[:, :, 40:46, 20:26].flip(1)
    refined = refine_pixels(speckled, step(96, 128, 64))
    assert torch.equal(refined.argmax(dim=1), before.argmax(dim=1))


def test_a_small_thing_of_its_own_colour_stays() -> None:
    boat = torch.zeros(96, 128)
    boat[50:58, 70:82] = 1
    picture = 0.3 + 0.4 * boat + 0.02 * torch.randn(3, 96, 128, generator=torch.manual_seed(0))
    before = torch.stack([0.8 - 0.6 * boat, 0.2 + 0.6 * boat])[None]
    after = refine_pixels(before, picture[None]).argmax(dim=1)[0]
    assert (after * boat).sum() / torch.maximum(after, boat).sum() > 0.85


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    classes=st.integers(1, 5),
    channels=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_any_size_keeps_probabilities(size: tuple[int, int], classes: int, channels: int, seed: int) -> None:
    generator = torch.manual_seed(seed)
    before = torch.randn(1, classes, *size, generator=generator).mul(4).softmax(dim=1)
    picture = torch.randn(1, channels, *size, generator=generator)
    refined = refine(before, picture)
    torch.testing.assert_close(refined, refine_in_torch(before, picture), atol=1e-5, rtol=0)
    assert refined.shape == before.shape
    assert refined.dtype == torch.float32
    assert (refined >= 0).all()
    torch.testing.assert_close(refined.sum(dim=1), torch.ones(1, *size))


def test_units_of_the_picture_do_not_count() -> None:
    """Elevations in metres refine as pixels do."""
    before, picture = halves(64, 64, 30, sharpness=0.3), step(64, 64, 34)
    torch.testing.assert_close(refine(before, 500 * picture + 2000), refine(before, picture), atol=1e-3, rtol=0)


def test_equal_pictures_refine_equally_whatever_is_in_the_batch() -> None:
    pictures = torch.cat([step(50, 70, 30), step(50, 70, 44)])
    before = torch.cat([halves(50, 70, 33, 0.3), halves(50, 70, 40, 0.3)])
    together = refine(before, pictures)
    assert torch.equal(together, refine(before, pictures))
    for index in range(2):
        alone = refine(before[index : index + 1], pictures[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone)


def test_hard_edges_take_no_longer_than_soft_ones() -> None:
    sure = torch.full((1, 9, 128, 160), 1e-36)
    sure[:, 0] = 1
    edges = step(128, 160, 80)
    soft = torch.randn(1, 3, 128, 160, generator=torch.manual_seed(0))
    # Weights and probabilities too small for a normal float take a core many times as long.
    assert _milliseconds(sure, edges) < 1.6 * _milliseconds(torch.full((1, 9, 128, 160), 1 / 9), soft)


def _milliseconds(probabilities: Tensor, pictures: Tensor) -> float:
    taken = []
    for _ in range(12):
        started = time.thread_time()
        refine(probabilities, pictures)
        taken.append(1000 * (time.thread_time() - started))
    return min(taken)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data at {DATA}")
def test_unsure_labels_of_real_paintings_get_nearer_to_the_truth() -> None:
    data = Dataset.open(DATA / "monet" / "val")
    generator = torch.manual_seed(0)
    wrong = {"before": 0, "after": 0}
    for name in data.names[:3]:
        image, label = data.load(name)
        truth = torch.from_numpy(label).long()
        labelled = truth != 255
        cells = functional.one_hot(truth.where(labelled, 0), len(data.classes)).permute(2, 0, 1)[None].float()
        coarse = functional.avg_pool2d(cells, 16)
        unsure = 0.5 * coarse + 0.5 * torch.randn(coarse.shape, generator=generator).mul(2).softmax(dim=1)
        before = functional.interpolate(unsure, truth.shape, mode="bilinear")
        picture = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        after = refine_pixels(before, picture)
        for key, probabilities in (("before", before), ("after", after)):
            wrong[key] += int(((probabilities.argmax(dim=1)[0] != truth) & labelled).sum())
    assert wrong["after"] < 0.8 * wrong["before"], wrong

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from underpaint_workers.mixing import classmix


def batch(seed: int, count: int = 3, classes: int = 5, size: int = 40) -> tuple[Tensor, Tensor]:
    """Images whose pixels say which image and which class they are of, and maps in blocks with unlabelled ones."""
    random = np.random.default_rng(seed)
    ids = random.integers(0, classes + 1, (count, size // 8, size // 8)).repeat(8, axis=1).repeat(8, axis=2)
    images = np.stack([ids, np.arange(count)[:, None, None] + np.zeros_like(ids), np.zeros_like(ids)], axis=1)
    return torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(
        np.where(ids == classes, 255, ids).astype(np.uint8)
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_labels_are_pasted_with_their_pixels(seed: int, count: int) -> None:
    images, class_maps = batch(seed, count)
    mixed, ids = classmix(images, class_maps, np.random.default_rng(seed))
    assert torch.equal(torch.where(mixed[:, 0] == 5, 255, mixed[:, 0]), ids)
    for index in range(count):
        assert set(mixed[index, 1].flatten().tolist()) <= {index, (index + 1) % count}


def test_half_of_the_next_ones_classes_are_pasted_whole() -> None:
    images, class_maps = batch(0, count=2, classes=4, size=64)
    mixed, ids = classmix(images, class_maps, np.random.default_rng(0))
    for index in range(2):
        pasted = mixed[index, 1] == 1 - index
        chosen = set(class_maps[1 - index][pasted].tolist())
        assert len(chosen) == 2
        assert torch.equal(pasted, torch.isin(class_maps[1 - index], torch.tensor([*chosen])))
        assert torch.equal(ids[index][~pasted], class_maps[index][~pasted])


def test_a_next_one_of_a_single_class_covers_nothing() -> None:
    images, class_maps = batch(1, count=2)
    class_maps[1] = 2
    class_maps[1, :3] = 255
    mixed, ids = classmix(images, class_maps, np.random.default_rng(0))
    assert torch.equal(mixed[0], images[0])
    assert torch.equal(ids[0], class_maps[0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_a_single_image_and_any_dtype_are_fine(dtype: torch.dtype) -> None:
    images, class_maps = batch(2, count=3)
    images = images.to(dtype)
    before = images.clone(), class_maps.clone()
    generator = np.random.default_rng(0)
    assert classmix(images, class_maps, generator)[0].dtype == dtype
    alone = classmix(images[:1], class_maps[:1], generator)
    assert torch.equal(alone[0].float(), images[:1].float())
    assert torch.equal(before[0].float(), images.float())
    assert torch.equal(before[1], class_maps)

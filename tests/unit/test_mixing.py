import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from underpaint_workers.mixing import classmix, paste_things


def batch(seed: int, count: int = 3, classes: int = 5, size: int = 40) -> tuple[Tensor, Tensor]:
    """Images whose pixels say which image and which class they are of, and maps in blocks with unlabelled ones."""
    random = np.random.default_rng(seed)
    ids = random.integers(0, classes + 1, (count, size // 8, size // 8)).repeat(8, axis=1).repeat(8, axis=2)
    images = np.stack([ids, np.arange(count)[:, None, None] + np.zeros_like(ids), np.zeros_like(ids)], axis=1)
    return torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(
        np.where(ids == classes, 255, ids).astype(np.uint8)
    )


def paste_most(images: Tensor, class_maps: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    return paste_things(images, class_maps, range(3), generator, share=0.5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_labels_are_pasted_with_their_pixels(seed: int, count: int) -> None:
    images, class_maps = batch(seed, count)
    for mix in (classmix, paste_most):
        mixed, ids = mix(images, class_maps, np.random.default_rng(seed))
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
    for mix in (classmix, paste_most):
        assert mix(images, class_maps, generator)[0].dtype == dtype
        alone = mix(images[:1], class_maps[:1], generator)
        assert torch.equal(alone[0].float(), images[:1].float())
    assert torch.equal(before[0].float(), images.float())
    assert torch.equal(before[1], class_maps)


def scene() -> tuple[Tensor, Tensor]:
    """An empty sea, and one with a large ship (3), a boat (3), a crumb of a boat (3) and a man (4)."""
    class_maps = torch.zeros(2, 100, 100, dtype=torch.uint8)
    class_maps[1, 50:90, 10:60] = 3
    class_maps[1, 20:28, 70:80] = 3
    class_maps[1, 5:7, 5:7] = 3
    class_maps[1, 92:100, 95:100] = 4
    return class_maps[:, None].repeat(1, 3, 1, 1) * 50, class_maps


def test_small_things_are_pasted_near_their_place() -> None:
    images, class_maps = scene()
    places = set()
    for seed in range(20):
        mixed, ids = paste_things(images, class_maps, [3], np.random.default_rng(seed))
        assert torch.equal(mixed[:, 0], ids * 50)
        assert torch.equal(ids[1], class_maps[1])
        rows, columns = torch.nonzero(ids[0] == 3, as_tuple=True)
        assert len(rows) == 80  # the boat alone: the ship is too large, the crumb too small
        top, left = int(rows.min()), int(columns.min())
        assert abs(top - 20) <= 10
        assert abs(left - 70) <= 10
        places.add((top, left))
    assert len(places) > 10


def test_things_at_the_border_stay_whole() -> None:
    images, class_maps = scene()
    for seed in range(20):
        _, ids = paste_things(images, class_maps, [4], np.random.default_rng(seed), jitter=0.3)
        assert (ids[0] == 4).sum() == 40


def test_sometimes_one_thing_is_pasted_and_sometimes_all() -> None:
    images, class_maps = scene()
    counts = {
        len(set(paste_things(images, class_maps, [3, 4], np.random.default_rng(seed))[1][0].flatten().tolist())) - 1
        for seed in range(20)
    }
    assert counts == {1, 2}

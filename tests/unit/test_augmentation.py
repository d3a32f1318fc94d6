from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from conftest import DATA
from underpaint.taxonomy import UNLABELLED
from underpaint_workers.augmentation import SCALES, Augmentation, shrink
from underpaint_workers.augmentation_sheet import sheet
from underpaint_workers.dataset import Dataset, write_classes, write_item
from underpaint_workers.texture import canvas, paper, texture

OFF = Augmentation.off(64)
GEOMETRY = replace(OFF, scales=SCALES, p_flip=0.5, p_affine=1.0)
SHAPES = st.tuples(st.integers(20, 300), st.integers(20, 300))


def tensors(image: NDArray[Any], class_map: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(class_map)


def ramp(height: int, width: int) -> NDArray[np.float32]:
    """A raster whose pixels say in which row and column they are; interpolation keeps that to the fraction."""
    return np.asarray(np.moveaxis(np.indices((height, width)), 0, -1), np.float32)


def is_uniform(class_map: NDArray[np.uint8], reach: int) -> NDArray[np.bool_]:
    """Where all pixels in a square around have the same class, as far as the crop shows it."""
    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    uniform = np.asarray(cv2.erode(class_map, square) == cv2.dilate(class_map, square))
    return np.pad(uniform[reach:-reach, reach:-reach], reach)


def picture(height: int = 64, width: int = 64) -> NDArray[np.uint8]:
    """Colours all over the gamut, in soft blots."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(0, 10**6), st.integers(2, 9))
def test_labels_move_with_the_pixels_to_the_pixel(shape: tuple[int, int], seed: int, cell: int) -> None:
    """Wherever a varied pixel comes from, its label is the one from there: to a sixteenth of a varied pixel."""
    rows, columns = np.indices(shape)
    ids = ((rows // cell * 3 + columns // cell) % 9).astype(np.uint8)
    varied, class_map = GEOMETRY(*tensors(ramp(*shape), ids), np.random.default_rng(seed))
    nearest = np.rint(varied.numpy()).astype(int)
    largest = max(*shape, 64) / 64 / SCALES[0]  # what a varied pixel covers, in pixels of the painting
    certain = np.abs(varied.numpy() - nearest) < 0.5 - largest / 16
    # Off the edge the raster goes on, and labels don't.
    edge = 2 * largest
    within = (nearest > edge) & (nearest < np.reshape(shape, (2, 1, 1)) - 1 - edge)
    known = (certain & within).all(axis=0)
    assert np.array_equal(class_map.numpy()[known], ids[nearest[0][known], nearest[1][known]])


@settings(max_examples=30, deadline=None)
@given(SHAPES, st.integers(0, 10**6))
def test_a_painted_class_map_still_tells_its_classes(shape: tuple[int, int], seed: int) -> None:
    ids = (np.indices(shape).sum(axis=0) // 40 % 3).astype(np.uint8)
    colours = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250]], np.uint8)
    varied, class_map = GEOMETRY(*tensors(colours[ids], ids), np.random.default_rng(seed))
    blended = 1 + int(64 / max(shape) * SCALES[1])  # how far interpolation reaches, in varied pixels
    near, far = (is_uniform(class_map.numpy(), reach) for reach in (blended, blended + 1))
    labelled = near & (class_map.numpy() != UNLABELLED)
    assert np.array_equal(varied.numpy().argmax(axis=0)[labelled], class_map.numpy()[labelled])
    assert (varied.numpy()[:, far & (class_map.numpy() == UNLABELLED)] == 128).all()


def test_a_flip_moves_every_pixel_exactly() -> None:
    image, ids = picture(), np.random.default_rng(1).integers(0, 9, (64, 64)).astype(np.uint8)
    varied, class_map = replace(OFF, p_flip=1.0)(*tensors(image, ids))
    assert np.array_equal(varied.permute(1, 2, 0).numpy(), image[:, ::-1])
    assert np.array_equal(class_map.numpy(), ids[:, ::-1])


def test_nothing_on_changes_nothing() -> None:
    image, ids = picture(), np.zeros((64, 64), np.uint8)
    varied, class_map = OFF(*tensors(image, ids))
    assert np.array_equal(varied.permute(1, 2, 0).numpy(), image)
    assert not class_map.any()


def test_what_lies_outside_is_unlabelled() -> None:
    _, class_map = replace(OFF, scales=(0.5, 0.5))(*tensors(picture(), np.zeros((64, 64), np.uint8)))
    assert (class_map == 0).sum() == 32 * 32
    assert (class_map == UNLABELLED).sum() == 64 * 64 - 32 * 32


@settings(max_examples=50, deadline=None)
@given(SHAPES, st.integers(0, 10**6), st.floats(0, 0.999), st.floats(0, 0.999))
def test_the_crop_has_the_pixel_asked_for(shape: tuple[int, int], seed: int, down: float, right: float) -> None:
    row, column = int(down * shape[0]), int(right * shape[1])
    ids = np.zeros(shape, np.uint8)
    reach = 2 + max(shape) // 32  # two varied pixels: one that nothing can step over, however it is turned
    around = slice(max(row - reach, 0), row + reach + 1), slice(max(column - reach, 0), column + reach + 1)
    ids[around] = 1
    augment = replace(GEOMETRY, scales=(1.0, 2.0))
    _, class_map = augment(*tensors(ramp(*shape), ids), np.random.default_rng(seed), (row, column))
    assert (class_map == 1).any()


def test_scales_span_their_range() -> None:
    ids = np.zeros((64, 64), np.uint8)
    rng = np.random.default_rng(0)
    augment = replace(OFF, scales=(0.5, 1.0))
    sides = [int((augment(*tensors(picture(), ids), rng)[1] == 0).sum()) ** 0.5 for _ in range(99)]
    assert min(sides) < 34
    assert max(sides) > 62
    assert np.median(sides) == pytest.approx(64 * 0.5**0.5, abs=4)


def test_fine_grain_is_averaged_when_shrunk() -> None:
    """A quarter of the size averages 16 pixels, which leaves a quarter of the deviation; interpolation takes four."""
    grain = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    varied, _ = OFF(*tensors(grain, np.zeros((256, 256), np.uint8)))
    assert varied.float().std() == pytest.approx(grain.std() / 4, rel=0.05)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_raster_can_be_varied(dtype: DTypeLike, channels: int) -> None:
    image = (np.random.default_rng(0).random((50, 90, channels)) * 250).astype(dtype)
    augment = replace(Augmentation(64), p_blur=1.0)
    varied, class_map = augment(*tensors(image, np.zeros((50, 90), np.uint8)), np.random.default_rng(0))
    assert varied.shape == (channels, 64, 64)
    assert varied.numpy().dtype == dtype
    assert class_map.dtype == torch.uint8


def test_a_rasters_light_varies_channel_by_channel_within_its_range() -> None:
    image = np.stack([np.tile(np.linspace(low, high, 64), (64, 1)) for low, high in ((0, 65535), (100, 200))], axis=-1)
    augment = replace(OFF, p_brightness=1.0, p_contrast=1.0)
    item = tensors(image.astype(np.uint16), np.zeros((64, 64), np.uint8))
    varied = [augment(*item, np.random.default_rng(seed))[0].numpy().astype(float) for seed in range(30)]
    wide, narrow = np.array([each[0].mean() for each in varied]), np.array([each[1].std() for each in varied])
    assert 2000 < wide.std() < 20000
    assert 0.55 < narrow.min() / image[..., 1].std() < 0.75
    assert 1.25 < narrow.max() / image[..., 1].std() < 1.45
    assert all(each.min() >= 0 and each.max() <= 65535 for each in varied)


def test_no_data_stays_no_data_and_spoils_no_more_than_its_neighbours() -> None:
    image = np.random.default_rng(0).normal(500, 10, (64, 64, 1)).astype(np.float32)
    image[10:20, 10:20] = np.nan
    augment = replace(OFF, p_brightness=1.0, p_contrast=1.0)
    varied, _ = augment(*tensors(image, np.zeros((64, 64), np.uint8)), np.random.default_rng(0))
    missing = np.isnan(image[..., 0])
    neighbours = cv2.dilate(missing.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert np.isnan(varied[0].numpy())[missing].all()
    assert np.isfinite(varied[0].numpy())[~neighbours].all()
    empty, _ = augment(*tensors(np.full_like(image, np.nan), np.zeros((64, 64), np.uint8)))
    assert torch.isnan(empty).all()


def recoloured(seed: int, **fields: float) -> NDArray[np.float64]:
    """A soft picture after some changes of colour, float64 (64, 64, 3)."""
    soft = picture() // 2 + 64
    augment = replace(OFF, **fields)  # type: ignore[arg-type]
    varied, _ = augment(*tensors(soft, np.zeros((64, 64), np.uint8)), np.random.default_rng(seed))
    return varied.permute(1, 2, 0).numpy().astype(float)


PLAIN = recoloured(0)


def chroma(image: NDArray[np.float64]) -> NDArray[np.float64]:
    return image - (image @ [0.299, 0.587, 0.114])[..., None]


@pytest.mark.parametrize("seed", range(5))
def test_each_change_of_colour_does_what_its_name_says(seed: int) -> None:
    bright = recoloured(seed, p_brightness=1.0)
    factor = bright.mean() / PLAIN.mean()
    assert 0.6 <= factor <= 1.4
    assert np.abs(bright - (PLAIN * factor).clip(0, 255)).max() < 2
    contrast = recoloured(seed, p_contrast=1.0)
    assert (contrast @ [0.299, 0.587, 0.114]).mean() == pytest.approx((PLAIN @ [0.299, 0.587, 0.114]).mean(), abs=2)
    assert 0.55 < contrast.std() / PLAIN.std() < 1.45
    for fields in ({"p_saturation": 1.0}, {"p_hue": 1.0}):
        same_luma = recoloured(seed, **fields)
        assert np.abs((same_luma - PLAIN) @ [0.299, 0.587, 0.114]).mean() < 1
        assert np.abs(same_luma - PLAIN).mean() > 0.2
    ratio = np.linalg.norm(chroma(recoloured(seed, p_saturation=1.0))) / np.linalg.norm(chroma(PLAIN))
    assert 0.55 < ratio < 1.45
    assert np.ptp(recoloured(seed, p_grey=1.0), axis=2).max() <= 1
    cast = recoloured(seed, p_palette=1.0) - PLAIN
    assert np.abs(cast @ [0.299, 0.587, 0.114]).mean() < 1.5
    assert np.abs(cast.mean(axis=(0, 1))).max() > 0.3
    assert recoloured(seed, p_blur=1.0).std() < PLAIN.std()
    grain = recoloured(seed, p_texture=1.0) - PLAIN
    assert abs(grain.mean()) < 3
    assert 1 < grain.std() < 15


def test_hue_turns_the_way_it_says() -> None:
    """A turn of half a circle makes colours of the same luma into their opposites."""
    augment = replace(OFF, p_hue=1.0, hue=0.5)
    image = np.full((64, 64, 3), (150, 120, 120), np.uint8)
    seen = [augment(*tensors(image, np.zeros((64, 64), np.uint8)), np.random.default_rng(s))[0] for s in range(40)]
    assert any(each[0, 0, 0] < each[1, 0, 0] - 5 for each in seen)
    assert all((each.float()[:, 0, 0] @ torch.tensor([0.299, 0.587, 0.114]) - 129).abs() < 1.5 for each in seen)


@pytest.mark.parametrize("grain", [canvas, paper])
def test_grain_is_standardised_fine_and_never_the_same(grain: Any) -> None:
    fields = [grain(96, 128, np.random.default_rng(seed)) for seed in range(5)]
    for field in fields:
        assert field.shape == (96, 128)
        assert field.dtype == np.float32
        assert field.mean() == pytest.approx(0, abs=1e-3)
        assert field.std() == pytest.approx(1, abs=1e-3)
    assert np.abs(fields[0] - fields[1]).mean() > 0.1


def test_texture_keeps_black_and_saturates() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[16:] = 255
    textured = texture(image, 0.1, np.random.default_rng(0))
    assert not textured[:16].any()
    assert textured[16:].min() < 255
    assert textured[16:].max() == 255


def test_equal_generators_give_equal_variations() -> None:
    augment = replace(Augmentation(64), p_texture=1.0, p_blur=1.0)
    item = tensors(picture(80, 100), np.random.default_rng(0).integers(0, 9, (80, 100)).astype(np.uint8))
    one, two, other = (augment(*item, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], other[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_raster_can_be_shrunk(dtype: DTypeLike, channels: int) -> None:
    image = (ramp(90, 120)[..., :1] + np.zeros(channels)).astype(dtype)
    ids = (ramp(90, 120)[..., 0] // 45).astype(np.uint8)
    smaller, class_map = shrink((image, ids), 40)
    assert smaller.shape == (30, 40, channels)
    assert smaller.dtype == dtype
    assert smaller[:, 0, 0] == pytest.approx(np.arange(30) * 3 + 1, abs=1)
    assert np.array_equal(class_map, np.repeat([[0], [1]], 15, axis=0) + np.zeros((1, 40)))
    assert shrink((image, ids), 120)[0] is image


def test_a_sheet_shows_paintings_and_their_variations(tmp_path: Any) -> None:
    for seed in range(3):
        write_item(tmp_path, f"p{seed}", picture(40, 60), np.full((40, 60), seed % 2, np.uint8))
    write_classes(tmp_path, ["sky", "boat"])
    made = sheet(Dataset.open(tmp_path), 2, 3, 32, np.random.default_rng(0))
    assert made.shape == (2 * 2 * 32, 4 * 32, 3)
    assert made.dtype == np.uint8


@pytest.mark.skipif(not (DATA / "monet").exists(), reason=f"needs the paintings in {DATA / 'monet'}")
def test_real_paintings_keep_their_classes_recognisable() -> None:
    """By the mean colour of its class, a pixel of a varied painting still is nearest to its own class more often."""
    data = Dataset.open(DATA / "monet" / "train")
    rng = np.random.default_rng(0)
    closer = []
    for name in data.names[:10]:
        image, ids = data.load(name)
        varied, class_map = Augmentation(256)(*tensors(image, ids), rng)
        pixels, labels = varied.permute(1, 2, 0).numpy()[::4, ::4].astype(float), class_map.numpy()[::4, ::4]
        present = [label for label in np.unique(labels) if label != UNLABELLED]
        if len(present) < 2:
            continue
        means = np.array([pixels[labels == label].mean(axis=0) for label in present])
        distance = np.linalg.norm(pixels[:, :, None] - means, axis=-1)
        told = np.array(present)[distance.argmin(axis=-1)]
        closer.append((told == labels)[labels != UNLABELLED].mean() - 1 / len(present))
    assert np.mean(closer) > 0.1

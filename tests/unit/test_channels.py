import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from underpaint.segmenter.channels import Image, conform, full_scale, normalise, statistics


@pytest.mark.parametrize(("dtype", "unit"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_full_scale_is_one(dtype: type[np.generic], unit: float) -> None:
    assert full_scale(np.dtype(dtype)) == full_scale(torch.from_numpy(np.zeros(1, dtype)).dtype) == unit
    image = torch.from_numpy(np.full((2, 3, 4, 5), unit, dtype))
    normalised = normalise(image, (0.5, 0.0, 1.0), (0.5, 2.0, 1.0))
    assert normalised.dtype == torch.float32
    for channel, expected in enumerate((1.0, 0.5, 0.0)):
        torch.testing.assert_close(normalised[:, channel], torch.full((2, 4, 5), expected))


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8, uint16, float32, not int32: convert"):
        full_scale(torch.int32)


def test_no_data_becomes_the_mean() -> None:
    heights = torch.tensor([[100.0, torch.nan, torch.inf, -torch.inf, 110.0]])[None]
    assert normalise(heights, (100.0,), (10.0,)).tolist() == [[[0.0, 0.0, 0.0, 0.0, 1.0]]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_grey_and_rgb_are_made_into_each_other(dtype: type[np.generic]) -> None:
    grey = np.arange(1, 7).reshape(2, 3).astype(dtype)
    for image in (grey, grey[..., None]):
        rgb = conform(image, 3)
        assert rgb.shape == (2, 3, 3)
        assert rgb.dtype == dtype
        assert all((rgb[..., channel] == grey).all() for channel in range(3))
        np.testing.assert_allclose(conform(rgb, 1)[..., 0], grey, rtol=1e-6)
    red = np.zeros((1, 1, 3), dtype)
    red[..., 0] = 200
    assert float(conform(red, 1)[0, 0, 0]) == pytest.approx(0.299 * 200, abs=0.5)
    assert conform(red[:, ::-1], 1).shape == (1, 1, 1)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 2, 4), np.uint8), "has 4 channels, and this segmenter sees 3: .*classes.json says 4"),
        (np.zeros((2, 2, 2), np.uint8), "has 2 channels"),
        (np.zeros((2, 0, 3), np.uint8), "with pixels"),
        (np.zeros((1, 2, 2, 3), np.uint8), "with pixels"),
        (np.zeros((2, 2, 3), np.float64), "not float64: convert"),
        (np.zeros((2, 2, 3), bool), "not bool: convert"),
    ],
)
def test_what_cannot_be_seen_is_refused(image: Image, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conform(image, 3)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    offset=st.sampled_from([0.0, 100.0, 8000.0]),
    missing=st.floats(0, 0.9),
)
def test_statistics_are_those_of_all_known_pixels(
    seed: int, sizes: list[tuple[int, int]], offset: float, missing: float
) -> None:
    random = np.random.default_rng(seed)
    images = [np.asarray(random.normal(offset, 3, (*size, 2)), np.float32) for size in sizes]
    for image in images:
        image[random.random(image.shape) < missing] = np.nan
    pixels = np.concatenate([image.reshape(-1, 2) for image in images]).astype(np.float64)
    mean, std = statistics(images)
    for channel in range(2):
        known = pixels[np.isfinite(pixels[:, channel]), channel]
        if len(set(known)) > 1:
            assert mean[channel] == pytest.approx(known.mean())
            assert std[channel] == pytest.approx(known.std(), rel=1e-3)
        else:
            assert std[channel] == 1


def test_statistics_of_integers_are_in_units_of_full_scale() -> None:
    image = np.array([[[0], [65535]]], np.uint16)
    assert statistics([image]) == ((0.5,), (0.5,))
    assert statistics([np.full((2, 2, 1), 51, np.uint8)]) == ((0.2,), (1.0,))


def test_statistics_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        statistics([])
    with pytest.raises(ValueError, match="same number of channels"):
        statistics([np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1, 1), np.uint8)])

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional

from underpaint.segmenter.upsampling import to_natural_size


def random_probabilities(classes: int, rows: int, columns: int, sharpness: float, seed: int) -> NDArray[np.float32]:
    logits = np.random.default_rng(seed).normal(scale=sharpness, size=(classes, rows, columns))
    return torch.from_numpy(logits.astype(np.float32)).softmax(dim=0).numpy()


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.3, 3.0])),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 2**32 - 1),
)
def test_is_what_interpolating_every_class_and_choosing_gives(
    shape: tuple[int, int, int, float], size: tuple[int, int], seed: int
) -> None:
    probabilities = random_probabilities(*shape, seed)
    every = functional.interpolate(torch.from_numpy(probabilities)[None], size, mode="bilinear")[0].numpy()
    class_map, confidence = to_natural_size(probabilities, *size)
    assert class_map.dtype == confidence.dtype == np.uint8
    assert class_map.shape == confidence.shape == size
    chosen = np.take_along_axis(every, class_map[None].astype(np.int64), axis=0)[0]
    assert (chosen >= every.max(axis=0) - 1e-5).all()
    assert np.abs(confidence / 255 - every.max(axis=0)).max() <= 0.5 / 255 + 1e-5


def test_the_lowest_of_equally_likely_classes_is_taken() -> None:
    class_map, confidence = to_natural_size(np.full((4, 3, 3), 0.25, np.float32), 7, 8)
    assert (class_map == 0).all()
    assert (confidence == 64).all()


def test_a_class_that_is_the_best_at_no_sample_may_be_so_between() -> None:
    probabilities = np.array([[[0.5, 0.05]], [[0.05, 0.5]], [[0.45, 0.45]]], np.float32)
    assert to_natural_size(probabilities, 1, 8)[0].tolist() == [[0, 0, 2, 2, 2, 2, 1, 1]]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_confidence_reaches_both_ends(value: float) -> None:
    probabilities = np.zeros((2, 5, 5), np.float32)
    probabilities[1] = value
    assert (to_natural_size(probabilities, 23, 31)[1] == 255 * value).all()

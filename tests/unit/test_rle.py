import tracemalloc
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from label_studio_sdk.converter import brush
from numpy.typing import NDArray

from underpaint.labelstudio.rle import RleError, decode, encode, encode_edges


def random_mask(height: int, width: int, mean_run: float, seed: int) -> NDArray[np.bool_]:
    """A mask whose value changes after each pixel with the probability 1 / `mean_run`."""
    changes = np.random.default_rng(seed).random((height, width)) < 1 / mean_run
    return np.logical_xor.accumulate(changes.ravel()).reshape(height, width)


masks = st.builds(
    random_mask, st.integers(1, 24), st.integers(1, 24), st.sampled_from([1, 2, 8, 60, 1000]), st.integers(0, 2**32 - 1)
)
alphas = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))


def sdk_encode(alpha: NDArray[np.uint8]) -> list[int]:
    rle: list[int] = brush.mask2rle(alpha)  # type: ignore[no-untyped-call]
    return rle


def assert_encoded_as_the_sdk_does(mask: NDArray[np.bool_]) -> None:
    height, width = mask.shape
    rle = encode(mask)
    assert rle == sdk_encode(mask * np.uint8(255))
    assert np.array_equal(decode(rle, (height, width)), mask * np.uint8(255))


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((300, 300), bool),
        np.ones((300, 300), bool),
        np.ones((128, 128), bool),
        np.ones((1, 1), bool),
        np.eye(9, dtype=bool),
        np.arange(300 * 300).reshape(300, 300) < 16_384 + 1,
        np.random.default_rng(0).random((137, 53)) < 0.5,
    ],
    ids=["zero", "full", "65536 values", "one pixel", "single pixels", "short remainder after a split", "random"],
)
def test_encodes_as_the_sdk_does(mask: NDArray[np.bool_]) -> None:
    assert_encoded_as_the_sdk_does(mask)


@settings(deadline=None, max_examples=2000)
@given(masks)
def test_any_mask_is_encoded_as_the_sdk_does(mask: NDArray[np.bool_]) -> None:
    assert_encoded_as_the_sdk_does(mask)


@settings(deadline=None)
@given(st.lists(st.integers(1, 70_000) | st.sampled_from([2, 4, 64, 16_384, 16_385, 32_768, 65_536]), max_size=5))
def test_runs_of_any_length_are_encoded_as_the_sdk_does(lengths: list[int]) -> None:
    values = np.arange(len(lengths)) % 2 == 1
    assert_encoded_as_the_sdk_does(np.append(np.repeat(values, lengths), True)[None])


def test_any_value_but_zero_is_set() -> None:
    mask = np.array([[0, 1, 2, 255, 0, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7, 7, 1, 0]], np.uint8)
    assert encode(mask) == encode(mask != 0)
    assert encode(mask[:, ::2]) == encode(mask[:, ::2] != 0)


@settings(deadline=None)
@given(alphas)
def test_decodes_soft_edges(alpha: NDArray[np.uint8]) -> None:
    height, width = alpha.shape
    assert np.array_equal(decode(sdk_encode(alpha), (height, width)), alpha)


@settings(deadline=None)
@given(hnp.arrays(np.uint8, st.integers(1, 40).map(lambda pixels: (pixels, 4))))
def test_decodes_the_alpha_channel_of_literals(rgba: NDArray[np.uint8]) -> None:
    rle = brush.encode_rle(rgba.ravel())  # type: ignore[no-untyped-call]
    assert np.array_equal(decode(rle, (1, len(rgba))), rgba[None, :, 3])


def test_decodes_literals_longer_than_one() -> None:
    bits = f"{8:032b}{7:05b}" + "0010001101111111" + "0" + "00" + "111" + "".join(f"{v:08b}" for v in range(8))
    rle = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
    assert decode(rle, (1, 2)).tolist() == [[3, 7]]


def test_edges_are_where_a_mask_is_set_and_cleared() -> None:
    mask = np.array([[0, 1, 1, 0], [0, 0, 1, 1]], bool)
    for edges in ([1, 3, 6], [1, 3, 6, 8]):
        assert encode_edges(np.array(edges), 8) == encode(mask)
    assert encode_edges(np.array([], np.int64), 8) == encode(np.zeros((2, 4), bool))
    assert encode_edges(np.array([0]), 8) == encode(np.ones((2, 4), bool))


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        (None, "list of bytes"),
        (10**12, "list of bytes"),
        ("000", "list of bytes"),
        ([], "no header"),
        ([0, 0, 1], "no header"),
        ([0, 0, 0, 64, 0, 0, 0, 0], "no header"),
        ([256, 0, 0, 64], "integers from 0 to 255"),
        ([-1], "integers from 0 to 255"),
        ([0.5], "integers from 0 to 255"),
        (["… 15134 values cut"], "integers from 0 to 255"),
        (encode(np.eye(4, dtype=bool))[:-4], "truncated"),
        (encode(np.eye(4, dtype=bool))[:7], "truncated"),
        (encode(np.eye(5, dtype=bool)), "100 values, but the image has 64"),
        ([255, 255, 255, 255, *encode(np.eye(4, dtype=bool))[4:]], "4294967295 values"),
        ([0, 0, 0, 64, *encode(np.ones((5, 5), bool))[4:]], "garbled"),
    ],
)
def test_refuses_what_is_no_rle_of_the_image(rle: Any, message: str) -> None:
    with pytest.raises(RleError, match=message):
        decode(rle, (4, 4))


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60))
def test_garbage_is_refused_or_read_as_the_sdk_reads_it(garbage: bytes) -> None:
    rle = [0, 0, 0, 64, 57, 27, *garbage]
    with suppress(RleError):
        alpha = decode(rle, (4, 4))
        assert np.array_equal(alpha, brush.decode_rle(rle).reshape(4, 4, 4)[..., 3])


@settings(deadline=None)
@given(st.data())
def test_what_is_cut_short_is_refused(data: st.DataObject) -> None:
    rle = encode(np.random.default_rng(0).random((9, 11)) < 0.5)
    # The last byte may be padding.
    cut = data.draw(st.integers(0, len(rle) - 2))
    with pytest.raises(RleError, match="truncated"):
        decode(rle[:cut], (9, 11))


def test_a_promise_of_a_billion_pixels_costs_nothing() -> None:
    side = 32_000
    rle = [*(4 * side * side).to_bytes(4, "big"), *encode(np.eye(4, dtype=bool))[4:]]
    tracemalloc.start()
    with pytest.raises(RleError, match="the image has 64"):
        decode(rle, (4, 4))
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()

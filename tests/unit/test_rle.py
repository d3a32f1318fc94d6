from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from label_studio_sdk.converter import brush
from numpy.typing import NDArray

from underpaint.labelstudio.rle import RleError, decode, encode, pack, unpack

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))
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
        np.random.default_rng(0).random((37, 53)) < 0.5,
    ],
    ids=["zero", "full", "65536 values", "one pixel", "single pixels", "short remainder after a split", "random"],
)
def test_encodes_as_the_sdk_does(mask: NDArray[np.bool_]) -> None:
    assert_encoded_as_the_sdk_does(mask)


@settings(deadline=None)
@given(masks)
def test_any_mask_is_encoded_as_the_sdk_does(mask: NDArray[np.bool_]) -> None:
    assert_encoded_as_the_sdk_does(mask)


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


def test_the_worked_example() -> None:
    rle = [0, 0, 0, 3, 57, 27, 248, 0, 32, 1, 0, 6]
    assert pack(np.array([1, 2, 3], np.uint8), np.ones(3, np.int64)) == rle
    values, lengths = unpack(rle, 3)
    assert values.tolist() == [1, 2, 3]
    assert lengths.tolist() == [1, 1, 1]


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


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_garbage_is_refused_or_read_as_the_sdk_reads_it(garbage: bytes) -> None:
    rle = [0, 0, 0, 64, 57, 27, *garbage]
    with suppress(RleError):
        alpha = decode(rle, (4, 4))
        assert np.array_equal(alpha, brush.decode_rle(rle).reshape(4, 4, 4)[..., 3])

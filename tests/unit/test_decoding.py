"""Decoding files of every kind, whole and damaged."""

import struct
import time
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from underpaint.labelstudio.decoding import ImageError, decode, decode_small

PAINTINGS = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "monet" / "val" / "images"


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def huge_png(side: int) -> bytes:
    """A PNG of a few bytes whose header promises ``side`` × ``side`` pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (Image.new("L", (4, 3), 77), {}, (77, 77, 77)),
        (Image.new("1", (4, 3), 1), {}, (255, 255, 255)),
        (Image.new("RGBA", (4, 3), (255, 0, 0, 0)), {}, (255, 255, 255)),
        (Image.new("RGBA", (4, 3), (0, 0, 0, 51)), {}, (204, 204, 204)),
        (Image.new("LA", (4, 3), (0, 255)), {}, (0, 0, 0)),
        (Image.new("RGB", (4, 3), (1, 2, 3)).convert("P"), {}, (0, 0, 0)),
        (Image.new("P", (4, 3), 0), {"transparency": 0}, (255, 255, 255)),
        (Image.fromarray(np.full((3, 4), 65535, np.uint16)), {}, (255, 255, 255)),
        (Image.fromarray(np.full((3, 4), 0x8080, np.uint16)), {}, (128, 128, 128)),
    ],
)
def test_every_kind_of_png_becomes_rgb(
    image: Image.Image, options: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    rgb = decode(encoded(image, **options), 100, "x")
    assert rgb.shape == (3, 4, 3)
    assert rgb.dtype == np.uint8
    assert rgb.flags.writeable
    assert (rgb == expected).all()


def test_cmyk_jpeg_becomes_rgb() -> None:
    red = decode(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"), 1000, "x")[8, 8].astype(int)
    assert np.abs(red - (255, 0, 0)).max() < 12


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    data = encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    assert (decode(data, 100, "x") == (255, 0, 0)).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_6_is_turned_upright(kind: str) -> None:
    image = Image.new("RGB", (400, 300), "black")
    image.paste("white", (0, 0, 200, 300))  # What is left in the file is up on the screen.
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb = decode(encoded(image, kind, exif=exif), 10**6, "x")
    assert rgb.shape == (400, 300, 3)
    assert rgb[100].min() > 200
    assert rgb[300].max() < 50


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_agree_with_pillow(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise(5, 7), "PNG", exif=exif)
    assert (decode(data, 100, "x") == np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data))))).all()


def test_orientation_in_xmp_is_ignored_as_browsers_do() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    assert decode(encoded(noise(40, 30), "JPEG", xmp=xmp), 10**4, "x").shape == (30, 40, 3)


def test_broken_exif_does_not_lose_the_image() -> None:
    data = encoded(noise(40, 30), "JPEG", exif=b"Exif\0\0MM\0*garbage that is no TIFF header")
    assert decode(data, 10**4, "x").shape == (30, 40, 3)


def test_a_huge_image_is_refused_by_its_header() -> None:
    data = huge_png(30_000)
    begin = time.perf_counter()
    with pytest.raises(ImageError, match=r"task 3: 30000×30000 is more than .* UNDERPAINT_MAX_IMAGE_PIXELS"):
        decode(data, 200_000_000, "task 3")
    assert time.perf_counter() - begin < 0.5
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match="damaged"):  # Allowed by the bound, so the missing pixels are what is wrong.
        decode(huge_png(20_000), 10**9, "task 3")
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_file_is_damaged(kind: str) -> None:
    data = encoded(noise(200, 200), kind)
    with pytest.raises(ImageError, match="x: the image file is damaged"):
        decode(data[: len(data) // 2], 10**6, "x")


@pytest.mark.parametrize("data", [b"", b"just some text", b"<html>404</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%EOF"])
def test_what_is_no_image_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"x\.png: not an image"):
        decode(data, 100, "x.png")


@given(st.binary(max_size=64), st.integers(0, 300), st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]))
def test_damage_anywhere_is_an_image_or_an_image_error(junk: bytes, at: int, kind: str) -> None:
    data = encoded(noise(8, 8), kind)
    try:
        rgb = decode(data[:at] + junk + data[at + len(junk) :], 10_000, "x")
    except ImageError:
        return
    assert rgb.dtype == np.uint8
    assert rgb.shape[2] == 3


def test_a_real_painting_survives() -> None:
    if not PAINTINGS.exists():
        pytest.skip("../shared/data/monet is not there")
    path = min(PAINTINGS.iterdir())
    assert (decode(path.read_bytes(), 10**6, "x") == np.asarray(Image.open(path).convert("RGB"))).all()


def smooth(width: int, height: int) -> Image.Image:
    """Colours that no two corners share, without edges that depend on how an image is made smaller."""
    corners = np.array([[(200, 40, 60), (40, 180, 90)], [(90, 60, 220), (230, 220, 40)]], np.uint8)
    return Image.fromarray(cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR))


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((1000, 750), 320, (375, 500)),
        ((750, 1000), 320, (500, 375)),
        ((1000, 750), 501, (750, 1000)),
        ((1000, 750), 250, (188, 250)),
        ((1000, 750), 10, (94, 125)),
        ((300, 200), 320, (200, 300)),
        ((2000, 7), 320, (2, 500)),
    ],
)
def test_a_jpeg_is_decoded_no_larger_than_it_has_to_be(
    size: tuple[int, int], side: int, expected: tuple[int, int]
) -> None:
    picture = decode_small(encoded(smooth(*size), "JPEG"), 10**6, "x", side)
    assert picture.pixels.shape == (*expected, 3)
    assert picture.shape == (size[1], size[0])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_small_jpeg_is_the_large_one_resized(mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(smooth(640, 400).convert(mode), "JPEG", exif=exif, quality=95)
    large = decode(data, 10**6, "x")
    picture = decode_small(data, 10**6, "x", 160)
    height, width = picture.pixels.shape[:2]
    assert picture.shape == large.shape[:2]
    assert max(height, width) == 160
    resized = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(picture.pixels - resized).max() <= 4
    assert picture.pixels.flags.writeable


def test_the_first_picture_of_several_is_decoded_small() -> None:
    frames = [smooth(640, 400), Image.new("RGB", (640, 400), "red")]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    picture = decode_small(data, 10**6, "x", 160)
    assert picture.pixels.shape == (100, 160, 3)
    assert np.abs(picture.pixels - cv2.resize(decode(data, 10**6, "x"), (160, 100)).astype(int)).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_other_formats_come_as_they_are(kind: str) -> None:
    data = encoded(noise(40, 30), kind)
    picture = decode_small(data, 10**4, "x", 10)
    assert (picture.pixels == decode(data, 10**4, "x")).all()
    assert picture.shape == (30, 40)


def test_small_is_bounded_by_the_natural_size_and_refused_alike() -> None:
    data = encoded(smooth(1000, 1000), "JPEG")
    with pytest.raises(ImageError, match="task 3: 1000×1000 is more than"):
        decode_small(data, 10**6 - 1, "task 3", 10)
    with pytest.raises(ImageError, match="x: the image file is damaged"):
        decode_small(data[: len(data) // 2], 10**6, "x", 100)


def test_a_real_painting_is_alike_when_decoded_small() -> None:
    if not PAINTINGS.exists():
        pytest.skip("../shared/data/monet is not there")
    data = min(PAINTINGS.iterdir()).read_bytes()
    large, picture = decode(data, 10**6, "x"), decode_small(data, 10**6, "x", 64)
    assert picture.pixels.shape == (64, 64, 3)
    resized = cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(picture.pixels - resized).mean() < 3

"""Image files to arrays, as browsers show them, whatever the file holds."""

import threading
from dataclasses import dataclass
from io import BytesIO
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Rgb: TypeAlias = NDArray[np.uint8]

# Nothing that runs an interpreter (EPS, WMF), holds documents (PDF), or that paintings are never kept in.
Image.init()
_FORMATS = tuple(
    name
    for name in ("JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "AVIF", "PPM")
    if name in Image.OPEN
)
_EXIF_ORIENTATION = 0x0112
# What undoes each orientation (Exif 2.32, tag 0x0112; 1 is upright).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = range(5, 9)
_opening = threading.Lock()


class ImageError(ValueError):
    """An image could not be had; the message says what was wrong, with which task and URL, and what to do."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that may have been made smaller as it was decoded."""

    pixels: Rgb
    """uint8 (h, w, 3) RGB, upright."""
    shape: tuple[int, int]
    """Its natural size (H, W), upright."""


def decode(data: bytes, max_pixels: int, name: str) -> Rgb:
    """The first frame of an image file, uint8 (H, W, 3) RGB, turned upright by its EXIF orientation as browsers do.

    Transparency is laid on white and 16-bit grey is scaled to 8. The header is checked against ``max_pixels``
    before any pixel is decoded.

    Raises:
        ImageError: if it is too large, damaged or no image; begins with ``name``.
    """
    return _decode(data, max_pixels, name, None).pixels


def decode_small(data: bytes, max_pixels: int, name: str, side: int) -> Picture:
    """As ``decode``, for those who need no more than ``side`` pixels on the longer side.

    A JPEG is decoded at a half, a quarter or an eighth of its size where that leaves ``side`` pixels, in a fraction of
    the time and memory (by smaller inverse DCTs, as libjpeg has them). Everything else comes at its natural size.
    """
    return _decode(data, max_pixels, name, side)


def _decode(data: bytes, max_pixels: int, name: str, side: int | None) -> Picture:
    try:
        with _open(data) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(
                    f"{name}: {width}×{height} is more than {max_pixels:,} pixels; shrink it, or raise "
                    "UNDERPAINT_MAX_IMAGE_PIXELS"
                )
            if side is not None:
                # JPEG's own way to decode less; a no-op for other formats.
                longer = max(width, height)
                image.draft("RGB", (max(1, width * side // longer), max(1, height * side // longer)))
            image.load()
            rgb = _rgb(image)
            orientation = _orientation(image)
            method = _UPRIGHT.get(orientation)
            pixels = np.array(rgb if method is None else rgb.transpose(method))
            return Picture(pixels, (width, height) if orientation in _SIDEWAYS else (height, width))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: not an image in a format known here, it begins with {data[:16]!r}; convert it to JPEG or PNG"
        ) from error
    # Pillow's decoders answer damage with almost any exception, SyntaxError and struct.error included.
    except Exception as error:
        raise ImageError(f"{name}: the image file is damaged ({error}); save it again") from error


def _open(data: bytes) -> Image.Image:
    """Read the header, with Pillow's own limit on pixels out of the way: it would undercut a larger ``max_pixels``."""
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(BytesIO(data), formats=_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey = np.asarray(image).clip(0, 65535) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 if there is none; unlike Pillow's, not from XMP, which browsers ignore."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif") or b"")
        return int(exif.get(_EXIF_ORIENTATION, 1))
    # Damaged EXIF is no reason to lose the image: browsers show it as it is.
    except Exception:
        return 1

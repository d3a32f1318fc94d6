"""The images that the serving bench predicts: JPEG files of mixed sizes and shapes, the same in every run."""

import io
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FOLDERS = ("monet-unlabelled", "song-ming-unlabelled")

LONGER_SIDES = (480, 2000)  # pixels, of the smallest and the largest
_ASPECTS = ((4, 3), (3, 4), (3, 2), (1, 1), (16, 10), (2, 3), (5, 4))
_QUALITY = 90
_GRAIN = 4.0  # of 255; enlarged paintings are too smooth, and their files too small, without a scan's noise
_PAINTED = 12  # scenes, where there is no data; painting one takes seconds


def make(count: int, data: Path = DATA) -> list[bytes]:
    """`count` JPEG files from the paintings below `data`, or from painted scenes where there are none.

    Their longer sides go from 480 to 2000 px, evenly on a logarithmic scale and in no order, in common aspect ratios.
    """
    found = sorted(path for folder in FOLDERS for path in (data / folder).glob("*.jpg"))
    rng = np.random.default_rng(0)
    sides = rng.permutation(np.geomspace(*LONGER_SIDES, count).round().astype(int))
    if found:
        drawn = [found[index] for index in rng.permutation(len(found))[:count]]
        pictures: Iterator[Image.Image] = (Image.open(path).convert("RGB") for path in cycle(drawn))
    else:
        pictures = cycle(_scenes(min(count, _PAINTED)))
    shapes = zip(sides.tolist(), cycle(_ASPECTS), strict=False)
    return [_jpeg(picture, *each, rng) for picture, each in zip(islice(pictures, count), shapes, strict=True)]


def read(folder: Path, count: int) -> list[bytes]:
    """The first `count` image files of `folder`, as they are; fewer files are taken again and again.

    Raises:
        ValueError: it has none.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    if not files:
        raise ValueError(f"{folder} has no JPEG, PNG or WebP files: name a folder of images by --images")
    return [path.read_bytes() for path in islice(cycle(files), count)]


def _scenes(count: int) -> list[Image.Image]:
    from underpaint_workers.scenes import paint

    return [Image.fromarray(paint(seed, (480, 640)).image) for seed in range(count)]


def _jpeg(picture: Image.Image, side: int, aspect: tuple[int, int], rng: np.random.Generator) -> bytes:
    width, height = (round(side * part / max(aspect)) for part in aspect)
    scale = max(width / picture.width, height / picture.height)
    resized = picture.resize((max(width, round(picture.width * scale)), max(height, round(picture.height * scale))))
    left, top = (resized.width - width) // 2, (resized.height - height) // 2
    pixels = np.asarray(resized.crop((left, top, left + width, top + height)), np.float32)
    grain = rng.normal(0, _GRAIN, (height, width, 1)).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def megapixels(file: bytes) -> float:
    """How large an image is."""
    width, height = Image.open(io.BytesIO(file)).size
    return width * height / 1e6


def strip(file: bytes, part: int) -> bytes:
    """The middle of an image, as wide as it and a `part` of its height, 640 pixels wide at most: quickly predicted."""
    image = Image.open(io.BytesIO(file)).convert("RGB")
    image.thumbnail((640, 640))
    height = max(1, image.height // part)
    top = (image.height - height) // 2
    cut = io.BytesIO()
    image.crop((0, top, image.width, top + height)).save(cut, "JPEG", quality=_QUALITY)
    return cut.getvalue()

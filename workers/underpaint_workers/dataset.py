"""A data set: a folder of paintings and their class maps.

::

    classes.json        {"classes": ["sky", "water", ...]}; the position is the class id
    images/NAME.jpg     or .jpeg, .png, .tif, .tiff
    labels/NAME.png     8 bits a pixel: class ids, 255 unlabelled
    domains.json        optional: {"NAME": "painting", ...}

Images are read as RGB, as browsers show them. Where ``classes.json`` also says ``"channels": 1`` or 4, or an image has
more than 8 bits, it is a raster, such as a terrain model, and read as it is.

One is written by ``write_item`` for each painting and then ``write_classes``: a folder without ``classes.json`` is none
yet.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from underpaint.labelstudio.decoding import ImageError, decode
from underpaint.segmenter.channels import Image as Raster
from underpaint.taxonomy import UNLABELLED

RGB = 3
CHANNELS = (1, RGB, 4)
"""How many channels an image can have: OpenCV reads no others."""
MAX_PIXELS = 2**30
"""Largest image that OpenCV reads, in pixels."""
PAINTING = "painting"

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")

Item = tuple[Raster, NDArray[np.uint8]]
"""A painting, RGB uint8 (H, W, 3), or a raster (H, W, C) of uint8, uint16 or float32; and its class map, uint8 (H, W)
of class ids, 255 unlabelled."""


class DatasetError(ValueError):
    """A data set is broken; the message names the file and what to do."""


@dataclass(frozen=True)
class Dataset:
    """A data set that was opened for reading."""

    folder: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]
    """Names of the paintings, sorted."""
    channels: int = RGB
    """Channels of each image."""
    domains: Mapping[str, str] = field(default_factory=dict)
    """What some of them are, by name: ``painting`` where it is not said, ``photo``, ``illustration`` or any word."""

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """The data set in `folder`; paintings are read later, by ``load``.

        Raises:
            DatasetError: no classes, an image without its label map or the other way round, or bad ``domains.json``.
        """
        images = {path.stem for path in (folder / "images").glob("*") if _is_image(path)}
        labels = {path.stem for path in (folder / "labels").glob("*.png")}
        if images != labels:
            name = min(images ^ labels)
            has, lacks = ("images", "labels") if name in images else ("labels", "images")
            raise DatasetError(f"{folder} has {has}/{name} but no {lacks}/{name}: add the one or remove the other.")
        classes, channels = _read_classes(folder / "classes.json")
        domains = _read_domains(folder / "domains.json", images)
        return cls(folder, classes, tuple(sorted(images)), channels, domains)

    def of_domain(self, domain: str | None) -> "Dataset":
        """The paintings of one domain only; those that ``domains.json`` leaves out are paintings.

        Raises:
            DatasetError: no domain is named and there are several, which must not mix unless somebody says so, or there
                is none of that name.
        """
        found = sorted({self.domains.get(name, PAINTING) for name in self.names})
        several = ", ".join(found)
        if domain is None and len(found) > 1:
            raise DatasetError(
                f"{self.folder} mixes the domains {several}: say which one, such as --domain {found[0]}."
            )
        if domain is not None and domain not in found:
            raise DatasetError(f"{self.folder} has no {domain!r}, only {several}: name one of these.")
        names = (name for name in self.names if domain in (None, self.domains.get(name, PAINTING)))
        return replace(self, names=tuple(names))

    def image_path(self, name: str) -> Path:
        """The file of the painting `name`.

        Raises:
            DatasetError: it is gone.
        """
        for path in (self.folder / "images").glob(f"{escape(name)}.*"):
            if _is_image(path) and path.stem == name:
                return path
        raise DatasetError(f"{self.folder} has no painting {name!r}: the folder changed since it was opened.")

    def load(self, name: str) -> Item:
        """The painting `name` and its class map.

        Raises:
            DatasetError: a file can't be read, the image has other channels than the data set, their sizes differ, or
                the map isn't 8-bit or has ids that are no class.
        """
        image_path, label_path = self.image_path(name), self.folder / "labels" / f"{name}.png"
        if not label_path.exists():
            raise DatasetError(f"{label_path} is missing: the folder changed since it was opened.")
        try:
            image = read_image(image_path, self.channels)
        except ImageError as error:
            raise DatasetError(f"{error}, or remove it and its label map.") from error
        if (has := image.shape[2]) != self.channels:
            raise DatasetError(
                f'{image_path} has {has} channels, and the data set {self.channels}: convert it, or write "channels": '
                f"{has} in classes.json, if all images have as many."
            )
        with Image.open(label_path) as file:
            if file.mode not in ("L", "P"):
                raise DatasetError(f"{label_path} has mode {file.mode}: save it with 8 bits a pixel (L or P).")
            class_map = np.array(file)
        if image.shape[:2] != class_map.shape:
            raise DatasetError(
                f"{label_path} is {_size(class_map)} but its image is {_size(image)}: resize the map without blending."
            )
        strange = np.setdiff1d(class_map, [*range(len(self.classes)), UNLABELLED])
        if strange.size:
            raise DatasetError(
                f"{label_path} has the id {strange[0]}, but {len(self.classes)} classes have the ids "
                f"0–{len(self.classes) - 1}: add the class to classes.json, or make it {UNLABELLED} (unlabelled)."
            )
        return image, class_map


def write_item(folder: Path, name: str, image: Raster, class_map: NDArray[np.uint8]) -> None:
    """Add an RGB painting uint8 (H, W, 3) and its class map uint8 (H, W) to `folder`, made if missing, without loss.

    Raises:
        ValueError: `name` is no plain file name, the sizes differ, or the image isn't 8-bit RGB.
    """
    if Path(name).name != name:
        raise ValueError(f"{name!r} cannot name a painting: use a name without folders.")
    if image.dtype != np.uint8:
        raise ValueError(f"{name!r} has values of {image.dtype}: only RGB paintings of uint8 are written.")
    if image.shape != (*class_map.shape, RGB):
        raise ValueError(f"The map of {name!r} is {_size(class_map)} but its image is {_size(image)}.")
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(class_map).save(folder / "labels" / f"{name}.png")
    Image.fromarray(image).save(folder / "images" / f"{name}.png", compress_level=1)


def write_classes(folder: Path, classes: Sequence[str]) -> None:
    """Name the classes, after the last item: this is what makes `folder`, be it empty or missing, a data set."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.json").write_bytes(_classes_json(classes))


def check_classes(folder: Path, classes: Sequence[str]) -> None:
    """Raise DatasetError if ``write_classes`` would replace a ``classes.json`` in `folder` that says anything else."""
    path = folder / "classes.json"
    if path.exists() and path.read_bytes() != _classes_json(classes):
        raise DatasetError(f"{path} says something else and would be overwritten: name another folder, or remove it.")


def _classes_json(classes: Sequence[str]) -> bytes:
    return json.dumps({"classes": list(classes)}, ensure_ascii=False).encode()


def read_image(path: Path, channels: int = RGB, max_pixels: int = MAX_PIXELS) -> Raster:
    """An image file for a net that sees `channels` of them: (H, W, C) of uint8, uint16 or float32.

    One of 8 bits, and a PNG that is transparent, is a picture: RGB as browsers show it, upright and laid on white, or
    one channel where it is grey and one is wanted. All others, and 8 bits where four channels are wanted and there,
    are rasters: they are read as they are, and C may differ from `channels`, as
    :func:`~underpaint.segmenter.channels.conform` makes grey and RGB into each other.

    Raises:
        ImageError: it can't be read, or has more than `max_pixels`; begins with `path`.
    """
    is_jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    try:
        data = path.read_bytes()
        readable = data and not (is_jpeg and channels == RGB)
        raster: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if readable else None
    except (OSError, cv2.error) as error:
        raise ImageError(f"{path}: can't be read ({error}); restore it") from error
    if raster is None:
        return decode(data, max_pixels, str(path))
    raster = np.atleast_3d(raster)
    height, width, has = raster.shape
    is_transparent = has == 4 and path.suffix.lower() == ".png"
    if channels != 4 and (raster.dtype == np.uint8 or is_transparent):
        picture = decode(data, max_pixels, str(path))
        return picture[..., :1] if channels == has == 1 else picture
    if width * height > max_pixels:
        raise ImageError(f"{path}: {width}×{height} is more than {max_pixels:,} pixels; shrink it")
    if raster.dtype not in (np.uint8, np.uint16):
        raster = raster.astype(np.float32)  # heights also come as int16 or float64
    # OpenCV reads blue, green, red.
    image: Raster = raster[..., [2, 1, 0, *range(RGB, has)]] if has >= RGB else raster
    return image


def _read_classes(path: Path) -> tuple[tuple[str, ...], int]:
    """The names of the classes, and the number of channels."""
    remedy = 'write {"classes": ["sky", ...]} there, in the order of the class ids.'
    try:
        values = json.loads(path.read_text("utf-8"))
        classes = values["classes"]
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing: {remedy}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} names no classes: {remedy}") from error
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise DatasetError(f"{path} has no list of class names: {remedy}")
    channels = values.get("channels", RGB)
    if type(channels) is not int or channels not in CHANNELS:
        raise DatasetError(f"{path} says {channels!r} channels: write how many an image has; 1, 3 and 4 can be read.")
    return tuple(classes), channels


def _read_domains(path: Path, names: set[str]) -> dict[str, str]:
    try:
        domains = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DatasetError(f'{path} is not JSON ({error}): write {{"NAME": "painting", ...}} or remove it.') from error
    if not isinstance(domains, dict) or not all(isinstance(domain, str) for domain in domains.values()):
        raise DatasetError(f'{path} is no object of words: write {{"NAME": "painting", ...}} or remove it.')
    if strange := sorted(domains.keys() - names):
        raise DatasetError(f"{path} names {strange[0]!r}, which is no painting of the data set: correct or remove it.")
    return domains


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _IMAGE_SUFFIXES


def _size(array: Raster) -> str:
    return f"{array.shape[1]}×{array.shape[0]}"

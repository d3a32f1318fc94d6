"""A data set: a folder of paintings and their class maps.

::

    classes.json        {"classes": ["sky", "water", ...]}; the position is the class id
    images/NAME.jpg     or .jpeg, .png
    labels/NAME.png     8 bits a pixel: class ids, 255 unlabelled

One is written by ``write_item`` for each painting and then ``write_classes``: a folder without ``classes.json`` is none
yet.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from underpaint.taxonomy import UNLABELLED

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

Item = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""A painting, RGB uint8 (H, W, 3), and its class map, uint8 (H, W) of class ids, 255 unlabelled."""


class DatasetError(ValueError):
    """A data set is broken; the message names the file and what to do."""


@dataclass(frozen=True)
class Dataset:
    """A data set that was opened for reading."""

    folder: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]
    """Names of the paintings, sorted."""

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """The data set in `folder`; paintings are read later, by ``load``.

        Raises:
            DatasetError: no classes, or an image without its label map or the other way round.
        """
        images = {path.stem for path in (folder / "images").glob("*") if _is_image(path)}
        labels = {path.stem for path in (folder / "labels").glob("*.png")}
        if images != labels:
            name = min(images ^ labels)
            has, lacks = ("images", "labels") if name in images else ("labels", "images")
            raise DatasetError(f"{folder} has {has}/{name} but no {lacks}/{name}: add the one or remove the other.")
        return cls(folder, _read_classes(folder / "classes.json"), tuple(sorted(images)))

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
            DatasetError: their sizes differ, or the map isn't 8-bit or has ids that are no class.
        """
        image_path, label_path = self.image_path(name), self.folder / "labels" / f"{name}.png"
        if not label_path.exists():
            raise DatasetError(f"{label_path} is missing: the folder changed since it was opened.")
        with Image.open(image_path) as file:
            image = np.array(ImageOps.exif_transpose(file).convert("RGB"))
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


def write_item(folder: Path, name: str, image: NDArray[np.uint8], class_map: NDArray[np.uint8]) -> None:
    """Add an RGB painting uint8 (H, W, 3) and its class map uint8 (H, W) to `folder`, made if missing, without loss.

    Raises:
        ValueError: `name` is no plain file name, or the sizes differ.
    """
    if Path(name).name != name:
        raise ValueError(f"{name!r} cannot name a painting: use a name without folders.")
    if image.shape != (*class_map.shape, 3):
        raise ValueError(f"The map of {name!r} is {_size(class_map)} but its image is {_size(image)}.")
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(class_map).save(folder / "labels" / f"{name}.png")
    Image.fromarray(image).save(folder / "images" / f"{name}.png", compress_level=1)


def write_classes(folder: Path, classes: Sequence[str]) -> None:
    """Name the classes, after the last item: this is what makes `folder`, be it empty or missing, a data set."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.json").write_text(json.dumps({"classes": list(classes)}, ensure_ascii=False), "utf-8")


def _read_classes(path: Path) -> tuple[str, ...]:
    remedy = 'write {"classes": ["sky", ...]} there, in the order of the class ids.'
    try:
        classes = json.loads(path.read_text("utf-8"))["classes"]
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing: {remedy}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} names no classes: {remedy}") from error
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise DatasetError(f"{path} has no list of class names: {remedy}")
    return tuple(classes)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _IMAGE_SUFFIXES


def _size(array: NDArray[np.uint8]) -> str:
    return f"{array.shape[1]}×{array.shape[0]}"

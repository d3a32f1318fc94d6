"""Class maps as people look at them: in the taxonomy's colours, alone or over the painting."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from underpaint.taxonomy import UNLABELLED, colour_for

OPACITY = 0.5
UNLABELLED_COLOUR = (255, 255, 255)
NOTHING_COLOUR = (0, 0, 0)
"""Colour of ids that are no class, such as what a segmenter predicts beyond a data set's classes."""


def palette(classes: Sequence[str]) -> NDArray[np.uint8]:
    """Colours uint8 (256, 3), RGB, by id: those of the classes, then black, and white for unlabelled (255)."""
    colours = np.full((256, 3), NOTHING_COLOUR, np.uint8)
    colours[: len(classes)] = [colour_for(name) for name in classes]
    colours[UNLABELLED] = UNLABELLED_COLOUR
    return colours


def indexed(class_map: NDArray[np.uint8], classes: Sequence[str]) -> Image.Image:
    """A class map uint8 (H, W) as a picture of mode P: its pixels are the ids, its palette their colours."""
    picture = Image.fromarray(class_map)
    picture.putpalette(palette(classes).tobytes())
    return picture


def overlay(
    image: NDArray[Any], class_map: NDArray[np.uint8], classes: Sequence[str], opacity: float = OPACITY
) -> NDArray[np.uint8]:
    """A painting (H, W, C) under the colours of its class map uint8 (H, W): RGB uint8 (H, W, 3).

    `opacity` (0–1) is the colours'; each class has an outline in its full colour, and unlabelled pixels stay as they
    are.
    """
    painting = as_rgb(image)
    colours = palette(classes)[class_map]
    blended = np.asarray(cv2.addWeighted(painting, 1 - opacity, colours, opacity, 0), np.uint8)
    edge = np.asarray(cv2.morphologyEx(class_map, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))) > 0
    blended[edge] = colours[edge]
    unlabelled = class_map == UNLABELLED
    blended[unlabelled] = painting[unlabelled]
    return blended


def as_rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    """What a screen can show of a raster (H, W, C): RGB uint8 (H, W, 3).

    A picture of 8 bits and three channels is returned as it is. Of others, the first three channels, or the first
    alone, are stretched so that all but the darkest and brightest 2 % keep their order; what is not finite is black.
    """
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return image
    shown = image[:, :, : 3 if image.shape[2] >= 3 else 1].astype(np.float32)
    finite = shown[np.isfinite(shown)]
    low, high = np.percentile(finite, (2, 98)) if finite.size else (0.0, 1.0)
    stretched = np.nan_to_num((shown - low) / max(high - low, 1e-12), nan=0.0, posinf=0.0, neginf=0.0)
    return np.broadcast_to((stretched.clip(0, 1) * 255).astype(np.uint8), (*image.shape[:2], 3)).copy()


def write_prediction(
    folder: Path,
    name: str,
    image: NDArray[Any],
    class_map: NDArray[np.uint8],
    confidence: NDArray[np.uint8],
    classes: Sequence[str],
) -> None:
    """Write what was predicted for a painting to the files in `folder` that ``prediction_files`` names.

    The class map uint8 (H, W) becomes a PNG whose pixels are the ids; `confidence` uint8 (H, W), in 255ths, one too.
    """
    map_file, overlay_file, confidence_file = prediction_files(folder, name)
    indexed(class_map, classes).save(map_file)
    Image.fromarray(overlay(image, class_map, classes)).save(overlay_file, quality=90)
    Image.fromarray(confidence).save(confidence_file)


def prediction_files(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Where class map, overlay and confidence of the painting `name` go."""
    return folder / f"{name}.png", folder / f"{name}.overlay.jpg", folder / f"{name}.confidence.png"

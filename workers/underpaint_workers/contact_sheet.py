"""The paintings that a segmenter did worst on, small, side by side with their labels and what it predicted."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from underpaint.segmenter.segmenter import fit
from underpaint.taxonomy import UNLABELLED
from underpaint_workers.dataset import Item
from underpaint_workers.overlay import as_rgb, indexed

PAINTINGS = 40
SIZE = 320
"""Longer side of a small picture, in pixels, at most."""
WRONG = (230, 0, 60)
BETTER = (30, 160, 70)
BOTH_WRONG = (240, 160, 0)


@dataclass(frozen=True)
class Row:
    """One painting on the sheet; its pictures are data: URIs."""

    name: str
    miou: float
    """Its own mIoU (0–1)."""
    painting: str
    labels: str
    prediction: str
    difference: str
    """The painting in grey, with the pixels that are predicted otherwise than labelled in red.

    Where there is a champion to compare with, the pixels that it predicts otherwise: red where it is right, green where
    it is not but the prediction is, orange where neither is.
    """
    champion: str = ""
    """What the champion predicts, where there is one to compare with."""


class ContactSheet:
    """Rows for the worst paintings of an evaluation; no more than those are ever held."""

    def __init__(self, classes: Sequence[str], paintings: int = PAINTINGS) -> None:
        """`classes` name the ids of the maps that are added; at most `paintings` rows are kept."""
        self.classes = tuple(classes)
        self.limit = paintings
        self.seen = 0
        """Paintings that had labels to compare with."""
        self.rows: list[Row] = []
        """The worst first."""

    def add(
        self,
        name: str,
        item: Item,
        predicted: NDArray[np.uint8],
        miou: float,
        champion: NDArray[np.uint8] | None = None,
    ) -> None:
        """Show a painting (H, W, C), its labels and the `predicted` map, uint8 (H, W), if its `miou` is bad enough.

        So is the map that the `champion` predicts, if there is one to compare with. Predicted maps may be smaller than
        the painting. One without labels is left out.
        """
        image, labels = item
        if (labels == UNLABELLED).all():
            return
        self.seen += 1
        if len(self.rows) == self.limit and miou >= self.rows[-1].miou:
            return
        painting = as_rgb(image)
        if max(labels.shape) > SIZE:
            painting = fit(painting, SIZE)
        size = (painting.shape[1], painting.shape[0])
        labels, predicted = _resized(labels, size), _resized(predicted, size)
        champion = None if champion is None else _resized(champion, size)
        row = Row(
            name,
            miou,
            painting=jpeg(painting),
            labels=_png(indexed(labels, self.classes)),
            prediction=_png(indexed(predicted, self.classes)),
            difference=jpeg(_difference(painting, labels, predicted, champion)),
            champion="" if champion is None else _png(indexed(champion, self.classes)),
        )
        self.rows = sorted([*self.rows, row], key=lambda row: row.miou)[: self.limit]


def _resized(class_map: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(class_map, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def _difference(
    painting: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    champion: NDArray[np.uint8] | None,
) -> NDArray[np.uint8]:
    grey = np.asarray(cv2.cvtColor(painting, cv2.COLOR_RGB2GRAY), np.uint8)
    faded = np.repeat((128 + grey // 2)[:, :, None], 3, axis=2)
    known = labels != UNLABELLED
    wrong = (labels != predicted) & known
    if champion is None:
        faded[wrong] = WRONG
        return faded
    differ = (champion != predicted) & known
    faded[differ] = BOTH_WRONG
    faded[differ & ~wrong] = BETTER
    faded[differ & (champion == labels)] = WRONG
    return faded


def jpeg(picture: NDArray[np.uint8]) -> str:
    """A picture uint8 (H, W, 3), RGB, as a data: URI."""
    return _data_uri(Image.fromarray(picture), "JPEG", quality=85)


def _png(picture: Image.Image) -> str:
    return _data_uri(picture, "PNG")


def _data_uri(picture: Image.Image, kind: str, **options: int) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"

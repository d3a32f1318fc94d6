"""A checkpoint at work: painting in, class map and confidence out."""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.segmenter.architecture import least_side
from underpaint.segmenter.channels import Image, conform, full_scale, normalise
from underpaint.segmenter.choice import REFERENCE, runtime_for, sample_paintings
from underpaint.segmenter.classifier import Classifier
from underpaint.segmenter.refinement import CELL, refine
from underpaint.segmenter.tiles import blend, tiles
from underpaint.segmenter.upsampling import to_natural_size

Value = TypeVar("Value", bound=np.integer[Any] | np.floating[Any])
ClassMap = NDArray[np.uint8]
Confidence = NDArray[np.uint8]
"""Probability of each pixel's class, in 255ths."""

Quality = Literal["fast", "best"]
"""How often a painting is looked at: ``fast`` once, ``best`` six times, at three sizes and mirrored."""

STRIDE = 32  # encoders halve an image five times
# Pixels of the longer side, beyond which an image is also looked at twice as large, in tiles: one pixel of the net's is
# a dozen of such an image's. The tiles take six to ten times as long, which is little beside what decoding one takes.
_LARGE = 4096
_TILES_SHARE = 0.05  # of the tiles in the answer; they see finer, but less: with more, mIoU on enlarged paintings falls
_BREATHER = 0.25  # seconds after each first pass that others should not notice
_STRIP_VALUES = 2**24  # probabilities held at natural size at a time: 64 MiB in float32
_VIEWS: dict[Quality, tuple[tuple[float, bool], ...]] = {
    "fast": ((1.0, False),),
    "best": tuple(product((1.0, 0.75, 1.25), (False, True))),
}


def resolve_device(name: str) -> str:
    """``auto`` is CUDA where there is a GPU, else the CPU; other names are checked and returned as they are.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"Device {name!r} is not available here: set UNDERPAINT_DEVICE to auto, cpu, cuda or cuda:N. ({error})"
        ) from error
    return name


def fit(image: NDArray[Value], longer_side: int) -> NDArray[Value]:
    """`image` (H, W, C) resized so that its longer side is `longer_side` pixels, its shape and type kept."""
    scale = longer_side / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return resize(image, height, width)


def resize(image: NDArray[Value], height: int, width: int) -> NDArray[Value]:
    """`image` (H, W, C) resized to (`height`, `width`, C), its type kept."""
    if (height, width) == image.shape[:2]:
        return image
    interpolation = cv2.INTER_AREA if height <= image.shape[0] and width <= image.shape[1] else cv2.INTER_LINEAR
    if image.shape[2] == 3:
        return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), image.dtype)
    # OpenCV takes at most four channels at a time, and drops the axis of a single one.
    fours = (image[..., first : first + 4] for first in range(0, image.shape[2], 4))
    resized = [cv2.resize(each, (width, height), interpolation=interpolation) for each in fours]
    return np.dstack([np.asarray(each, image.dtype) for each in resized])


class Segmenter:
    """A checkpoint on a device. Equal images give equal answers, whatever else is in the batch, on the CPU.

    Its methods can be called from several threads at once.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: str = "cpu", *, runtime: str = REFERENCE, cache: Path | None = None
    ) -> None:
        """Build the net on `device`, which is ``auto``, ``cpu``, ``cuda`` or ``cuda:N``, to be run by `runtime`.

        The runtime is ``auto`` for the fastest, which is measured once and remembered in the folder `cache`, by default
        the user's, or a name that the log or an error gave. torch in float32 gives the same answers everywhere.

        Raises:
            ValueError: there is no such device or runtime here, or the weights don't fit the architecture.
        """
        self.card = checkpoint.card
        self.version = checkpoint.version
        self.classes = checkpoint.card.classes
        self.device = resolve_device(device)
        classifier = Classifier(checkpoint.module(), self.card.mean, self.card.std)
        self._runtime = runtime_for(classifier, self.card, self.device, runtime, cache)
        self.runtime = self._runtime.name
        """What runs the net, such as ``openvino-float32-2``."""
        self.passes = self._runtime.passes
        """How many passes side by side are best here."""
        self.batches = self.device != "cpu"
        """Whether images gain by sharing a pass; a CPU takes longer over a batch than over its images one by one."""
        self.shapes: set[tuple[int, int]] = set()
        """(h, w) of the prepared images seen so far: what a successor is to be warmed with."""
        self._least_side = least_side(self.card.architecture)
        self._side = max(self._least_side, self.card.image_size + -self.card.image_size % STRIDE)

    def side(self, shape: tuple[int, int]) -> int:
        """Longer side, in pixels, at which an image of natural size `shape` (H, W) is looked at."""
        return 2 * self._side if max(shape) > _LARGE else self._side

    def prepare(self, image: Image, shape: tuple[int, int] | None = None) -> Image:
        """`image` (H, W) or (H, W, C) as the net sees it: (h, w, channels), uint8 or finite float32.

        h and w are the multiples of 32 nearest to its shape: to nets, a picture that is a little stretched is less
        strange than one that goes on beyond its border. `shape` is the natural size (H, W) of an image that was made
        smaller already.

        Raises:
            ValueError: the image has another shape, type or number of channels, or no pixels.
        """
        image = conform(image, self.card.channels)
        image = self._fit(image, self.side(shape or (image.shape[0], image.shape[1])))
        if image.dtype == np.uint16:
            return np.asarray(image / np.float32(full_scale(image.dtype)), np.float32)
        if image.dtype == np.float32:
            return np.where(np.isfinite(image), image, np.array(self.card.mean, np.float32))
        return image

    def segment(
        self, images: Sequence[Image], shapes: Sequence[tuple[int, int]], quality: Quality = "fast"
    ) -> list[tuple[ClassMap, Confidence]]:
        """Class map uint8 (H, W) and confidence uint8 (H, W), 0–255, of each prepared image, at its natural size.

        `shapes` are the natural sizes (H, W). The confidence is the probability of the class chosen, in 255ths.
        """
        found = self._cells(images, quality)
        return [_at_natural_size(cells, *shape) for cells, shape in zip(found, shapes, strict=True)]

    def probabilities(self, images: Sequence[Image], quality: Quality = "fast") -> list[NDArray[np.float32]]:
        """Probabilities (classes, h, w) of each prepared image (h, w, channels); they sum to 1 over the classes."""
        return [_grown(cells) for cells in self._cells(images, quality)]

    def predict(self, image: Image, quality: Quality = "fast") -> tuple[ClassMap, Confidence]:
        """Class map uint8 (H, W) and confidence uint8 (H, W), 0–255, of an image, at its size.

        The image is (H, W) or (H, W, C) of uint8, uint16 or float32, RGB where the segmenter sees three channels; grey
        and RGB are made into each other. The confidence is the probability of the class chosen, in 255ths. Beyond what
        is returned, memory stays within a few hundred MB for images of any size.

        Raises:
            ValueError: the image has another shape, type or number of channels, or no pixels.
        """
        return self.predict_batch([image], quality)[0]

    def predict_batch(self, images: Sequence[Image], quality: Quality = "fast") -> list[tuple[ClassMap, Confidence]]:
        """``predict`` of each image, in order."""
        shapes = [(image.shape[0], image.shape[1]) for image in images]
        return self.segment([self.prepare(image) for image in images], shapes, quality)

    def warm(self, shapes: Iterable[tuple[int, int]] = (), *, aside: bool = False) -> None:
        """Run a pass for a square and for images of the `shapes` (h, w), so that no later image pays for it.

        They may be those that another segmenter saw, which looks at images of another size. With `aside`, it takes
        longer, and takes less from other segmenters that work meanwhile.
        """
        shapes = sorted({(self._side, self._side), *(self._fitted(*shape, self._side) for shape in shapes)})
        if aside:
            self._runtime.prepare([(1, *shape, self.card.channels) for shape in shapes])
        for shape in shapes:
            self._runtime(np.zeros((1, *shape, self.card.channels), np.uint8))
            self.shapes.add(shape)
            if aside:
                time.sleep(_BREATHER)

    def check(self) -> None:
        """Look at a picture.

        Raises:
            ValueError: the answer is no distribution over the classes.
        """
        found = self.probabilities([self.prepare(sample_paintings(self.card, 1)[0])])[0]
        if not (np.isfinite(found).all() and np.allclose(found.sum(axis=0), 1, atol=1e-2)):
            raise ValueError(
                f"Checkpoint {self.version} answers with numbers that are no probabilities, so its weights are broken: "
                "train again, or roll back to another checkpoint."
            )

    def close(self) -> None:
        """Let go of the net and its memory; whoever asks it anything afterwards gets a RuntimeError."""
        self._runtime.close()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _cells(self, images: Sequence[Image], quality: Quality) -> list[Tensor]:
        """Refined probabilities (classes, h/2, w/2) of each image (h, w, channels), in tiles where it is large."""
        ordinary = iter(self._seen([image for image in images if not self._is_large(image)], quality))
        return [self._in_tiles(image, quality) if self._is_large(image) else next(ordinary) for image in images]

    def _is_large(self, image: Image) -> bool:
        return max(image.shape[:2]) > self._side

    def _in_tiles(self, image: Image, quality: Quality) -> Tensor:
        places = list(tiles(image.shape[0], image.shape[1], self._side))
        whole, *parts = self._seen([self._fit(image, self._side), *(image[place] for place in places)], quality)
        size = [side // CELL for side in image.shape[:2]]
        whole = functional.interpolate(whole[None], size, mode="bilinear", align_corners=False)[0]
        in_cells = [(_halved(rows), _halved(columns)) for rows, columns in places]
        blended = blend(whole, list(zip(in_cells, parts, strict=True)), _TILES_SHARE)
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(blended.device).permute(2, 0, 1)
        picture = functional.interpolate(normalise(pixels[None], self.card.mean, self.card.std), size, mode="area")
        return refine(blended[None], picture)[0]

    def _seen(self, images: Sequence[Image], quality: Quality) -> list[Tensor]:
        """Refined probabilities (classes, h/2, w/2) of each image, the mean of all views of that `quality`."""
        if quality == "fast":
            return self._passed(images)
        sums: list[Any] = [0] * len(images)
        for scale, mirrored in _VIEWS[quality]:
            views = [self._fit(image, round(max(image.shape[:2]) * scale)) for image in images]
            found = self._passed([view[:, ::-1] if mirrored else view for view in views])
            for index, (image, cells) in enumerate(zip(images, found, strict=True)):
                size = [side // CELL for side in image.shape[:2]]
                cells = cells.flip(2) if mirrored else cells
                cells = functional.interpolate(cells[None], size, mode="bilinear", align_corners=False)[0]
                sums[index] = sums[index] + cells
        return [total / len(_VIEWS[quality]) for total in sums]

    def _passed(self, images: Sequence[Image]) -> list[Tensor]:
        """Refined probabilities (classes, h/2, w/2) of each image, together with those that it gains by."""
        groups: dict[object, list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            groups[(image.shape, image.dtype) if self.batches else index].append(index)
            self.shapes.add((image.shape[0], image.shape[1]))
        answers: dict[int, Tensor] = {}
        for group in groups.values():
            answers.update(zip(group, self._runtime(np.stack([images[index] for index in group])), strict=True))
        return [answers[index] for index in range(len(images))]

    def _fit(self, image: NDArray[Value], longer_side: int) -> NDArray[Value]:
        return resize(image, *self._fitted(image.shape[0], image.shape[1], longer_side))

    def _fitted(self, height: int, width: int, longer_side: int) -> tuple[int, int]:
        """The sides that the net takes and that are nearest to those of an image of that longer side."""
        scale = longer_side / max(height, width)
        height, width = (max(self._least_side, STRIDE * round(side * scale / STRIDE)) for side in (height, width))
        return height, width


def _halved(pixels: slice) -> slice:
    return slice(pixels.start // CELL, pixels.stop // CELL)


def _grown(cells: Tensor) -> NDArray[np.float32]:
    """Probabilities (classes, CELL·h, CELL·w) of those of cells (classes, h, w)."""
    _, height, width = cells.shape
    size = (CELL * width, CELL * height)
    # As torch interpolates, in a third of the time.
    return np.stack([cv2.resize(each, size, interpolation=cv2.INTER_LINEAR) for each in cells.cpu().numpy()])


@torch.inference_mode()
def _at_natural_size(probabilities: Tensor, height: int, width: int) -> tuple[ClassMap, Confidence]:
    """Class map and confidence (`height`, `width`) of probabilities (classes, h, w); a GPU does it strip by strip."""
    if probabilities.device.type == "cpu":
        return to_natural_size(probabilities.numpy(), height, width)
    return _in_strips(probabilities, height, width)


def _in_strips(probabilities: Tensor, height: int, width: int) -> tuple[ClassMap, Confidence]:
    classes, rows, _ = probabilities.shape
    device = probabilities.device
    class_map, confidence = (torch.empty((height, width), dtype=torch.uint8, device=device) for _ in range(2))
    position = ((torch.arange(height, device=device) + 0.5) * rows / height - 0.5).clamp(0, rows - 1)
    above = position.long()
    below = (above + 1).clamp(max=rows - 1)
    weight = (position - above).unsqueeze(1)
    step = max(1, _STRIP_VALUES // (classes * width))
    for start in range(0, height, step):
        strip = slice(start, start + step)
        lines = torch.lerp(probabilities[:, above[strip]], probabilities[:, below[strip]], weight[strip])
        lines = functional.interpolate(lines[None], (lines.shape[1], width), mode="bilinear", align_corners=False)[0]
        confidence[strip] = lines.amax(dim=0).mul(255).round()
        class_map[strip] = lines.argmax(dim=0)
    return class_map.cpu().numpy(), confidence.cpu().numpy()

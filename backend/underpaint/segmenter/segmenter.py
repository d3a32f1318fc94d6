"""A checkpoint at work: painting in, class map and confidence out."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.segmenter.architecture import least_side
from underpaint.segmenter.channels import Image, conform, normalise
from underpaint.segmenter.refinement import refine

Value = TypeVar("Value", bound=np.integer[Any] | np.floating[Any])
ClassMap = NDArray[np.uint8]
Confidence = NDArray[np.float32]

Quality = Literal["fast", "best"]
"""How often a painting is looked at: ``fast`` once, ``best`` six times, at three sizes and mirrored."""

STRIDE = 32  # encoders halve an image five times
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
    height, width = image.shape[:2]
    scale = longer_side / max(height, width)
    if scale == 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    # OpenCV takes at most four channels at a time, and drops the axis of a single one.
    fours = (image[..., first : first + 4] for first in range(0, image.shape[2], 4))
    return np.dstack([np.asarray(cv2.resize(each, size, interpolation=interpolation), image.dtype) for each in fours])


class Segmenter:
    """A checkpoint on a device. Equal images give equal answers, whatever else is in the batch, on the CPU."""

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu") -> None:
        """Build the net on `device`: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
        self.card = checkpoint.card
        self.version = checkpoint.version
        self.classes = checkpoint.card.classes
        self.device = resolve_device(device)
        module = checkpoint.module().to(self.device)
        self._module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._least_side = least_side(self.card.architecture)

    def warm(self) -> None:
        """Run one forward pass, so that the first painting does not pay for the device's start."""
        self.predict(np.zeros((self.card.image_size, self.card.image_size, self.card.channels), np.uint8))

    def predict(self, image: Image, quality: Quality = "fast") -> tuple[ClassMap, Confidence]:
        """Class map uint8 (H, W) and confidence float32 (H, W), 0–1, of an image, at its size.

        The image is (H, W) or (H, W, C) of uint8, uint16 or float32, RGB where the segmenter sees three channels; grey
        and RGB are made into each other. The confidence is the softmax probability of the class chosen. Beyond what is
        returned, memory stays within a few hundred MB for images of any size.

        Raises:
            ValueError: the image has another shape, type or number of channels, or no pixels.
        """
        return self.predict_batch([image], quality)[0]

    def predict_batch(self, images: Sequence[Image], quality: Quality = "fast") -> list[tuple[ClassMap, Confidence]]:
        """``predict`` of each image, in order; images of one shape go through a GPU together."""
        small = [fit(conform(image, self.card.channels), self.card.image_size) for image in images]
        answers: dict[int, tuple[ClassMap, Confidence]] = {}
        for group in self._groups(small):
            probabilities = self._probabilities([small[index] for index in group], quality)
            for index, each in zip(group, probabilities, strict=True):
                answers[index] = _at_natural_size(each, *images[index].shape[:2])
        return [answers[index] for index in range(len(images))]

    def _groups(self, images: list[Image]) -> list[list[int]]:
        # A CPU takes longer over a batch than over its images one by one.
        if self.device == "cpu":
            return [[index] for index in range(len(images))]
        groups: dict[object, list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            groups[image.shape, image.dtype].append(index)
        return list(groups.values())

    @torch.inference_mode()
    def _probabilities(self, images: list[Image], quality: Quality) -> Tensor:
        """Probabilities (N, classes, h, w) of N images (h, w, channels) of one shape and type."""
        size = images[0].shape[:2]
        views = _VIEWS[quality]
        mean = torch.zeros(())
        for scale, mirrored in views:
            seen = [fit(image, max(1, round(max(size) * scale))) for image in images]
            logits = self._forward([np.ascontiguousarray(image[:, ::-1]) for image in seen] if mirrored else seen)
            logits = logits.flip(3) if mirrored else logits
            if logits.shape[2:] != size:
                logits = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
            mean = mean.to(logits) + logits.softmax(dim=1) / len(views)
        return refine(mean, self._normalised(images))

    def _normalised(self, images: Sequence[NDArray[Any]]) -> Tensor:
        batch = torch.from_numpy(np.stack(images)).to(self.device).permute(0, 3, 1, 2)
        return normalise(batch, self.card.mean, self.card.std)

    @torch.inference_mode()
    def _forward(self, images: list[Image]) -> Tensor:
        """Logits (N, classes, h, w) of N images (h, w, channels) of one shape and type."""
        height, width = images[0].shape[:2]
        below, right = (max(-side % STRIDE, self._least_side - side) for side in (height, width))
        padded = [cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REFLECT_101) for image in images]
        # OpenCV drops the axis of a single channel.
        stacked = [np.asarray(image).reshape(height + below, width + right, -1) for image in padded]
        logits: Tensor = self._module(self._normalised(stacked))
        return logits[:, :, :height, :width].float()


@torch.inference_mode()
def _at_natural_size(probabilities: Tensor, height: int, width: int) -> tuple[ClassMap, Confidence]:
    """Class map and confidence (`height`, `width`) of probabilities (classes, h, w), interpolated strip by strip."""
    class_map = np.empty((height, width), np.uint8)
    confidence = np.empty((height, width), np.float32)
    classes, rows, _ = probabilities.shape
    position = ((torch.arange(height, device=probabilities.device) + 0.5) * rows / height - 0.5).clamp(0, rows - 1)
    above = position.long()
    below = (above + 1).clamp(max=rows - 1)
    weight = (position - above).unsqueeze(1)
    step = max(1, _STRIP_VALUES // (classes * width))
    for start in range(0, height, step):
        strip = slice(start, start + step)
        lines = torch.lerp(probabilities[:, above[strip]], probabilities[:, below[strip]], weight[strip])
        lines = functional.interpolate(lines[None], (lines.shape[1], width), mode="bilinear", align_corners=False)[0]
        best = lines.max(dim=0)
        class_map[strip] = best.indices.byte().cpu().numpy()
        confidence[strip] = best.values.cpu().numpy()
    return class_map, confidence

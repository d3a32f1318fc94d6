"""A checkpoint at work: painting in, class map and confidence out."""

from collections import defaultdict
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from underpaint.checkpoints.checkpoint import Checkpoint

Image = NDArray[np.uint8]
ClassMap = NDArray[np.uint8]
Confidence = NDArray[np.float32]

STRIDE = 32  # encoders halve an image five times
_STRIP_VALUES = 2**24  # logits held at natural size at a time: 64 MiB in float32


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


def fit(image: Image, longer_side: int) -> Image:
    """`image` (H, W, 3) resized so that its longer side is `longer_side` pixels, its shape kept."""
    height, width = image.shape[:2]
    scale = longer_side / max(height, width)
    if scale == 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=interpolation), np.uint8)


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
        self._shift, self._scale = (
            (torch.tensor(channels, device=self.device) * 255).view(3, 1, 1)
            for channels in (self.card.mean, self.card.std)
        )

    def warm(self) -> None:
        """Run one forward pass, so that the first painting does not pay for the device's start."""
        self.predict(np.zeros((self.card.image_size, self.card.image_size, 3), np.uint8))

    def predict(self, image: Image) -> tuple[ClassMap, Confidence]:
        """Class map uint8 (H, W) and confidence float32 (H, W), 0–1, of an RGB image uint8 (H, W, 3), at its size.

        The confidence is the softmax probability of the class chosen. Beyond what is returned, memory stays within a
        few hundred MB for images of any size.

        Raises:
            ValueError: the image has another shape or type, or no pixels.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[Image]) -> list[tuple[ClassMap, Confidence]]:
        """``predict`` of each image, in order; images of one shape go through a GPU together."""
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
                raise ValueError(f"An image is uint8 (H, W, 3) with pixels, not {image.dtype} {image.shape}.")
        small = [fit(image, self.card.image_size) for image in images]
        answers: dict[int, tuple[ClassMap, Confidence]] = {}
        for group in self._groups(small):
            logits = self._forward([small[index] for index in group])
            for index, each in zip(group, logits, strict=True):
                answers[index] = _at_natural_size(each, *images[index].shape[:2])
        return [answers[index] for index in range(len(images))]

    def _groups(self, images: list[Image]) -> list[list[int]]:
        # A CPU takes longer over a batch than over its images one by one.
        if self.device == "cpu":
            return [[index] for index in range(len(images))]
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            groups[image.shape].append(index)
        return list(groups.values())

    @torch.inference_mode()
    def _forward(self, images: list[Image]) -> Tensor:
        """Logits (N, classes, h, w) of N images uint8 (h, w, 3)."""
        height, width = images[0].shape[:2]
        padding = (0, -height % STRIDE, 0, -width % STRIDE)
        padded = [cv2.copyMakeBorder(image, *padding, cv2.BORDER_REFLECT_101) for image in images]
        batch = torch.from_numpy(np.stack(padded)).to(self.device).permute(0, 3, 1, 2)
        logits: Tensor = self._module((batch - self._shift) / self._scale)
        return logits[:, :, :height, :width].float()


@torch.inference_mode()
def _at_natural_size(logits: Tensor, height: int, width: int) -> tuple[ClassMap, Confidence]:
    """Class map and confidence (`height`, `width`) of logits (classes, h, w), interpolated strip by strip."""
    class_map = np.empty((height, width), np.uint8)
    confidence = np.empty((height, width), np.float32)
    classes, rows, _ = logits.shape
    position = ((torch.arange(height, device=logits.device) + 0.5) * rows / height - 0.5).clamp(0, rows - 1)
    above = position.long()
    below = (above + 1).clamp(max=rows - 1)
    weight = (position - above).unsqueeze(1)
    step = max(1, _STRIP_VALUES // (classes * width))
    for start in range(0, height, step):
        strip = slice(start, start + step)
        lines = torch.lerp(logits[:, above[strip]], logits[:, below[strip]], weight[strip])
        lines = functional.interpolate(lines[None], (lines.shape[1], width), mode="bilinear", align_corners=False)[0]
        best = lines.softmax(dim=0).max(dim=0)
        class_map[strip] = best.indices.byte().cpu().numpy()
        confidence[strip] = best.values.cpu().numpy()
    return class_map, confidence

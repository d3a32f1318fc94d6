"""Random variations of a painting and its class map, alike for both."""

import underpaint.segmenter  # noqa: F401  # isort: skip  (makes torchvision importable)

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from underpaint.segmenter.segmenter import fit
from underpaint.taxonomy import UNLABELLED
from underpaint_workers.dataset import Item

SCALES = (0.5, 2.0)
"""Least and greatest size of a varied painting, relative to how the segmenter sees it."""


def shrink(item: Item, longer_side: int) -> Item:
    """A painting and its class map, resized if the longer side has more than ``longer_side`` pixels."""
    image, class_map = item
    if max(class_map.shape) <= longer_side:
        return item
    image = fit(image, longer_side)
    size = (image.shape[1], image.shape[0])
    return image, np.asarray(cv2.resize(class_map, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


class Augmentation:
    """Scale, crop, flip and recolour; draws from torch's global random numbers."""

    def __init__(self, size: int) -> None:
        """Varied paintings are `size` × `size` pixels."""
        fill = {tv_tensors.Image: 128, tv_tensors.Mask: UNLABELLED}
        self._transform = v2.Compose(
            [
                v2.ScaleJitter((size, size), SCALES),
                v2.RandomCrop(size, pad_if_needed=True, fill=fill),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3),
            ]
        )

    def __call__(self, image: Tensor, class_map: Tensor) -> tuple[Tensor, Tensor]:
        """Vary an image uint8 (3, H, W) and its class map uint8 (H, W); what lies outside becomes 255."""
        image, class_map = self._transform(tv_tensors.Image(image), tv_tensors.Mask(class_map))
        return image.as_subclass(torch.Tensor), class_map.as_subclass(torch.Tensor)

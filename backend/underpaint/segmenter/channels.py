"""Channels of images: how many, on which scale, and how a net wants them.

An image is (H, W, C) of uint8 (0–255), uint16 (0–65535) or float32 (any range, such as metres of a terrain model;
values that are not finite mean no data). Means and standard deviations are in units of full scale: 255, 65535 and 1.
"""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Image = NDArray[np.uint8 | np.uint16 | np.float32]
"""(H, W, C), or (H, W) where it says so."""

_FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}


def full_scale(dtype: np.dtype[np.generic] | torch.dtype) -> float:
    """The value that counts as 1 in an image of `dtype`.

    Raises:
        ValueError: images of this type are not known.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in _FULL_SCALE:
        raise ValueError(f"An image has values of {', '.join(_FULL_SCALE)}, not {name}: convert it to one of these.")
    return _FULL_SCALE[name]


def conform(image: Image, channels: int) -> Image:
    """`image` (H, W) or (H, W, C) as (H, W, `channels`): grey is repeated for three channels, RGB for one becomes luma.

    Raises:
        ValueError: it has no pixels, another type, or other channels that nothing can be made of.
    """
    full_scale(image.dtype)
    if image.ndim not in (2, 3) or image.size == 0:
        raise ValueError(f"An image is (H, W) or (H, W, C) with pixels, not {image.shape}.")
    if image.ndim == 2:
        image = image[..., None]
    has = image.shape[2]
    if has == channels:
        return image
    if (has, channels) == (1, 3):
        return np.repeat(image, 3, axis=2)
    if (has, channels) == (3, 1):
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY), image.dtype)[..., None]
    raise ValueError(
        f"The image has {has} channels, and this segmenter sees {channels}: give it images of {channels} channels, "
        f"or train one on a data set whose classes.json says {has}."
    )


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """`images` (…, C, H, W) of uint8, uint16 or float32 as float32, `mean` taken away and divided by `std` (C each).

    Values that are not finite become the channel's mean, which is 0 then.
    """
    unit = full_scale(images.dtype)
    shift, scale = ((torch.tensor(each, device=images.device) * unit).view(-1, 1, 1) for each in (mean, std))
    normalised = (images.float() - shift) / scale
    return normalised.nan_to_num(0.0, 0.0, 0.0) if images.is_floating_point() else normalised


def statistics(images: Iterable[Image]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of `images` (H, W, C), in units of full scale.

    Values that are not finite don't count. A channel that never varies has the standard deviation 1.

    Raises:
        ValueError: there are no images, or they differ in their number of channels.
    """
    moments: list[NDArray[np.float64]] = []
    for image in images:
        pixels = image.reshape(-1, image.shape[2]) / np.float64(full_scale(image.dtype))
        known = np.isfinite(pixels)
        pixels[~known] = 0
        count, total = known.sum(axis=0), pixels.sum(axis=0)
        # The squares of heights far from zero would drown what they vary by: each image's own mean goes first.
        centre = total / np.maximum(count, 1)
        moments.append(np.stack([count, total, ((pixels - centre) ** 2 * known).sum(axis=0)]))
    if len({each.shape for each in moments}) != 1:
        raise ValueError("Images of one data set all have the same number of channels, and there is at least one.")
    counts, totals, squares = np.stack(moments, axis=1)
    count = np.maximum(counts.sum(axis=0), 1)
    mean = totals.sum(axis=0) / count
    centres = totals / np.maximum(counts, 1)
    std = np.sqrt((squares + counts * (centres - mean) ** 2).sum(axis=0) / count)
    return tuple(mean.tolist()), tuple(np.where(std > 1e-7 * np.abs(mean), std, 1.0).tolist())

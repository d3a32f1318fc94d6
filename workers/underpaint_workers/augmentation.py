"""Random variations of a painting and its class map, alike for both.

Geometry is one affine map and colour another, so that a painting is resampled once and rounded to 8 bits once, and
a variation takes a few milliseconds: torchvision's ColorJitter alone takes longer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from underpaint.segmenter.channels import Image, full_scale
from underpaint.segmenter.segmenter import fit
from underpaint.taxonomy import UNLABELLED
from underpaint_workers.dataset import Item
from underpaint_workers.texture import texture

SCALES = (1 / 1.8, 1.8)
"""Least and greatest size of a varied painting, relative to how the segmenter sees it."""

Matrix = NDArray[np.float64]

_MIDDLE_GREY = 128
_COARSEST = 0.5  # a painting shrunk by more than this is averaged; interpolation alone would leave pixels out
_MARGIN = 0.1  # share of a crop's side that a pixel it must contain keeps from its border, if the painting allows
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_TO_RGB = np.linalg.inv(_TO_YIQ)


def shrink(item: Item, longer_side: int) -> Item:
    """A painting and its class map, resized if the longer side has more than ``longer_side`` pixels."""
    image, class_map = item
    if max(class_map.shape) <= longer_side:
        return item
    image = fit(image, longer_side)
    size = (image.shape[1], image.shape[0])
    return image, np.asarray(cv2.resize(class_map, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


@dataclass(frozen=True)
class Augmentation:
    """Scale, crop, flip, turn and shear paintings with their class maps; recolour, texture and blur the paintings.

    Fields named ``p_…`` are the probabilities (0–1) of what the others say the strength of. Hue, saturation, palette,
    grey and texture are for RGB of 8 bits only: a raster of other channels or depth has no such thing.
    """

    size: int
    """Varied paintings are `size` × `size` pixels."""
    scales: tuple[float, float] = SCALES
    """Least and greatest scale, relative to a painting whose longer side is `size`; uniform in its logarithm."""
    p_flip: float = 0.5
    p_affine: float = 0.5
    degrees: float = 10.0
    """Largest turn either way, in degrees."""
    shear: float = 0.05
    """Largest horizontal shear either way, in pixels a pixel."""
    p_brightness: float = 1.0
    brightness: float = 0.4
    """Factor 1 ± this; where pixels are not RGB of 8 bits, an offset of ± this many standard deviations."""
    p_contrast: float = 1.0
    contrast: float = 0.4
    """Factor 1 ± this, about the mean."""
    p_saturation: float = 1.0
    saturation: float = 0.4
    """Factor 1 ± this."""
    p_hue: float = 1.0
    hue: float = 0.05
    """Largest turn of the hue either way, in turns."""
    p_palette: float = 0.25
    palette: float = 0.25
    """Standard deviation of how the two axes of chroma stretch (logarithm) and, as a share of 40 levels, shift."""
    p_grey: float = 0.1
    p_texture: float = 0.2
    texture: tuple[float, float] = (0.02, 0.08)
    """Least and greatest contrast of paper and canvas, relative to the paint."""
    p_blur: float = 0.2
    blur: tuple[float, float] = (0.3, 1.5)
    """Least and greatest standard deviation of the Gaussian, in pixels."""

    @classmethod
    def off(cls, size: int) -> "Augmentation":
        """Fits paintings to the size and changes nothing else."""
        probabilities: dict[str, Any] = {field.name: 0.0 for field in fields(cls) if field.name.startswith("p_")}
        return replace(cls(size), scales=(1.0, 1.0), **probabilities)

    def __call__(
        self,
        image: Tensor,
        class_map: Tensor,
        generator: np.random.Generator | None = None,
        pixel: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Vary an image uint8, uint16 or float32 (C, H, W) and its class map uint8 (H, W), both on the CPU.

        Gives an image (C, size, size) of the same dtype and a class map uint8 (size, size); what lies outside the
        painting is 255 there. The pixel in row and column `pixel`, if given, is in the crop. Random numbers come from
        `generator`, or without one differ each time.
        """
        rng = np.random.default_rng(generator)
        pixels = image.permute(1, 2, 0).numpy()
        is_rgb = pixels.dtype == np.uint8 and pixels.shape[2] == 3
        affine = self._affine(class_map.shape, rng, pixel)
        varied = self._warp(pixels, affine, is_rgb)
        ids = _resample(class_map.numpy(), affine, self.size, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, UNLABELLED)
        varied = self._recolour(varied, rng) if is_rgb else self._relight(varied, rng)
        if is_rgb and rng.random() < self.p_texture:
            varied = texture(varied, rng.uniform(*self.texture), rng)
        if rng.random() < self.p_blur:
            varied = np.asarray(cv2.GaussianBlur(varied, (0, 0), rng.uniform(*self.blur)))
        varied = varied.reshape(self.size, self.size, -1)  # cv2 drops the axis of a single channel
        return from_numpy(varied).permute(2, 0, 1), from_numpy(ids)

    def _affine(self, shape: Sequence[int], rng: np.random.Generator, pixel: tuple[int, int] | None) -> Matrix:
        """Where a point (x, y, 1) of a painting (H, W) goes: (2, 3), in pixels from the corner of the first pixel."""
        size = np.array([shape[1], shape[0]], float)
        low, high = np.log(self.scales)
        linear = np.eye(2) * np.exp(rng.uniform(low, high)) * self.size / size.max()
        if rng.random() < self.p_affine:
            turn = np.deg2rad(rng.uniform(-self.degrees, self.degrees))
            rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
            linear = rotation @ np.array([[1.0, rng.uniform(-self.shear, self.shear)], [0.0, 1.0]]) @ linear
        if rng.random() < self.p_flip:
            linear = np.diag([-1.0, 1.0]) @ linear
        # The crop moves as far as it lies in the box about the painting, or the box in the crop.
        box = np.abs(linear) @ size
        spare = box - self.size
        least, most = np.minimum(spare, 0), np.maximum(spare, 0)
        if pixel is not None:
            at = linear @ (np.array([pixel[1], pixel[0]]) + 0.5 - size / 2) + box / 2
            bounds = at - (1 - _MARGIN) * self.size, at - _MARGIN * self.size
            least, most = (np.clip(bound, least, most) for bound in bounds)
        corner = rng.uniform(least, most)
        return np.column_stack([linear, box / 2 - corner - linear @ size / 2])

    def _warp(self, pixels: Image, affine: Matrix, is_rgb: bool) -> Image:
        height, width = pixels.shape[:2]
        scale = np.sqrt(abs(np.linalg.det(affine[:, :2])))
        if scale < _COARSEST:
            coarse = max(1, round(width * scale)), max(1, round(height * scale))
            pixels = np.asarray(cv2.resize(pixels, coarse, interpolation=cv2.INTER_AREA))
            affine = affine @ np.diag([width / coarse[0], height / coarse[1], 1.0])
        # Grey like the mean that nets are trained on; a raster has no middle grey, so its edge goes on.
        border = cv2.BORDER_CONSTANT if is_rgb else cv2.BORDER_REPLICATE
        return _resample(pixels, affine, self.size, cv2.INTER_LINEAR, border, _MIDDLE_GREY)

    def _recolour(self, image: Image, rng: np.random.Generator) -> Image:
        """Vary the colours of RGB uint8 (H, W, 3) by one affine map, put together in YIQ (luma and two of chroma)."""
        brightness = _factor(self.p_brightness, self.brightness, rng)
        contrast = _factor(self.p_contrast, self.contrast, rng)
        saturation = _factor(self.p_saturation, self.saturation, rng)
        turn = 2 * np.pi * (_factor(self.p_hue, self.hue, rng) - 1)
        chroma = saturation * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        shift = np.zeros(3)
        if rng.random() < self.p_grey:
            chroma[:] = 0
        if rng.random() < self.p_palette:
            # Other statistics of chroma, as if taken over from another painting (Reinhard et al., CG&A 2001).
            chroma = np.diag(np.exp(rng.normal(0, self.palette, 2))) @ chroma
            shift[1:] = rng.normal(0, self.palette * 40, 2)
        gain = np.eye(3)
        gain[1:, 1:] = chroma
        luma = float(_TO_YIQ[0] @ np.array(cv2.mean(image))[:3])
        shift[0] = (1 - contrast) * brightness * luma
        colour = np.column_stack([_TO_RGB @ (brightness * contrast * gain) @ _TO_YIQ, _TO_RGB @ shift])
        return np.asarray(cv2.transform(image, colour))

    def _relight(self, image: Image, rng: np.random.Generator) -> Image:
        """Vary brightness and contrast of any raster, channel by channel, for each may be in a unit of its own."""
        contrast = _factor(self.p_contrast, self.contrast, rng)
        offset = _factor(self.p_brightness, self.brightness, rng) - 1
        values: NDArray[np.float32] = image.reshape(image.shape[0] * image.shape[1], -1).astype(np.float32)
        for channel in values.T:
            known = channel[np.isfinite(channel)]
            if known.size:
                channel[:] = known.mean() + contrast * (channel - known.mean()) + offset * known.std()
        if image.dtype.kind == "u":
            values = np.rint(values).clip(0, full_scale(image.dtype))
        return np.asarray(values.reshape(image.shape), image.dtype)


def _resample(image: Image, affine: Matrix, size: int, interpolation: int, border: int, fill: int) -> Image:
    half = np.full(2, 0.5)  # OpenCV counts from the centre of the first pixel, not from its corner
    matrix = np.column_stack([affine[:, :2], affine[:, :2] @ half + affine[:, 2] - half])
    fills = (fill, fill, fill)
    return np.asarray(
        cv2.warpAffine(image, matrix, (size, size), flags=interpolation, borderMode=border, borderValue=fills)
    )


def _factor(probability: float, strength: float, rng: np.random.Generator) -> float:
    """1 ± up to `strength`, with `probability`, else 1."""
    return rng.uniform(1 - strength, 1 + strength) if rng.random() < probability else 1.0

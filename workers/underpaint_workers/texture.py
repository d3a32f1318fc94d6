"""Paper and canvas: the grain of what a painting is painted on, as a scan shows it."""

import cv2
import numpy as np
from numpy.typing import NDArray

from underpaint.segmenter.channels import Image
from underpaint_workers.scenes.noise import Field, fractal, smooth


def texture(image: Image, strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """An RGB image uint8 (H, W, 3) on a canvas or a paper whose relief has `strength` (0–1) of the paint's contrast."""
    height, width = image.shape[:2]
    grain = canvas(height, width, rng) if rng.random() < 0.5 else paper(height, width, rng)
    return np.asarray(cv2.convertScaleAbs(image * (1 + strength * grain)[..., None]), np.uint8)  # rounds and saturates


def canvas(height: int, width: int, rng: np.random.Generator) -> Field:
    """A plain weave (height, width), float32 of mean 0 and deviation 1: uneven threads, 2.5–6 pixels apart."""
    warp, weft = _threads(rng, height, width), _threads(rng, width, height).T
    return _standardised(warp + weft + warp * weft)


def _threads(rng: np.random.Generator, length: int, width: int) -> Field:
    """Upright threads (length, width), about -1..1: they bend, and are neither evenly spaced nor evenly thick."""
    period = rng.uniform(2.5, 6)
    spacing = smooth(rng, 1, width, 1, width / 8)
    bend = smooth(rng, 1, length, 1, length / 4).T
    thickness = 1 + 0.3 * smooth(rng, 1, width, 1, period)
    phase = np.arange(width) / period + spacing + bend
    return np.asarray(np.cos(2 * np.pi * phase.astype(np.float32)) * thickness)


def paper(height: int, width: int, rng: np.random.Generator) -> Field:
    """Fibres and stains (height, width), float32 of mean 0 and deviation 1."""
    fibres = fractal(rng, height, width, rng.uniform(3, 8), rng.uniform(1, 3), octaves=3)
    stains = fractal(rng, height, width, max(height, width) / rng.uniform(1.5, 4), octaves=3)
    return _standardised(_standardised(fibres) + rng.uniform(0, 1) * _standardised(stains))


def _standardised(field: Field) -> Field:
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-6), np.float32)

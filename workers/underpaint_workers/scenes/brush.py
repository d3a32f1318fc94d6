"""The brush: strokes of bristle paint laid in layers, large to small (after Hertzmann, SIGGRAPH 1998).

A stroke belongs to the class under its centre and is clipped by the class map: it never touches another class's pixel.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from .noise import Field

Tip = Literal["bristle", "round", "knife", "wash"]

_ANGLES = 16
_VARIANTS = 2
_SIZES = (0.65, 1.0, 1.35)


@dataclass(frozen=True)
class Layer:
    """One layer of strokes. Lengths are hundredths of the picture's shorter side."""

    length: float
    width: float
    coverage: float  # how often a pixel is painted over, on average
    tip: Tip = "bristle"
    opacity: float = 0.9
    wander: float = 0.25  # radians by which strokes leave the direction of what they paint
    value_jitter: float = 0.05
    hue_jitter: float = 0.04
    tolerance: float = 0.0  # strokes go only where the canvas is further than this from the guide


Stamp = tuple[Field, int, int]
"""Opacity of one stroke, cropped to what it covers, and how far its corner lies above and left of its centre."""


def _stroke(rng: np.random.Generator, length: float, width: float, tip: Tip) -> Field:
    """Opacity of one horizontal stroke: square float32, 0..1, with room to turn it."""
    side = int(np.ceil(np.hypot(length, width))) + 3
    steps = np.arange(side, dtype=np.float32) - (side - 1) / 2
    along, across = steps[None, :] / (length / 2), steps[:, None] / (width / 2)
    edge = 2.0 / max(width, 2.0)
    if tip == "round":
        return np.asarray(np.clip((1.0 - np.hypot(along, across)) / edge, 0.0, 1.0), np.float32)
    if tip == "knife":
        inside = np.minimum((1.0 - np.abs(across)) / edge, (1.0 - np.abs(along)) * length / 3)
        return np.asarray(np.clip(inside, 0.0, 1.0) * (0.92 + 0.08 * across), np.float32)
    hairs = cv2.GaussianBlur(rng.uniform(-1, 1, (side, 1)).astype(np.float32), (1, 0), 0.01, sigmaY=0.6)
    ragged = 0.8 + 0.28 * hairs
    body = np.clip(np.minimum((1.0 - np.abs(across) ** 1.5) / edge, (ragged - np.abs(along)) * length / 5), 0.0, 1.0)
    if tip == "wash":
        return np.asarray(cv2.GaussianBlur(body, (0, 0), max(width / 6, 0.8)))
    return np.asarray(body * np.clip(1.0 + 0.5 * hairs - 0.2 * along, 0.25, 1.0), np.float32)


def _stamps(rng: np.random.Generator, layer: Layer, unit: float) -> list[list[list[Stamp]]]:
    """Stamps by size, angle and variant, turned once here instead of for every stroke."""
    bank: list[list[list[Stamp]]] = []
    for size in _SIZES:
        length, width = max(layer.length * unit * size, 2.0), max(layer.width * unit * size, 1.6)
        strokes = [_stroke(rng, length, width, layer.tip) * layer.opacity for _ in range(_VARIANTS)]
        bank.append([[_turned(stroke, 180.0 * step / _ANGLES) for stroke in strokes] for step in range(_ANGLES)])
    return bank


def _turned(stroke: Field, degrees: float) -> Stamp:
    side = stroke.shape[0]
    centre = (side - 1) / 2
    turn = cv2.getRotationMatrix2D((centre, centre), -degrees, 1.0)
    turned = np.asarray(cv2.warpAffine(stroke, turn, (side, side)), np.float32)
    left, top, width, height = cv2.boundingRect((turned > 0.02).astype(np.uint8))
    return turned[top : top + height, left : left + width, None].copy(), side // 2 - top, side // 2 - left


def paint_layer(
    surface: Field,
    guide: Field,
    classes: npt.NDArray[np.uint8],
    angle: Field,
    nearness: Field,
    layer: Layer,
    rng: np.random.Generator,
) -> None:
    """Paint one layer of strokes onto ``surface``, in place.

    ``surface`` (H, W, 4) float32: RGB in 0..1 and the thickness of the paint. ``guide`` (H, W, 3) float32 RGB in 0..1
    gives the colours, ``classes`` (H, W) uint8 the contours, ``angle`` (H, W) radians the directions and ``nearness``
    (H, W) 0..1 how large strokes are.
    """
    height, width = classes.shape
    unit = min(height, width) / 100
    spacing = float(np.sqrt(layer.length * layer.width / layer.coverage)) * unit
    grid_y, grid_x = np.meshgrid(np.arange(0, height, spacing), np.arange(0, width, spacing), indexing="ij")
    shake = rng.uniform(-0.5, 1.5, (2, grid_y.size)) * spacing
    ys = np.clip(grid_y.ravel() + shake[0], 0, height - 1).astype(np.intp)
    xs = np.clip(grid_x.ravel() + shake[1], 0, width - 1).astype(np.intp)
    if layer.tolerance:
        span = max(int(layer.width * unit), 3)
        error = cv2.blur(np.abs(surface[..., :3] - guide).max(axis=2), (span, span))
        wrong = error[ys, xs] > layer.tolerance
        ys, xs = ys[wrong], xs[wrong]
    order = rng.permutation(len(ys))
    ys, xs = ys[order], xs[order]

    count = len(ys)
    turns = angle[ys, xs] + rng.normal(0.0, layer.wander, count)
    steps = np.round(turns / np.pi * _ANGLES).astype(np.intp) % _ANGLES
    sizes = np.clip(np.round(nearness[ys, xs] * 2 + rng.normal(0, 0.45, count)), 0, 2).astype(np.intp)
    variants = rng.integers(0, _VARIANTS, count)
    jitter = rng.normal(0, layer.value_jitter, (count, 1)) + rng.normal(0, layer.hue_jitter, (count, 3))
    paints = np.empty((count, 4), np.float32)
    paints[:, :3] = np.clip(guide[ys, xs] + jitter, 0.0, 1.0)
    paints[:, 3] = rng.uniform(0.2, 1.0, count)

    bank = _stamps(rng, layer, unit)
    pad = max(max(stamp[0].shape) for by_angle in bank for variants_of in by_angle for stamp in variants_of) + 1
    canvas = np.pad(surface, ((pad, pad), (pad, pad), (0, 0)))
    owner = np.pad(classes, pad, constant_values=255)[..., None]
    strokes = zip(ys.tolist(), xs.tolist(), sizes.tolist(), steps.tolist(), variants.tolist(), paints, strict=True)
    for y, x, size, step, variant, paint in strokes:
        stamp, above, before = bank[size][step][variant]
        top, left = y + pad - above, x + pad - before
        window = (slice(top, top + stamp.shape[0]), slice(left, left + stamp.shape[1]))
        patch = canvas[window]
        patch += stamp * (owner[window] == owner[y + pad, x + pad]) * (paint - patch)
    surface[:] = canvas[pad:-pad, pad:-pad]

"""Manners of painting: what becomes of the colours, which strokes paint them, and on what ground."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from .brush import Layer, paint_layer
from .noise import Field, fractal
from .palette import HOURS, colour_guide
from .plan import Plan

Treatment = Callable[[Field, Plan], Field]
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)


def _saturate(colour: Field, amount: float) -> Field:
    grey = (colour @ _LUMA)[..., None]
    return np.clip(grey + (colour - grey) * amount, 0.0, 1.0)


def _contrast(colour: Field, amount: float, middle: float = 0.5) -> Field:
    return np.clip(middle + (colour - middle) * amount, 0.0, 1.0)


def _as_seen(colour: Field, _plan: Plan) -> Field:
    return _saturate(colour, 1.25)


def _muted(colour: Field, plan: Plan) -> Field:
    """Few tones, close together, drawn towards one of them (tonalism)."""
    keynotes = np.array(((0.74, 0.55, 0.26), (0.5, 0.53, 0.3), (0.42, 0.52, 0.62), (0.66, 0.46, 0.42)), np.float32)
    keynote = keynotes[int(plan.rng.integers(len(keynotes)))]
    return _contrast(_saturate(colour, 0.8) * 0.72 + keynote * 0.28, 1.15)


def _fauve(colour: Field, plan: Plan) -> Field:
    """Pure colours in flat steps, their hues pushed apart (fauvism)."""
    hsv = cv2.cvtColor(np.clip(colour, 0, 1), cv2.COLOR_RGB2HSV)
    wave = float(plan.rng.uniform(0, 2 * np.pi))
    hsv[..., 0] = (hsv[..., 0] + 26 * np.sin(np.deg2rad(hsv[..., 0]) * 2 + wave)) % 360
    hsv[..., 1] = np.clip(hsv[..., 1] * 1.5 + 0.22, 0.0, 0.92)
    hsv[..., 2] = np.clip(np.round(hsv[..., 2] * 6) / 6 * 1.05 + 0.06, 0.0, 1.0)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def _ink(colour: Field, plan: Plan) -> Field:
    """Ink on paper: tones of one ink, a breath of tint, light things left bare."""
    paper = plan.rng.uniform((0.84, 0.76, 0.6), (0.95, 0.91, 0.82)).astype(np.float32)
    luma = colour @ _LUMA
    dark, bright = np.percentile(luma[::4, ::4], (2, float(plan.rng.uniform(75, 92))))
    tone = (np.clip((bright - luma) / max(bright - dark, 0.05), 0.0, 1.0) ** 1.25 * 0.88)[..., None].astype(np.float32)
    tint = (colour - luma[..., None]) * float(plan.rng.uniform(0.1, 0.5))
    ink = np.array((0.1, 0.1, 0.12), np.float32)
    return np.asarray(np.clip(paper * (1.0 - tone) + ink * tone + tint, 0.0, 1.0), np.float32)


def _watery(colour: Field, plan: Plan) -> Field:
    """Thin washes: high in key, pooling in blots."""
    blots = fractal(plan.rng, plan.height, plan.width, plan.height * 0.12) * 0.07
    return np.clip(_saturate(colour, 1.35) * 0.82 + 0.2 + blots[..., None], 0.0, 0.97)


def _vivid(colour: Field, _plan: Plan) -> Field:
    return _contrast(_saturate(colour, 1.55), 1.12)


@dataclass(frozen=True)
class Manner:
    """One way of painting, from the toned ground to the grain of canvas or paper."""

    treat: Treatment
    ground: tuple[float, float, float]
    underpainting: float  # how much of the guide the first, thin layer shows over the ground, 0..1
    layers: tuple[Layer, ...]
    impasto: float = 0.3  # how strongly the thickness of the paint catches the light
    weave: float = 0.02  # contrast of the canvas or paper
    outline: float = 0.0  # darkness of the drawing along contours
    swirl: float = 0.25  # radians by which the direction of strokes drifts across the picture


_MANNERS: Mapping[str, Manner] = {
    "impressionist": Manner(
        _as_seen,
        ground=(0.72, 0.64, 0.52),
        underpainting=0.65,
        layers=(
            Layer(7.0, 2.2, 1.3, wander=0.3, value_jitter=0.03, hue_jitter=0.03),
            Layer(3.6, 1.2, 1.2, wander=0.35, value_jitter=0.04, hue_jitter=0.04),
            Layer(1.9, 0.75, 1.0, wander=0.4, value_jitter=0.04, hue_jitter=0.035, tolerance=0.085),
        ),
        impasto=0.4,
    ),
    "tonalist": Manner(
        _muted,
        ground=(0.5, 0.4, 0.3),
        underpainting=0.75,
        layers=(
            Layer(11.0, 3.4, 1.6, tip="wash", opacity=0.7, value_jitter=0.02, hue_jitter=0.012),
            Layer(5.5, 1.6, 1.2, opacity=0.55, value_jitter=0.02, hue_jitter=0.015),
            Layer(2.2, 0.9, 1.0, opacity=0.7, value_jitter=0.02, hue_jitter=0.015, tolerance=0.06),
        ),
        impasto=0.14,
        weave=0.035,
    ),
    "fauve": Manner(
        _fauve,
        ground=(0.93, 0.88, 0.78),
        underpainting=0.5,
        layers=(
            Layer(9.0, 3.2, 1.8, opacity=0.95, wander=0.2, value_jitter=0.03, hue_jitter=0.03),
            Layer(4.0, 1.8, 0.9, opacity=0.95, wander=0.2, value_jitter=0.03, hue_jitter=0.03, tolerance=0.1),
            Layer(1.9, 1.0, 1.0, opacity=0.95, wander=0.2, value_jitter=0.02, hue_jitter=0.02, tolerance=0.14),
        ),
        impasto=0.25,
        outline=0.45,
    ),
    "ink-wash": Manner(
        _ink,
        ground=(0.9, 0.85, 0.74),
        underpainting=0.5,
        layers=(
            Layer(10.0, 3.5, 1.2, tip="wash", opacity=0.6, wander=0.4, value_jitter=0.02, hue_jitter=0.004),
            Layer(3.2, 0.9, 0.9, opacity=0.75, wander=0.5, value_jitter=0.06, hue_jitter=0.004, tolerance=0.07),
            Layer(1.8, 0.5, 1.0, opacity=0.85, wander=0.5, value_jitter=0.06, hue_jitter=0.004, tolerance=0.1),
        ),
        impasto=0.0,
        weave=0.045,
        outline=0.5,
    ),
    "pointillist": Manner(
        _vivid,
        ground=(0.9, 0.86, 0.78),
        underpainting=0.75,
        layers=(
            Layer(2.1, 1.7, 1.1, tip="round", value_jitter=0.03, hue_jitter=0.05),
            Layer(1.25, 1.15, 1.25, tip="round", value_jitter=0.04, hue_jitter=0.07),
        ),
        impasto=0.3,
    ),
    "palette-knife": Manner(
        _vivid,
        ground=(0.4, 0.34, 0.3),
        underpainting=0.55,
        layers=(
            Layer(8.0, 4.2, 1.4, tip="knife", wander=0.5, value_jitter=0.05, hue_jitter=0.035),
            Layer(4.2, 2.2, 1.2, tip="knife", wander=0.6, value_jitter=0.05, hue_jitter=0.035, tolerance=0.07),
            Layer(2.0, 1.1, 1.0, tip="knife", wander=0.6, value_jitter=0.04, hue_jitter=0.03, tolerance=0.12),
        ),
        impasto=0.75,
    ),
    "watercolour": Manner(
        _watery,
        ground=(0.97, 0.95, 0.9),
        underpainting=0.85,
        layers=(
            Layer(12.0, 5.0, 1.0, tip="wash", opacity=0.45, wander=0.5, value_jitter=0.04, hue_jitter=0.02),
            Layer(3.4, 1.3, 0.9, tip="wash", opacity=0.7, value_jitter=0.05, hue_jitter=0.02, tolerance=0.06),
            Layer(1.8, 0.6, 0.9, opacity=0.7, value_jitter=0.04, hue_jitter=0.02, tolerance=0.09),
        ),
        impasto=0.0,
        weave=0.05,
        outline=0.2,
    ),
    "post-impressionist": Manner(
        _vivid,
        ground=(0.62, 0.5, 0.3),
        underpainting=0.6,
        layers=(
            Layer(7.0, 1.5, 1.5, wander=0.1, value_jitter=0.06, hue_jitter=0.045),
            Layer(4.6, 0.95, 1.2, wander=0.12, value_jitter=0.09, hue_jitter=0.05),
            Layer(2.2, 0.75, 1.0, wander=0.2, value_jitter=0.05, hue_jitter=0.04, tolerance=0.11),
        ),
        impasto=0.6,
        outline=0.3,
        swirl=1.1,
    ),
}

MANNERS: tuple[str, ...] = tuple(_MANNERS)
BASE_MANNERS = ("impressionist", "pointillist", "palette-knife", "post-impressionist")
"""Those that the base segmenter learned from."""
DEMO_MANNERS = ("tonalist", "fauve", "ink-wash", "watercolour")
"""Those that it never saw, so that what the demo shows is learned there."""


def _draw_outlines(colour: Field, plan: Plan, darkness: float) -> None:
    """Darken contours inside each shape's own pixels, in place; a line that thickens and fades like a drawn one."""
    material = plan.material
    eroded = cv2.erode(material, np.ones((3, 3), np.uint8))
    contour = (eroded != material) & (plan.class_map > 0)
    pressure = np.clip(fractal(plan.rng, plan.height, plan.width, plan.height * 0.08) + 0.6, 0.0, 1.0)
    colour *= (1.0 - darkness * pressure * (1.0 - plan.maps[..., 2]) * contour)[..., None]


def _light_surface(surface: Field, plan: Plan, manner: Manner) -> Field:
    """The painted surface (H, W, 4) under a lamp at the upper left, on its canvas or paper."""
    thickness = np.ascontiguousarray(surface[..., 3])
    slope = cv2.Sobel(thickness, cv2.CV_32F, 1, 0) + cv2.Sobel(thickness, cv2.CV_32F, 0, 1)
    grain = plan.rng.normal(0.0, 1.0, plan.shadow.shape).astype(np.float32)
    weave = cv2.GaussianBlur(grain, (0, 0), 0.8) * 1.8
    sheen = 1.0 + np.clip(slope * 0.09 * manner.impasto, -0.3, 0.3) + manner.weave * weave
    return np.asarray(surface[..., :3] * sheen[..., None], np.float32)


def render(plan: Plan, name: str) -> Field:
    """Paint a plan in a manner: (H, W, 3) float32 RGB, about 0..1."""
    manner, rng = _MANNERS[name], plan.rng
    hour = HOURS[str(rng.choice(list(HOURS)))]
    guide = manner.treat(colour_guide(plan, hour), plan)
    if manner.outline:
        _draw_outlines(guide, plan, manner.outline)
    classes = plan.class_map
    angle = plan.maps[..., 3] + fractal(rng, plan.height, plan.width, plan.height * 0.3, 1.5, 2) * manner.swirl
    nearness = np.clip(0.15 + 0.85 * (plan.rows - plan.horizon * 0.6) / plan.height + 0 * angle, 0.0, 1.0)
    nearness = np.where(classes == 0, 0.7, nearness).astype(np.float32)
    ground = np.array(manner.ground, np.float32)
    surface = np.full((*classes.shape, 4), 0.3, np.float32)
    surface[..., :3] = ground + (guide - ground) * manner.underpainting
    for layer in manner.layers:
        paint_layer(surface, guide, classes, angle, nearness, layer, rng)
    if manner.outline:
        _draw_outlines(surface[..., :3], plan, manner.outline * 0.7)
    return _light_surface(surface, plan, manner)

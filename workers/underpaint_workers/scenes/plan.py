"""The plan of a scene: which material lies where, how it is lit and how far away it is; no colour yet."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from underpaint.taxonomy import LANDSCAPE

from .material import CLASS_OF, Material
from .noise import Field, fractal

Mask = npt.NDArray[np.bool_]
Values = float | npt.NDArray[np.floating[Any]]
Points = Sequence[tuple[float, float]]

_SUBPIXEL_BITS = 4


@dataclass
class Plan:
    """A picture plane with a flat ground under it, seen from ``eye`` metres above.

    Everything is drawn far to near into ``maps``, (H, W, 4) float32: material, light (-1 shaded .. 1 lit), haze
    (0 near .. 1 lost in the distance) and stroke angle (radians, clockwise from the x axis).
    """

    rng: np.random.Generator
    height: int
    width: int
    horizon: float
    eye: float
    sun_side: float
    winter: bool
    maps: Field = field(init=False)
    shadow: Field = field(init=False)

    def __post_init__(self) -> None:
        self.maps = np.zeros((self.height, self.width, 4), np.float32)
        self.shadow = np.zeros((self.height, self.width), np.float32)
        self.rows = np.arange(self.height, dtype=np.float32)[:, None]
        self.columns = np.arange(self.width, dtype=np.float32)[None, :]

    @property
    def material(self) -> npt.NDArray[np.uint8]:
        return self.maps[..., 0].astype(np.uint8)

    @property
    def class_map(self) -> npt.NDArray[np.uint8]:
        return np.asarray(CLASS_OF[self.material])

    def row(self, depth: float) -> float:
        """The row of the ground at ``depth``: 0 on the horizon, 1 on the lower edge."""
        return self.horizon + depth * (self.height - self.horizon)

    def metre(self, row: float) -> float:
        """Pixels that one metre measures where the ground is at ``row``."""
        return max(row - self.horizon, 1.5) / self.eye

    @property
    def ground_haze(self) -> Field:
        """How much of the air's colour lies over the ground at each row, (H, 1), 0..1."""
        below = np.maximum((self.rows - self.horizon) / self.height, 0.004)
        return np.asarray(0.85 * (1.0 - np.exp(-0.03 / below)), np.float32)

    def haze(self, row: float) -> float:
        """How much of the air's colour lies over the ground at ``row``, 0..1."""
        return float(self.ground_haze[int(np.clip(row, 0, self.height - 1)), 0])

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def side(self) -> float:
        """Left (-1) or right (1)."""
        return float(self.rng.choice([-1.0, 1.0]))

    def lay(self, mask: Mask, material: Material, light: Values = 0.0, haze: Values = 0.0, angle: float = 0.0) -> None:
        """Cover ``mask`` (H, W) with a material."""
        layer = np.empty_like(self.maps)
        for channel, value in enumerate((float(material), light, haze, angle)):
            layer[..., channel] = value
        np.copyto(self.maps, layer, where=mask[..., None])

    def polygon(self, points: Points, material: Material, light: float, haze: float, angle: float) -> None:
        """Cover a polygon given by its corners (x, y) in pixels."""
        corners = np.round(np.asarray(points) * 2**_SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(self.maps, [corners], (float(material), light, haze, angle), cv2.LINE_8, _SUBPIXEL_BITS)

    def below(self, line: float | Field) -> Mask:
        """Mask (H, W) of the pixels at or below a row, or a line of rows (W,)."""
        return np.broadcast_to(self.rows >= line, (self.height, self.width))

    def ground_noise(self, cell: float, stretch: float = 1.0) -> Field:
        """Noise (H, W), about -1..1, that lies on the ground in perspective; ``cell`` is its size in metres."""
        size = 256
        texture = fractal(self.rng, size, size, 16.0, stretch)
        metre = np.maximum(self.rows - self.horizon, 1.5) / self.eye
        across = (self.columns - self.width / 2) / metre
        away = np.broadcast_to(self.width / metre, across.shape)
        to_texture = 16.0 / cell
        return np.asarray(
            cv2.remap(
                texture,
                (across * to_texture).astype(np.float32),
                (away * to_texture).astype(np.float32),
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_WRAP,
            )
        )

    def stand(self, x: float, depth: float) -> "Stand":
        """A place on the ground: ``x`` from 0 (left) to 1 (right), ``depth`` from 0 (horizon) to 1 (lower edge)."""
        return Stand(self, x * self.width, self.row(depth))

    def populate(self, *groups: "Group") -> None:
        """Place groups of things on the ground they belong on and draw them all, far before near."""
        classes = self.class_map
        found: list[tuple[float, float, Callable[[Stand], None]]] = []
        for group in groups:
            allowed = np.isin(classes, [LANDSCAPE.index(name) for name in group.on])
            top, bottom = (int(np.clip(self.row(depth), 0, self.height - 1)) for depth in group.depth)
            rows, columns = np.nonzero(allowed[top : bottom + 1])
            if len(rows) == 0:
                continue
            for pick in self.rng.integers(0, len(rows), int(self.rng.integers(*group.count, endpoint=True))):
                found.append((float(rows[pick] + top), float(columns[pick]), group.motif))
        for row, x, motif in sorted(found, key=lambda item: item[:2]):
            motif(Stand(self, x, row))

    def wobble(self) -> None:
        """Displace every contour a little, the way a hand does; the plan is final after this."""
        reach = self.height / 384
        dx = fractal(self.rng, self.height, self.width, 9 * reach, octaves=3) * 1.6 * reach
        dy = fractal(self.rng, self.height, self.width, 9 * reach, octaves=3) * 1.6 * reach
        x, y = (self.columns + dx).astype(np.float32), (self.rows + dy).astype(np.float32)
        self.maps = np.asarray(cv2.remap(self.maps, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE))


@dataclass(frozen=True)
class Group:
    """``count[0]`` to ``count[1]`` things of one kind, on the named classes, between two depths."""

    motif: Callable[["Stand"], None]
    on: tuple[str, ...]
    count: tuple[int, int]
    depth: tuple[float, float]


@dataclass(frozen=True)
class Stand:
    """A place on the ground where one thing stands, with its own frame: metres, x to the right, y up from the foot."""

    plan: Plan
    x: float
    row: float

    @property
    def rng(self) -> np.random.Generator:
        return self.plan.rng

    @property
    def metre(self) -> float:
        return self.plan.metre(self.row)

    @property
    def haze(self) -> float:
        return self.plan.haze(self.row)

    @property
    def sun_side(self) -> float:
        return self.plan.sun_side

    def polygon(self, points: Iterable[tuple[float, float]], material: Material, light: float, angle: float) -> None:
        corners = [(self.x + x * self.metre, self.row - y * self.metre) for x, y in points]
        self.plan.polygon(corners, material, light, self.haze, angle)

    def disc(self, x: float, y: float, radius: float, material: Material, light: float, angle: float) -> None:
        """A ball of ``radius`` metres, at least half a pixel."""
        centre = (round(self.x + x * self.metre), round(self.row - y * self.metre))
        paint = (float(material), light, self.haze, angle)
        cv2.circle(self.plan.maps, centre, max(round(radius * self.metre), 1), paint, cv2.FILLED)

    def bar(self, start: tuple[float, float], end: tuple[float, float], width: float, material: Material) -> None:
        """A straight bar ``width`` metres wide, at least one pixel."""
        (x0, y0), (x1, y1) = start, end
        across = max(width, 1.0 / self.metre) / 2
        length = max(float(np.hypot(x1 - x0, y1 - y0)), 1e-6)
        nx, ny = -(y1 - y0) / length * across, (x1 - x0) / length * across
        angle = float(np.arctan2(-(y1 - y0), x1 - x0))
        corners = [(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)]
        self.polygon(corners, material, 0.0, angle)

    def cast_shadow(self, radius: float) -> None:
        """Darken the ground beside the foot, away from the sun."""
        reach = radius * self.metre
        centre = (round(self.x - self.plan.sun_side * reach * 0.8), round(self.row))
        axes = (max(round(reach * 1.5), 1), max(round(reach * 0.3), 1))
        cv2.ellipse(self.plan.shadow, centre, axes, 0, 0, 360, 0.75, cv2.FILLED)

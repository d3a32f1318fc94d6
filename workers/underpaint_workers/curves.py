"""The course of a training, and how people see it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from underpaint_workers.training import Progress

_POINTS = 200
_WIDTH, _HEIGHT = 560, 180


@dataclass
class Curves:
    """The course of a training: where there are several, of the last one."""

    losses: list[tuple[float, float]] = field(default_factory=list)
    """Step and loss."""
    scores: list[tuple[float, float]] = field(default_factory=list)
    """Step and mIoU (0–1) of each look at the validation paintings."""

    def note(self, progress: Progress) -> None:
        """Add what is new in `progress`."""
        if self.losses and progress.step < self.losses[-1][0]:
            self.losses, self.scores = [], []
        self.losses.append((progress.step, progress.loss))
        # One that went on where a killed one was knows its looks, and not when they were.
        fresh = progress.scores[len(self.scores) :]
        start = self.scores[-1][0] if self.scores else 0.0
        self.scores += [
            (start + (progress.step - start) * number / len(fresh), score) for number, score in enumerate(fresh, 1)
        ]

    def to_html(self) -> str:
        """Loss and mIoU as inline SVG; nothing where there is neither."""
        plots = (("loss", _thinned(self.losses), "#c8553d"), ("validation mIoU", self.scores, "#1d6fb8"))
        return "".join(_plot(*plot) for plot in plots if plot[1])


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most ``_POINTS`` points: means of equally many neighbours."""
    if not points:
        return []
    groups = np.array_split(np.array(points), min(len(points), _POINTS))
    return [(float(x), float(y)) for x, y in (group.mean(axis=0) for group in groups)]


def _plot(name: str, points: Sequence[tuple[float, float]], colour: str) -> str:
    """A line through points (step, value), as inline SVG with its range written beside it."""
    values = [value for _, value in points]
    low, high, last = min(values), max(values), points[-1][0]
    across = (_WIDTH - 10) / max(1.0, last)
    up = (_HEIGHT - 20) / max(1e-9, high - low)
    line = " ".join(f"{5 + x * across:.1f},{_HEIGHT - 10 - (y - low) * up:.1f}" for x, y in points)
    dots = "".join(
        f'<circle cx="{5 + x * across:.1f}" cy="{_HEIGHT - 10 - (y - low) * up:.1f}" r="3" fill="{colour}"/>'
        for x, y in (points if len(points) < 30 else ())
    )
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{name}"><rect width="100%" height="100%" fill="#fff" stroke="#ddd"/>'
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}</svg><figcaption>{name}: '
        f"{low:.3f} to {high:.3f}, at the end {values[-1]:.3f}, over {last:.0f} steps</figcaption></figure>"
    )

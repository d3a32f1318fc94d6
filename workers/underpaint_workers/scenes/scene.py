"""A scene: a painted landscape and its exact class map."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .composition import compose
from .manners import MANNERS, render


@dataclass(frozen=True)
class Scene:
    """``image`` (H, W, 3) uint8 RGB; ``class_map`` (H, W) uint8, ids of ``underpaint.taxonomy.LANDSCAPE``."""

    image: npt.NDArray[np.uint8]
    class_map: npt.NDArray[np.uint8]
    manner: str


def paint(seed: int, size: tuple[int, int] = (384, 512), manner: str | None = None) -> Scene:
    """Paint one landscape; the same arguments give the same bytes.

    ``size`` is (height, width) in pixels. ``manner`` is one of ``MANNERS``; None lets the seed choose.
    Raises ``ValueError`` for an unknown manner.
    """
    if manner is not None and manner not in MANNERS:
        raise ValueError(f"unknown manner {manner!r}; choose one of {', '.join(MANNERS)}")
    rng = np.random.default_rng(seed)
    chosen = MANNERS[int(rng.integers(len(MANNERS)))] if manner is None else manner
    plan = compose(rng, *size)
    colour = render(plan, chosen)
    image = np.round(np.clip(colour, 0.0, 1.0) * 255).astype(np.uint8)
    return Scene(image, plan.class_map, chosen)

"""Composition: which landscape a scene shows, and how its plan comes about."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import countryside, terrain, waterside
from .plan import Plan


@dataclass(frozen=True)
class Layout:
    """A kind of landscape: what draws it, the ranges of its horizon (fraction of height) and eye level (metres)."""

    draw: Callable[[Plan], None]
    horizon: tuple[float, float]
    eye: tuple[float, float]
    winters: bool = True  # whether it is also painted under snow


LAYOUTS = (
    Layout(waterside.seascape, (0.3, 0.62), (3.0, 8.0)),
    Layout(waterside.cliffs, (0.42, 0.68), (4.0, 9.0)),
    Layout(countryside.river, (0.32, 0.55), (3.5, 7.0)),
    Layout(countryside.valley, (0.35, 0.55), (4.0, 9.0)),
    Layout(countryside.village_lane, (0.4, 0.58), (2.2, 4.5)),
    Layout(waterside.mountain_lake, (0.4, 0.58), (3.5, 8.0)),
    Layout(waterside.harbour, (0.32, 0.52), (4.0, 8.0)),
    Layout(countryside.flower_field, (0.28, 0.5), (2.2, 5.0), winters=False),
    Layout(waterside.lily_pond, (0.22, 0.36), (2.5, 4.5), winters=False),
    Layout(countryside.haystacks, (0.35, 0.5), (2.8, 5.5)),
    Layout(countryside.clearing, (0.4, 0.58), (2.5, 4.5)),
)


def compose(rng: np.random.Generator, height: int, width: int) -> Plan:
    """Lay out one landscape of ``height`` × ``width`` pixels."""
    layout = LAYOUTS[int(rng.integers(len(LAYOUTS)))]
    plan = Plan(
        rng,
        height,
        width,
        horizon=height * float(rng.uniform(*layout.horizon)),
        eye=float(rng.uniform(*layout.eye)),
        sun_side=float(rng.choice([-1.0, 1.0])),
        winter=layout.winters and bool(rng.random() < 0.18),
    )
    terrain.sky(plan, with_sun=plan.chance(0.22))
    layout.draw(plan)
    plan.wobble()
    return plan

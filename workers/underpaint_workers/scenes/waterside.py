"""Layouts by the water: the sea, cliffs, a mountain lake, a harbour, a lily pond."""

from . import buildings, staffage, terrain, trees
from .material import Material
from .noise import line
from .plan import Group, Plan

_WATER, _LAND, _SHORE = ("water",), ("grass", "ground"), ("ground",)


def seascape(plan: Plan) -> None:
    """The open sea, a beach or rocks in front, sails."""
    rng, side = plan.rng, plan.side()
    swell = float(rng.uniform(0.1, 0.9))
    terrain.water(plan, plan.below(plan.horizon), swell)
    if plan.chance(0.45):
        outline = terrain.ridge(plan, float(rng.uniform(0.06, 0.2)), 0.4, 0.45, side * float(rng.uniform(0.4, 0.9)))
        terrain.mountains(plan, outline, float(rng.uniform(0.3, 0.6)))
    if plan.chance(0.75):
        terrain.beach(plan, side, Material.SAND, swell > 0.3)
    if plan.chance(0.35):
        edge = plan.row(0.93) - line(rng, plan.width, plan.width * 0.4) * plan.height * 0.12
        terrain.field(plan, Material.MEADOW, edge, 1.0)
    plan.populate(
        Group(staffage.sailing_boat, _WATER, (0, 4), (0.05, 0.4)),
        Group(staffage.boulder, _WATER, (0, 5), (0.3, 0.9)),
        Group(staffage.fishing_boat, _SHORE, (0, 1), (0.25, 0.6)),
        Group(staffage.person, _SHORE, (0, 4), (0.2, 0.8)),
        Group(trees.reeds, ("grass",), (0, 8), (0.6, 1.0)),
    )


def cliffs(plan: Plan) -> None:
    """Cliffs over the sea, perhaps with a gate worn through them."""
    rng, side = plan.rng, plan.side()
    swell = float(rng.uniform(0.2, 0.8))
    terrain.water(plan, plan.below(plan.horizon), swell)
    if plan.chance(0.5):
        terrain.cliff(plan, side, float(rng.uniform(0.1, 0.2)), float(rng.uniform(0.5, 0.8)), 0.05, False)
    tall, reach = float(rng.uniform(0.22, 0.5)), float(rng.uniform(0.3, 0.68))
    terrain.cliff(plan, side, tall, reach, float(rng.uniform(0.15, 0.45)), plan.chance(0.45))
    if plan.chance(0.65):
        terrain.beach(plan, side, Material.SAND, True)
    plan.populate(
        Group(staffage.sailing_boat, _WATER, (0, 3), (0.04, 0.3)),
        Group(staffage.boulder, ("water", "ground"), (1, 6), (0.3, 0.95)),
        Group(staffage.rowing_boat, _SHORE, (0, 3), (0.3, 0.8)),
        Group(staffage.company, _SHORE, (0, 2), (0.3, 0.8)),
    )


def mountain_lake(plan: Plan) -> None:
    """Snow mountains mirrored in a lake, firs and boulders on its shores."""
    rng, side = plan.rng, plan.side()
    for haze, height, snow in ((0.55, 0.36, 0.6), (0.3, 0.2, 0.25)):
        tall = height * float(rng.uniform(0.7, 1.15))
        terrain.mountains(plan, terrain.ridge(plan, tall, 0.4, 0.55), haze, snow + 0.25 * plan.winter)
    if plan.chance(0.7):
        left, right = sorted(rng.uniform(-0.2, 1.2, 2))
        terrain.wood(plan, 0.06, 0.25, (left, right), 0.012)
    terrain.water(plan, plan.below(plan.horizon + plan.height * 0.012), float(rng.uniform(0.0, 0.15)))
    shore = Material.SNOW if plan.winter else Material.MEADOW if plan.chance(0.65) else Material.SAND
    terrain.beach(plan, side, shore, False)
    plan.populate(
        Group(trees.fir, _LAND, (3, 12), (0.1, 0.6)),
        Group(staffage.boulder, ("water", "grass", "ground"), (3, 10), (0.25, 0.95)),
        Group(buildings.house, _LAND, (0, 1), (0.15, 0.4)),
        Group(buildings.jetty, _WATER, (0, 1), (0.3, 0.6)),
        Group(staffage.rowing_boat, _WATER, (0, 2), (0.2, 0.6)),
        Group(staffage.person, _LAND, (0, 2), (0.3, 0.7)),
    )


def harbour(plan: Plan) -> None:
    """A town across the water, boats at anchor, people on the quay."""
    rng, side = plan.rng, plan.side()
    if plan.chance(0.5):
        terrain.mountains(plan, terrain.ridge(plan, float(rng.uniform(0.08, 0.2)), 0.5, 0.4), 0.65)
    left, right = (-0.05, float(rng.uniform(0.5, 1.05)))
    if side > 0:
        left, right = 1.0 - right, 1.05
    if plan.chance(0.6):
        terrain.wood(plan, 0.07, 0.4, (left - 0.1, right + 0.1))
    terrain.water(plan, plan.below(plan.horizon), float(rng.uniform(0.05, 0.4)))
    buildings.skyline(plan, (left, right), float(rng.uniform(0.06, 0.14)), float(rng.uniform(0.7, 1.3)))
    if plan.chance(0.65):
        buildings.quay(plan, side)
    if plan.chance(0.3):
        buildings.bridge(plan, float(rng.uniform(0.14, 0.2)), 5.0, float(rng.uniform(9, 14)))
    plan.populate(
        Group(staffage.sailing_boat, _WATER, (1, 4), (0.12, 0.5)),
        Group(staffage.fishing_boat, _WATER, (1, 4), (0.2, 0.6)),
        Group(staffage.rowing_boat, _WATER, (0, 3), (0.3, 0.85)),
        Group(buildings.jetty, _WATER, (0, 2), (0.25, 0.7)),
        Group(staffage.company, _SHORE, (0, 3), (0.55, 0.9)),
        Group(staffage.person, _SHORE, (0, 3), (0.55, 0.9)),
    )


def lily_pond(plan: Plan) -> None:
    """A pond under trees, lilies on it, a footbridge over it; little sky."""
    rng = plan.rng
    terrain.wood(plan, float(rng.uniform(0.14, 0.3)), 0.15)
    if plan.chance(0.6):
        terrain.wood(plan, float(rng.uniform(0.1, 0.16)), 0.05, (-0.4, 1.4), 0.01)
    terrain.field(plan, Material.MEADOW, plan.horizon, 1.5)
    pond = plan.below(plan.row(float(rng.uniform(0.05, 0.14))) + line(rng, plan.width, plan.width * 0.5) * 9)
    terrain.water(plan, pond, 0.0)
    terrain.lilies(plan, pond, float(rng.uniform(0.1, 0.6)))
    if plan.chance(0.4):
        bank = terrain.beach(plan, plan.side(), Material.MEADOW, False)
        terrain.flowers(plan, bank, 0.7, Material.BLOOM)
    if plan.chance(0.5):
        buildings.footbridge(plan.stand(float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.24, 0.4))))
    plan.populate(
        Group(trees.bush, ("grass",), (2, 9), (0.02, 0.3)),
        Group(trees.oak, ("grass",), (0, 3), (0.02, 0.3)),
        Group(staffage.rowing_boat, _WATER, (0, 1), (0.25, 0.6)),
        Group(staffage.boulder, ("grass", "water"), (0, 3), (0.2, 0.8)),
        Group(trees.reeds, ("grass", "water"), (1, 6), (0.6, 1.0)),
    )

"""Layouts of the country: a river, a valley, a village lane, fields, a clearing in a wood."""

import numpy as np

from . import buildings, staffage, terrain, trees
from .material import Material
from .plan import Group, Plan

_WATER, _LAND, _SHORE = ("water",), ("grass", "ground"), ("ground",)


def _meadow(plan: Plan) -> Material:
    return Material.SNOW if plan.winter else Material.MEADOW


def _distance(plan: Plan) -> None:
    """What closes a plain: hills, a wood, or both."""
    if plan.chance(0.6):
        for haze in (0.7, 0.5)[: int(plan.rng.integers(1, 3))]:
            height = float(plan.rng.uniform(0.04, 0.16))
            terrain.mountains(plan, terrain.ridge(plan, height, 0.5, 0.35), haze)
    if plan.chance(0.75):
        left, right = sorted(plan.rng.uniform(-0.3, 1.3, 2))
        terrain.wood(plan, float(plan.rng.uniform(0.04, 0.1)), float(plan.rng.uniform(0.25, 0.5)), (left, right), 0.01)


def _frame(plan: Plan) -> None:
    """A large tree near one edge, which leads the eye in (repoussoir)."""
    x = float(plan.rng.uniform(-0.02, 0.16))
    tree = plan.rng.choice(np.array([trees.oak, trees.poplar, trees.fir], dtype=object))
    tree(plan.stand(x if plan.chance(0.5) else 1.0 - x, float(plan.rng.uniform(0.3, 0.62))))


def river(plan: Plan) -> None:
    """A river that winds through meadows; poplars, a house, a boat."""
    rng = plan.rng
    _distance(plan)
    terrain.field(plan, _meadow(plan), plan.horizon, 3.0)
    ends = rng.uniform(0.2, 0.8, 2)
    bed = terrain.strip(plan, ends[0], ends[1], float(rng.uniform(0.1, 0.3)), float(rng.uniform(8, 20)), 0.01)
    terrain.water(plan, bed, float(rng.uniform(0.0, 0.25)))
    if not plan.winter and plan.chance(0.6):
        terrain.flowers(plan, plan.material == Material.MEADOW, float(rng.uniform(0.1, 0.7)))
    if plan.chance(0.4):
        buildings.bridge(plan, float(rng.uniform(0.12, 0.25)), 4.5, float(rng.uniform(8, 13)))
    plan.populate(
        Group(trees.poplar, _LAND, (2, 8), (0.05, 0.3)),
        Group(trees.oak, _LAND, (0, 4), (0.05, 0.4)),
        Group(trees.bush, _LAND, (1, 6), (0.08, 0.7)),
        Group(buildings.house, _LAND, (0, 2), (0.08, 0.3)),
        Group(staffage.rowing_boat, _WATER, (0, 3), (0.15, 0.75)),
        Group(staffage.sailing_boat, _WATER, (0, 1), (0.1, 0.4)),
        Group(staffage.person, _LAND, (0, 2), (0.25, 0.8)),
        Group(trees.reeds, _LAND, (2, 14), (0.5, 1.0)),
    )


def valley(plan: Plan) -> None:
    """Fields in strips below hills, a village with its church, stacks of hay, someone on the road."""
    rng = plan.rng
    for haze, height in ((0.65, 0.3), (0.45, 0.18)):
        tall = height * float(rng.uniform(0.5, 1.1))
        terrain.mountains(plan, terrain.ridge(plan, tall, 0.6, 0.42), haze, 0.3 if plan.winter else 0.0)
    terrain.field(plan, _meadow(plan), plan.horizon, 4.0)
    tilled = (Material.SNOW, Material.SNOW) if plan.winter else (Material.CROP, Material.EARTH)
    for _ in range(int(rng.integers(2, 5))):
        low, high = sorted(rng.uniform(0.03, 0.9, 2))
        slope = (plan.columns - plan.width / 2) * float(rng.uniform(-0.12, 0.12))
        band = (plan.rows > plan.row(low) + slope) & (plan.rows < plan.row(high) + slope)
        band &= (plan.columns > plan.width * rng.uniform(-0.5, 0.6)) & (plan.rows > plan.horizon + 2)
        material = tilled[int(rng.integers(2))]
        mask = terrain.field(plan, material, band, 2.0)
        terrain.furrows(plan, mask, float(rng.uniform(0.8, 1.8)))
    if plan.chance(0.6):
        ends = rng.uniform(0.1, 0.9, 2)
        track = terrain.strip(plan, ends[0], ends[1], float(rng.uniform(0.05, 0.2)), 3.0)
        terrain.field(plan, Material.PATH, track, 1.5)
    plan.populate(
        Group(buildings.house, _LAND, (2, 6), (0.05, 0.16)),
        Group(buildings.church, _LAND, (0, 1), (0.05, 0.12)),
        Group(buildings.windmill, _LAND, (0, 1), (0.06, 0.2)),
        Group(trees.oak, _LAND, (3, 10), (0.05, 0.3)),
        Group(trees.bush, _LAND, (3, 12), (0.08, 0.5)),
        Group(staffage.haystack, _LAND, (0, 5), (0.15, 0.6)),
        Group(staffage.person, _LAND, (0, 4), (0.2, 0.75)),
    )


def village_lane(plan: Plan) -> None:
    """A lane between houses and trees, people coming along it."""
    rng = plan.rng
    _distance(plan)
    terrain.field(plan, _meadow(plan), plan.horizon, 2.0)
    vanish = float(rng.uniform(0.3, 0.7))
    lane = terrain.strip(plan, vanish, float(rng.uniform(0.35, 0.65)), 0.04, float(rng.uniform(6, 10)))
    terrain.field(plan, Material.SNOW if plan.winter and plan.chance(0.5) else Material.PATH, lane, 1.0)
    if not plan.winter:
        terrain.flowers(plan, plan.material == Material.MEADOW, float(rng.uniform(0.0, 0.5)), Material.BLOOM)
    if plan.chance(0.5):
        buildings.church(plan.stand(vanish + float(rng.uniform(-0.12, 0.12)), 0.1))
    plan.populate(
        Group(buildings.house, ("grass",), (3, 7), (0.1, 0.36)),
        Group(trees.oak, ("grass",), (2, 5), (0.08, 0.4)),
        Group(trees.poplar, ("grass",), (0, 4), (0.06, 0.3)),
        Group(trees.fruit_tree, ("grass",), (0, 4), (0.15, 0.5)),
        Group(trees.bush, ("grass",), (1, 8), (0.2, 0.8)),
        Group(staffage.person, _SHORE, (1, 4), (0.15, 0.7)),
        Group(staffage.company, _SHORE, (0, 1), (0.2, 0.6)),
    )
    if plan.winter:
        plan.populate(
            Group(buildings.house, _LAND, (2, 5), (0.1, 0.34)),
            Group(trees.oak, _LAND, (2, 4), (0.12, 0.5)),
        )


def flower_field(plan: Plan) -> None:
    """A meadow full of flowers, a tree line behind it, a walk with a parasol."""
    rng = plan.rng
    _distance(plan)
    meadow = terrain.field(plan, Material.MEADOW, plan.horizon, 2.5)
    terrain.flowers(plan, meadow, float(rng.uniform(0.5, 1.1)))
    terrain.flowers(plan, meadow, float(rng.uniform(0.0, 0.5)), Material.BLOOM)
    if plan.chance(0.5):
        ends = rng.uniform(0.1, 0.9, 2)
        path = terrain.strip(plan, ends[0], ends[1], float(rng.uniform(0.05, 0.2)), 1.8)
        terrain.field(plan, Material.PATH, path, 1.0)
    plan.populate(
        Group(trees.oak, _LAND, (2, 7), (0.04, 0.25)),
        Group(trees.poplar, _LAND, (0, 7), (0.04, 0.2)),
        Group(trees.fruit_tree, _LAND, (0, 5), (0.1, 0.45)),
        Group(buildings.house, _LAND, (0, 2), (0.05, 0.15)),
        Group(buildings.windmill, _LAND, (0, 1), (0.06, 0.15)),
        Group(staffage.person, _LAND, (0, 3), (0.25, 0.8)),
        Group(trees.reeds, _LAND, (4, 20), (0.7, 1.0)),
    )
    if plan.chance(0.35):
        _frame(plan)


def haystacks(plan: Plan) -> None:
    """Stacks on a stubble or snow field."""
    rng = plan.rng
    _distance(plan)
    if plan.chance(0.5):
        buildings.skyline(plan, (0.0, float(rng.uniform(0.2, 0.6))), 0.04, 0.8)
    stubble = Material.SNOW if plan.winter else Material.CROP if plan.chance(0.5) else Material.EARTH
    mask = terrain.field(plan, stubble, plan.horizon + 2, 2.0)
    if plan.chance(0.4):
        terrain.furrows(plan, mask, 1.0)
    plan.populate(
        Group(trees.poplar, _LAND, (0, 6), (0.03, 0.1)),
        Group(trees.oak, _LAND, (0, 5), (0.04, 0.15)),
        Group(staffage.haystack, _LAND, (1, 4), (0.12, 0.5)),
        Group(staffage.boulder, _LAND, (0, 3), (0.2, 0.9)),
        Group(staffage.person, _LAND, (0, 3), (0.2, 0.6)),
    )


def clearing(plan: Plan) -> None:
    """A path through a wood, trunks left and right, light at its end."""
    rng = plan.rng
    terrain.wood(plan, float(rng.uniform(0.1, 0.25)), 0.4)
    terrain.field(plan, _meadow(plan), plan.horizon, 2.0)
    path = terrain.strip(plan, float(rng.uniform(0.35, 0.65)), float(rng.uniform(0.3, 0.7)), 0.12, 4.0)
    terrain.field(plan, Material.PATH, path, 1.0)
    kind = trees.fir if plan.chance(0.4) else trees.oak
    plan.populate(
        Group(kind, _LAND, (6, 14), (0.08, 0.5)),
        Group(trees.poplar, _LAND, (0, 4), (0.08, 0.3)),
        Group(trees.bush, ("grass",), (2, 9), (0.2, 0.8)),
        Group(staffage.boulder, _LAND, (0, 5), (0.2, 0.9)),
        Group(staffage.person, _SHORE, (0, 2), (0.2, 0.6)),
    )
    _frame(plan)

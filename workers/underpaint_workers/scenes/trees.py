"""Trees, bushes and reeds, each drawn in metres on its stand."""

import numpy as np

from .material import Material
from .plan import Stand

_UPRIGHT = float(np.pi / 2)


def _crown(stand: Stand, x: float, y: float, across: float, up: float, material: Material) -> None:
    """A cloud of leaf clumps around (x, y) with half-axes ``across`` and ``up``, lit from above and the sun's side."""
    rng = stand.rng
    count = int(np.clip(stand.metre * up * 1.3, 9, 60))
    turn = rng.uniform(0, 2 * np.pi, count)
    out = np.sqrt(rng.uniform(0.0, 1.0, count)) * 0.9
    side, lift = np.cos(turn) * out, np.sin(turn) * out
    for i in np.argsort(lift):
        radius = min(across, up) * float(rng.uniform(0.17, 0.42))
        cx, cy = x + across * float(side[i]), y + up * float(lift[i])
        light = float(np.clip(0.45 * lift[i] + 0.4 * stand.sun_side * side[i] + rng.normal(0, 0.16) - 0.15, -1, 1))
        angle = float(rng.uniform(-0.9, 0.9)) + (_UPRIGHT if material is Material.POPLAR else 0.4)
        stand.disc(cx, cy, radius, material, light - 0.25, angle)
        glint = radius * 0.62
        stand.disc(cx + stand.sun_side * glint * 0.4, cy + glint * 0.5, glint, material, light + 0.3, angle)
        tuft = float(rng.uniform(0, 2 * np.pi))
        rim = float(rng.uniform(0.9, 1.12))
        leaf = (x + across * rim * np.cos(tuft), y + up * rim * np.sin(tuft))
        stand.disc(*leaf, radius * 0.35, material, 0.4 * float(np.sin(tuft)), angle)


def _trunk(stand: Stand, height: float, width: float) -> None:
    lean = float(stand.rng.uniform(-0.06, 0.06)) * height
    foot, top = width / 2, width / 3
    stand.polygon([(-foot, 0), (foot, 0), (lean + top, height), (lean - top, height)], Material.TRUNK, -0.1, _UPRIGHT)


def _bare(stand: Stand, x: float, y: float, length: float, heading: float, width: float) -> None:
    """A branch that forks until its twigs are thinner than the brush."""
    end = (x + np.cos(heading) * length, y + np.sin(heading) * length)
    stand.bar((x, y), end, width, Material.TRUNK)
    if length * stand.metre < 4 or length < 0.4:
        return
    for turn in (-0.5, 0.45):
        bend = turn * float(stand.rng.uniform(0.5, 1.4))
        _bare(stand, *end, length * float(stand.rng.uniform(0.6, 0.82)), heading + bend, width * 0.6)


def oak(stand: Stand) -> None:
    """A round deciduous tree; bare in winter."""
    height = float(stand.rng.uniform(6, 12))
    stand.cast_shadow(height * 0.35)
    if stand.plan.winter:
        _bare(stand, 0.0, 0.0, height * 0.3, _UPRIGHT + float(stand.rng.normal(0, 0.05)), height * 0.045)
        return
    _trunk(stand, height * 0.5, height * 0.07)
    _crown(stand, 0.0, height * 0.62, height * float(stand.rng.uniform(0.32, 0.48)), height * 0.38, Material.FOLIAGE)


def poplar(stand: Stand) -> None:
    """A tall column of leaves."""
    height = float(stand.rng.uniform(11, 19))
    stand.cast_shadow(height * 0.12)
    _trunk(stand, height * 0.7, height * 0.025)
    _crown(stand, 0.0, height * 0.56, height * float(stand.rng.uniform(0.07, 0.13)), height * 0.45, Material.POPLAR)


def fir(stand: Stand) -> None:
    """A conifer of ragged tiers."""
    rng = stand.rng
    height = float(rng.uniform(6, 15))
    stand.cast_shadow(height * 0.15)
    _trunk(stand, height * 0.2, height * 0.05)
    tiers, spread = int(rng.integers(6, 11)), height * float(rng.uniform(0.15, 0.24))
    for tier in range(tiers):
        rise = tier / tiers
        low, high = height * (0.1 + 0.88 * rise), height * min(0.1 + 0.88 * rise + 2.0 / tiers, 1.0)
        left, right = (spread * (1.05 - rise) * rng.uniform(0.75, 1.2, 2)).tolist()
        sag = left * 0.35
        fringe = [
            (-left, low),
            (-left * 0.5, low + sag),
            (0.0, low - sag * 0.3),
            (right * 0.5, low + sag),
            (right, low),
        ]
        stand.polygon([*fringe, (0.0, high)], Material.CONIFER, -0.3 + 0.25 * rise + float(rng.normal(0, 0.08)), 1.1)
        lit = (right if stand.sun_side > 0 else left) * stand.sun_side
        bough = [(0.1 * lit, low + sag), (lit * 0.95, low + sag * 0.2), (0.0, high)]
        stand.polygon(bough, Material.CONIFER, 0.35 + 0.25 * rise, -0.9 * stand.sun_side)


def fruit_tree(stand: Stand) -> None:
    """A low tree in blossom; bare in winter."""
    if stand.plan.winter:
        oak(stand)
        return
    height = float(stand.rng.uniform(3.5, 6))
    stand.cast_shadow(height * 0.4)
    _trunk(stand, height * 0.55, height * 0.07)
    _crown(stand, 0.0, height * 0.65, height * 0.5, height * 0.34, Material.BLOSSOM)


def bush(stand: Stand) -> None:
    """A bush as wide as it is high."""
    size = float(stand.rng.uniform(0.8, 2.2))
    stand.cast_shadow(size * 0.7)
    _crown(stand, 0.0, size * 0.5, size * float(stand.rng.uniform(0.7, 1.4)), size * 0.55, Material.FOLIAGE)


def reeds(stand: Stand) -> None:
    """A tuft of reeds or tall grass at the water's edge."""
    rng = stand.rng
    for _ in range(int(rng.integers(14, 34))):
        x, tip, width = rng.normal(0, 0.8), rng.uniform(0.4, 1.3), 0.03
        lean = x + float(rng.normal(0, 0.3))
        light = float(rng.uniform(-0.6, 0.5))
        stand.polygon([(x - width, -0.1), (x + width, -0.1), (lean, tip)], Material.REED, light, _UPRIGHT)

"""Staffage: boats, people, haystacks and boulders, each drawn in metres on its stand."""

import numpy as np

from .material import Material
from .plan import Stand

_UPRIGHT = float(np.pi / 2)


def _hull(stand: Stand, length: float, height: float) -> None:
    half = length / 2
    rim = [(-half, height), (half * 1.05, height * 1.15), (half * 0.75, 0.0), (-half * 0.8, 0.0)]
    stand.polygon(rim, Material.HULL, -0.15, 0.05)
    stripe = [(-half, height), (half * 1.05, height * 1.15), (half, height * 0.8), (-half * 0.95, height * 0.7)]
    stand.polygon(stripe, Material.HULL, 0.6, 0.05)


def sailing_boat(stand: Stand) -> None:
    """A boat with one mast, a mainsail and perhaps a jib."""
    rng = stand.rng
    length = float(rng.uniform(5, 9))
    tall, bow = length * float(rng.uniform(1.0, 1.45)), float(rng.choice([-1.0, 1.0]))
    height = length * 0.14
    boom = height + 0.5
    stand.bar((0.0, height), (bow * 0.2, tall * 1.06), 0.14, Material.MAST)
    belly = length * float(rng.uniform(0.36, 0.5))
    main = [(0.0, tall), (-bow * belly * 0.65, tall * 0.62), (-bow * belly, boom), (0.0, boom)]
    light = float(rng.uniform(-0.1, 0.5))
    stand.polygon(main, Material.SAIL, light, _UPRIGHT - bow * 0.3)
    if rng.random() < 0.7:
        jib = [(bow * 0.25, tall * 0.9), (bow * length * 0.5, boom), (bow * 0.3, boom + 0.3)]
        stand.polygon(jib, Material.SAIL, light - 0.35, _UPRIGHT + bow * 0.4)
    _hull(stand, length, height)


def fishing_boat(stand: Stand) -> None:
    """A broad boat with bare masts and a furled sail."""
    rng = stand.rng
    length = float(rng.uniform(6, 10))
    for place in (-0.2, 0.22)[: int(rng.integers(1, 3))]:
        tall = length * float(rng.uniform(0.8, 1.2))
        stand.bar((place * length, 0.5), (place * length, tall), 0.16, Material.MAST)
        furl = [(place * length, 1.6), (place * length + length * 0.28, 2.2), (place * length, tall * 0.55)]
        stand.polygon(furl, Material.SAIL, float(rng.uniform(-0.3, 0.3)), _UPRIGHT)
    _hull(stand, length, length * 0.17)


def rowing_boat(stand: Stand) -> None:
    """A small open boat, perhaps with someone in it."""
    length = float(stand.rng.uniform(3.5, 5.0))
    if stand.rng.random() < 0.6:
        _body(stand, float(stand.rng.uniform(-0.6, 0.6)), 0.3, 1.15, Material.COAT)
    _hull(stand, length, 0.65)


def _body(stand: Stand, x: float, foot: float, tall: float, cloth: Material) -> None:
    """A standing or sitting figure ``tall`` metres from ``foot`` up."""
    light = float(stand.rng.uniform(-0.4, 0.5))
    hem = 0.36 if cloth is Material.DRESS else 0.2
    hem *= tall / 1.7
    shoulder, neck = foot + tall * 0.8, foot + tall * 0.84
    outline = [(-hem, foot), (hem, foot), (hem * 0.55, foot + tall * 0.5), (0.24, shoulder), (0.1, neck)]
    outline += [(-0.1, neck), (-0.24, shoulder), (-hem * 0.55, foot + tall * 0.5)]
    stand.polygon([(x + px, py) for px, py in outline], cloth, light, _UPRIGHT)
    shaded = [(0.0, foot), (-stand.sun_side * hem, foot), (-stand.sun_side * 0.24, shoulder), (0.0, shoulder)]
    stand.polygon([(x + px, py) for px, py in shaded], cloth, light - 0.5, _UPRIGHT)
    stand.disc(x, foot + tall * 0.91, 0.15, Material.SKIN, 0.0, 0.0)
    hat = [(x - 0.24, foot + tall * 0.95), (x + 0.24, foot + tall * 0.95), (x + 0.12, foot + tall * 1.05)]
    stand.polygon([*hat, (x - 0.12, foot + tall * 1.05)], Material.COAT, -0.2, 0.0)


def person(stand: Stand) -> None:
    """A walker, or a lady who may carry a parasol."""
    rng = stand.rng
    stand.cast_shadow(0.6)
    if rng.random() < 0.5:
        _body(stand, 0.0, 0.0, float(rng.uniform(1.65, 1.85)), Material.COAT)
        return
    _body(stand, 0.0, 0.0, 1.65, Material.DRESS)
    if rng.random() < 0.5:
        dome = [(np.cos(t) * 0.75 + 0.25, 1.8 + np.sin(t) * 0.45) for t in np.linspace(0, np.pi, 9)]
        stand.polygon(dome, Material.DRESS, 0.5, 0.0)


def company(stand: Stand) -> None:
    """Two or three people together."""
    for step in range(int(stand.rng.integers(2, 4))):
        x = stand.x + (step - 1) * 0.85 * stand.metre
        person(Stand(stand.plan, x, stand.row + float(stand.rng.uniform(-0.1, 0.1)) * stand.metre))


def haystack(stand: Stand) -> None:
    """A round stack of hay (ground by our labelling rule: it lies on the field)."""
    width, tall = float(stand.rng.uniform(2.2, 3.2)), float(stand.rng.uniform(3.5, 5.5))
    stand.cast_shadow(width * 1.2)
    rise = np.linspace(0.0, 1.0, 7)
    bulge = width * np.array((1.0, 1.08, 1.15, 1.0, 0.72, 0.4, 0.08))
    right = [(float(x), float(y * tall)) for x, y in zip(bulge, rise, strict=True)]
    stand.polygon(right + [(-x, y) for x, y in right[::-1]], Material.HAY, 0.25, 1.2)
    shade = -stand.sun_side
    stand.polygon([*((shade * x, y) for x, y in right), (shade * width * 0.2, 0.0)], Material.HAY, -0.6, 1.2)
    thatch = right[2:] + [(-x, y) for x, y in right[:1:-1]]
    stand.polygon(thatch, Material.HAY, 0.05, 0.8 * stand.sun_side)


def boulder(stand: Stand) -> None:
    """A boulder of a few facets."""
    size, rng = float(stand.rng.uniform(0.4, 1.7)), stand.rng
    stand.cast_shadow(size)
    turns = np.sort(rng.uniform(0, np.pi, 6))
    rim = [(float(np.cos(t) * size * rng.uniform(0.85, 1.2)), float(np.sin(t) * size * 0.75)) for t in turns]
    stand.polygon([(size * 1.15, -0.1), *rim, (-size * 1.15, -0.1)], Material.BOULDER, -0.3, 0.7)
    facet = [(stand.sun_side * size, 0.15 * size), (stand.sun_side * size * 0.6, size * 0.62), (0.0, size * 0.7)]
    stand.polygon([*facet, (-stand.sun_side * size * 0.1, size * 0.3)], Material.BOULDER, 0.45, -0.5)

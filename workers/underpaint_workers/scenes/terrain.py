"""Sky, hills, woods, fields, paths and water: the large shapes of a landscape."""

import numpy as np

from .material import Material
from .noise import Field, fractal, line, smooth
from .plan import Mask, Plan


def sky(plan: Plan, with_sun: bool) -> None:
    """Cover the whole picture with sky; its haze grows towards the horizon, clouds flatten there."""
    rng, height, width = plan.rng, plan.height, plan.width
    fall = np.clip(plan.rows / max(plan.horizon, 1.0), 0.0, 1.2) ** 1.5 + np.zeros((1, width), np.float32)
    tilt = float(rng.uniform(-0.35, 0.35))
    plan.lay(plan.below(0), Material.SKY, fractal(rng, height, width, height / 3, 2.0) * 0.12, fall, tilt)
    if with_sun:
        x = width * float(rng.uniform(0.2, 0.8))
        y = plan.horizon * float(rng.uniform(0.25, 0.9))
        distance = np.hypot(plan.columns - x, plan.rows - y)
        plan.maps[..., 1] += np.exp(-((distance / (0.35 * height)) ** 2)) * 0.8
        plan.lay(distance < height * rng.uniform(0.022, 0.04), Material.SUN, 1.0)
    amount, stretch = float(rng.uniform(-0.75, 0.35)), float(rng.choice([1.6, 2.5, 5.0]))
    bank = fractal(rng, height, width, height * float(rng.uniform(0.14, 0.34)), stretch, 5)
    upper = np.roll(bank, int(height * 0.03), axis=0)
    light = np.clip((bank - upper) * -0.9 + 0.15 + 0.15 * bank, -1.0, 1.0)
    cover = bank > -amount + 0.2 * (1.0 - fall)
    plan.lay(cover, Material.CLOUD, light, np.clip(fall * 0.75, 0.0, 0.8), tilt)


def ridge(plan: Plan, height: float, cell: float, roughness: float, slope: float = 0.0) -> Field:
    """Rows (W,) of an outline ``height`` × the picture's height above the horizon; ``slope`` lowers one end (-1..1)."""
    outline = line(plan.rng, plan.width, cell * plan.width, roughness)
    if slope:
        along = plan.columns[0] / plan.width
        outline = outline * 0.4 + np.clip((along if slope > 0 else 1.0 - along) * 1.6 - (1.0 - abs(slope)), -0.4, 1.0)
    return (plan.horizon - height * plan.height * outline).astype(np.float32)


def mountains(
    plan: Plan, outline: Field, haze: float, snow: float = 0.0, material: Material = Material.MOUNTAIN
) -> None:
    """Fill from an outline down to the horizon; ``snow`` (0..1) is how far down the caps reach."""
    rng = plan.rng
    relief = fractal(rng, plan.height, plan.width, plan.height * 0.16, 0.7, 5)
    relief = np.asarray(relief + (outline - outline.mean()) * 0.02, np.float32)
    light = np.clip(np.gradient(relief, axis=1) * plan.height * 0.055 * -plan.sun_side, -0.9, 0.9)
    mask = plan.below(outline) & ~plan.below(plan.horizon + 2)
    fade = np.clip((plan.rows - outline.min()) / max(plan.horizon - float(outline.min()), 1.0), 0.0, 1.0)
    haze_map = np.clip(haze + 0.25 * fade, 0.0, 0.92).astype(np.float32)
    plan.lay(mask, material, light.astype(np.float32), haze_map, float(rng.choice([-0.8, 0.8])))
    if snow:
        span = plan.horizon - float(outline.min())
        capped = plan.rows + relief * span * 0.25 < outline.min() + span * snow
        plan.lay(mask & capped, Material.SNOWCAP, light.astype(np.float32), haze * 0.7, -0.7 * plan.sun_side)


def wood(plan: Plan, height: float, haze: float, where: tuple[float, float] = (0.0, 1.0), drop: float = 0.0) -> None:
    """A distant wood along the horizon between two fractions of the width, ``height`` × the picture's height tall."""
    rng = plan.rng
    crowns = line(rng, plan.width, plan.width * 0.3, 0.3) * 0.6
    crowns += np.abs(smooth(rng, 1, plan.width, 1, plan.height * height * 0.5)[0]) * 0.7
    along = plan.columns[0] / plan.width
    ends = np.clip(np.minimum(along - where[0] + 0.06, where[1] + 0.06 - along) * 9, 0.0, 1.0) ** 0.5
    base = plan.horizon + drop * plan.height
    top = base - plan.height * height * (0.25 + crowns) * ends
    mask = plan.below(top) & ~plan.below(base + 2) & (ends > 0)
    clumps = fractal(rng, plan.height, plan.width, plan.height * height * 0.4, 1.0, 3) * 0.8
    light = clumps + 0.3 - 0.7 * np.clip((plan.rows - top) / (plan.height * height), 0, 1)
    plan.lay(mask, Material.WOOD, light.astype(np.float32), haze, np.pi / 2)


def field(plan: Plan, material: Material, where: float | Field | Mask, cell: float = 3.0) -> Mask:
    """Cover the ground below a line (or inside a mask) with grass, crop, sand, earth or snow; returns the mask."""
    given = np.asarray(where)
    mask = given if given.dtype == np.bool_ else plan.below(np.asarray(given, np.float32))
    light = plan.ground_noise(cell, 2.0) * 0.4 + plan.ground_noise(cell * 8, 3.0) * 0.35
    upright = material in (Material.MEADOW, Material.CROP, Material.REED)
    angle = 1.25 + 0.5 * float(plan.rng.uniform(-1, 1)) if upright else float(plan.rng.uniform(-0.15, 0.15))
    plan.lay(mask, material, light, plan.ground_haze, angle)
    return np.asarray(mask)


def furrows(plan: Plan, mask: Mask, spacing: float) -> None:
    """Plough, or sow in rows: stripes ``spacing`` metres apart that run to a vanishing point."""
    metre = np.maximum(plan.rows - plan.horizon, 1.5) / plan.eye
    vanish = plan.width * float(plan.rng.uniform(-0.3, 1.3))
    stripes = np.sin((plan.columns - vanish) / metre * (2 * np.pi / spacing))
    fade = np.clip(metre * spacing / 8, 0.0, 1.0)
    plan.maps[..., 1] += np.where(mask, stripes * 0.45 * fade, 0.0)
    direction = np.arctan2(plan.rows - plan.horizon, plan.columns - vanish)
    plan.maps[..., 3] = np.where(mask, direction, plan.maps[..., 3])


def flowers(plan: Plan, mask: Mask, amount: float, material: Material = Material.FLOWER) -> None:
    """Strew flowers over ``mask``; ``amount`` 0..1."""
    patches = plan.ground_noise(9.0, 2.0)
    heads = plan.ground_noise(0.35)
    plan.lay(mask & (heads + 0.7 * patches > 1.35 - amount), material, 0.1, plan.ground_haze, 0.3)


def strip(plan: Plan, vanish: float, lead: float, meander: float, metres: float, far: float = 0.0) -> Mask:
    """Mask of a path or river on the ground.

    ``vanish``: where it meets the horizon (0..1 of the width); ``lead``: where it leaves the picture below (0..1);
    ``meander``: how far it swings (fraction of the width); ``metres``: its width; ``far``: depth at which it begins.
    """
    depth = np.clip((plan.rows - plan.horizon) / (plan.height - plan.horizon), 0.0, 1.0)
    phase = float(plan.rng.uniform(0, 2 * np.pi))
    swing = np.sin(phase + 3.2 * np.sqrt(depth) * np.pi) * meander * depth**0.8 * (1.15 - depth)
    centre = (vanish + (lead - vanish) * depth + swing) * plan.width
    half = np.maximum(plan.rows - plan.horizon, 1.0) / plan.eye * metres / 2
    ragged = half * (1.0 + 0.12 * smooth(plan.rng, plan.height, plan.width, plan.height * 0.02, plan.width))
    return np.asarray((np.abs(plan.columns - centre) < ragged) & (depth > far))


def water(plan: Plan, mask: Mask, swell: float) -> None:
    """Cover ``mask`` with water; ``swell`` (0..1) goes from a mirror to a rough sea with foam."""
    waves = plan.ground_noise(3.0 + 4.0 * swell, 4.0)
    light = waves * (0.2 + 0.5 * swell)
    haze = plan.ground_haze * 0.85
    plan.lay(mask, Material.WATER, light.astype(np.float32), haze, float(plan.rng.uniform(-0.06, 0.06)))
    if swell > 0.45:
        plan.lay(mask & (waves > 1.25 - 0.5 * swell), Material.FOAM, 0.3, haze * 0.7, 0.1)


def lilies(plan: Plan, mask: Mask, amount: float) -> None:
    """Let islands of lily pads float on the water in ``mask``."""
    islands = plan.ground_noise(5.0, 2.5)
    pads = mask & (islands > 0.75 - amount) & (plan.ground_noise(0.9, 2.0) > -0.15)
    plan.lay(pads, Material.LILY_PAD, plan.ground_noise(0.8) * 0.5, plan.ground_haze)
    plan.lay(pads & (plan.ground_noise(0.4) > 0.72), Material.LILY, 0.4, plan.ground_haze)


def beach(plan: Plan, side: float, material: Material, surf: bool) -> Mask:
    """A shore from the lower edge up one side (-1 left, 1 right); returns its mask."""
    rng = plan.rng
    along = plan.columns[0] / plan.width
    toward = along if side > 0 else 1.0 - along
    bend = float(rng.uniform(0.9, 2.6))
    rise = float(rng.uniform(0.1, 0.25)) + float(rng.uniform(0.35, 0.75)) * toward**bend
    ripple = (line(rng, plan.width, plan.width * 0.3) - 0.5) * 0.07
    edge = (plan.height - (plan.height - plan.horizon) * np.clip(rise + ripple, 0.02, 0.97)).astype(np.float32)
    if surf:
        for step in (0.16, 0.07, 0.0):
            reach = (edge - plan.horizon) * step + (edge - plan.horizon) * 0.05
            wash = (
                (plan.rows > edge - reach) & (plan.rows < edge - reach * 0.45) & (plan.ground_noise(2.0, 4.0) > -0.25)
            )
            plan.lay(wash, Material.FOAM, 0.3, plan.ground_haze, 0.05)
    return field(plan, material, edge, 2.0)


def cliff(plan: Plan, side: float, height: float, reach: float, foot: float, arch: bool) -> None:
    """A cliff that comes in from one side (-1 left, 1 right).

    ``height``: fraction of the picture's height above the horizon; ``reach``: fraction of the width it covers;
    ``foot``: depth at which it stands; ``arch``: whether the sea has opened a gate in it.
    """
    rng = plan.rng
    along = plan.columns[0] / plan.width
    crags = fractal(rng, plan.height, plan.width, plan.height * 0.12, 1.0, 4) * 0.07
    inward = (1.0 - along if side > 0 else along) / reach + crags
    profile = np.clip(1.0 - inward, 0.0, None) ** float(rng.uniform(0.15, 0.7))
    jagged = 1.0 - 0.4 * line(rng, plan.width, plan.width * 0.3, 0.55)
    top = plan.horizon - plan.height * height * profile * jagged
    base = plan.row(foot) + (line(rng, plan.width, plan.width * 0.1) - 0.5) * plan.height * 0.02
    mask = (plan.rows > top) & (plan.rows < base) & (inward < 1.0)
    if arch:
        centre = reach * 0.62 if side < 0 else 1.0 - reach * 0.62
        half = reach * 0.16 * plan.width
        rise = plan.height * height * 0.5
        across = (plan.columns - centre * plan.width) / half
        gate = plan.rows > plan.horizon - rise * np.sqrt(np.clip(1.0 - across**2, 0.0, 1.0))
        mask &= ~(gate & (np.abs(across) < 1.0))
    strata = fractal(rng, plan.height, plan.width, plan.height * 0.05, 5.0, 3) * 0.35
    facets = fractal(rng, plan.height, plan.width, plan.height * 0.2, 0.35, 4) * 0.6
    light = np.clip(strata + facets + 0.25 * plan.sun_side * -side, -1, 1).astype(np.float32)
    plan.lay(mask, Material.CLIFF, light, plan.haze(plan.row(foot)), float(rng.choice([0.15, 1.3])))
    if rng.random() < 0.6:
        turf = mask & (plan.rows < top + plan.height * 0.03 * (0.6 + strata + 0.4 * jagged))
        plan.lay(turf, Material.MEADOW, 0.3, plan.haze(plan.row(foot)), 0.2)

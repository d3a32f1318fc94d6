"""Houses, churches, mills, bridges, jetties, skylines and quays, each drawn in metres on its stand."""

import numpy as np

from .material import Material
from .plan import Plan, Stand

_UPRIGHT = float(np.pi / 2)


def _box(stand: Stand, left: float, right: float, low: float, high: float, material: Material, light: float) -> None:
    corners = [(left, low), (right, low), (right, high), (left, high)]
    stand.polygon(corners, material, light, _UPRIGHT if high - low > right - left else 0.0)


def _windows(stand: Stand, left: float, right: float, low: float, high: float) -> None:
    """Windows in rows, a storey of 2.8 m each."""
    columns = max(int((right - left) / 2.2), 1)
    for storey in range(max(int((high - low) / 2.8), 1)):
        for column in range(columns):
            x = left + (column + 0.5) * (right - left) / columns
            y = low + 1.0 + storey * 2.8
            _box(stand, x - 0.4, x + 0.4, y, y + 1.3, Material.WINDOW, float(stand.rng.uniform(-0.3, 0.2)))


def house(stand: Stand) -> None:
    """A gabled house seen at an angle: a long front, a narrow gable end, a roof and a chimney."""
    rng = stand.rng
    front, gable = float(rng.uniform(5, 9)), float(rng.uniform(3, 5))
    walls, rise = float(rng.uniform(2.8, 5.8)), float(rng.uniform(1.8, 3.4))
    turn = float(rng.choice([-1.0, 1.0]))
    wall = Material.WALL if rng.random() < 0.5 else Material.PLASTER
    lit = 0.3 * stand.sun_side * turn
    stand.cast_shadow(front * 0.5)

    def mirrored(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(turn * x, y) for x, y in points]

    near, far = front * 0.5, -front * 0.5
    end, skew = near + gable * 0.55, 0.25
    ridge_x, ridge_y = near + gable * 0.27, walls + rise
    stand.polygon(mirrored([(far, 0), (near, 0), (near, walls), (far, walls)]), wall, -lit, 0.0)
    gable_end = [(near, 0), (end, skew), (end, walls), (ridge_x, ridge_y), (near, walls)]
    stand.polygon(mirrored(gable_end), wall, lit + 0.1, _UPRIGHT)
    _windows(stand, far, near, 0.0, walls)
    if stand.metre > 4:
        _box(stand, turn * near * 0.2 - 0.5, turn * near * 0.2 + 0.5, 0.0, 2.0, Material.WINDOW, -0.4)
    chimney = turn * far * 0.5
    _box(stand, chimney - 0.35, chimney + 0.35, walls + rise * 0.6, ridge_y + 0.9, Material.ROOF, -0.3)
    slope = [(far - 0.3, walls - 0.15), (near, walls - 0.15), (ridge_x, ridge_y), (far + gable * 0.27, ridge_y)]
    stand.polygon(mirrored(slope), Material.ROOF, 0.15 - lit, 0.9 * turn)
    verge = [(end + 0.25, walls - 0.2), (end, walls + 0.1), (ridge_x - 0.1, ridge_y), (ridge_x + 0.25, ridge_y)]
    stand.polygon(mirrored(verge), Material.ROOF, -0.3, 0.6)


def church(stand: Stand) -> None:
    """A nave with a tower and a spire."""
    rng = stand.rng
    stand.cast_shadow(6)
    side = float(rng.choice([-1.0, 1.0]))
    _box(stand, -5, 5, 0, 5.5, Material.MASONRY, -0.1)
    stand.polygon([(-5.4, 5.3), (5.4, 5.3), (4.4, 9.0), (-4.4, 9.0)], Material.ROOF, 0.1, 1.1)
    _windows(stand, -5, 5, 0.8, 3.4)
    tower, tip = 13.0, 13.0 + float(rng.uniform(3.5, 9))
    left = side * 5.0 - 1.8
    _box(stand, left, left + 3.6, 0, tower, Material.MASONRY, 0.25)
    dark = left if stand.sun_side > 0 else left + 2.2
    _box(stand, dark, dark + 1.4, 0, tower, Material.MASONRY, -0.35)
    _box(stand, left + 1.3, left + 2.3, tower - 3.2, tower - 1.2, Material.WINDOW, -0.3)
    stand.polygon([(left - 0.3, tower), (left + 3.9, tower), (left + 1.8, tip)], Material.ROOF, -0.15, _UPRIGHT)


def windmill(stand: Stand) -> None:
    """A tapered tower with four sails."""
    stand.cast_shadow(4)
    stand.polygon([(-3.2, 0), (3.2, 0), (1.9, 10), (-1.9, 10)], Material.MASONRY, 0.1, _UPRIGHT)
    half = -stand.sun_side
    stand.polygon([(0, 0), (half * 3.2, 0), (half * 1.9, 10), (half * 0.3, 10)], Material.MASONRY, -0.4, _UPRIGHT)
    stand.polygon([(-2.2, 10), (2.2, 10), (0.9, 12.2), (-0.9, 12.2)], Material.ROOF, 0.0, 0.0)
    start = float(stand.rng.uniform(0, np.pi / 2))
    for quarter in range(4):
        turn = start + quarter * np.pi / 2
        along, across = (np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))
        sail = [(1.2, 0.0), (8.0, 0.0), (8.0, 1.5), (1.2, 1.2)]
        corners = [(a * along[0] + b * across[0], 10.6 + a * along[1] + b * across[1]) for a, b in sail]
        stand.polygon(corners, Material.TIMBER, 0.2, float(-turn))


def bridge(plan: Plan, depth: float, metres_high: float, span: float) -> None:
    """A stone bridge across the whole picture at ``depth``, its arches ``span`` metres wide."""
    stand = plan.stand(0.5, depth)
    half = plan.width / stand.metre / 2 + span
    shift = float(plan.rng.uniform(0, span))
    pier, crown = span * 0.13, metres_high * 0.72
    deck = [(-half, metres_high * 0.82), (0.0, metres_high), (half, metres_high * 0.82)]
    stand.polygon([*deck, (half, crown), (-half, crown)], Material.MASONRY, 0.2, 0.0)
    for left in np.arange(-half - shift, half, span):
        arc = np.linspace(0, np.pi, 9)
        middle, reach = left + span / 2, span / 2 - pier
        arch = [(middle - np.cos(t) * reach, np.sin(t) * crown * 0.88) for t in arc]
        face = [(left, 0.0), *arch, (left + span, 0.0), (left + span, crown + 0.1), (left, crown + 0.1)]
        stand.polygon(face, Material.MASONRY, -0.1, 0.0)
        rim = [(middle - np.cos(t) * reach * 1.12, np.sin(t) * crown * 0.97) for t in arc[::-1]]
        stand.polygon([*arch, *rim], Material.MASONRY, -0.6, 0.0)


def footbridge(stand: Stand) -> None:
    """A curved wooden footbridge over a pond."""
    half, rise = 7.0, float(stand.rng.uniform(1.3, 2.2))
    across = np.linspace(-half, half, 15)
    lift = rise * (1 - (across / half) ** 2) + 0.8
    for low, high, light in ((-0.15, 0.3, -0.2), (0.9, 1.12, 0.3)):
        lower = [(float(x), float(y + low)) for x, y in zip(across, lift, strict=True)]
        upper = [(float(x), float(y + high)) for x, y in zip(across[::-1], lift[::-1], strict=True)]
        stand.polygon(lower + upper, Material.TIMBER, light, 0.0)
    for x, y in zip(across[::2], lift[::2], strict=True):
        stand.bar((float(x), float(y)), (float(x), float(y + 1.1)), 0.12, Material.TIMBER)
    for x in (-half * 0.55, half * 0.55):
        stand.bar((x, -0.3), (x, rise * 0.6 + 0.8), 0.25, Material.TIMBER)


def jetty(stand: Stand) -> None:
    """A plank deck on posts."""
    length = float(stand.rng.uniform(6, 12))
    _box(stand, -length / 2, length / 2, 0.7, 1.1, Material.TIMBER, 0.3)
    for x in np.linspace(-length / 2 + 0.2, length / 2 - 0.2, 6):
        stand.bar((float(x), -0.3), (float(x), 1.6), 0.28, Material.TIMBER)


def skyline(plan: Plan, where: tuple[float, float], depth: float, scale: float) -> None:
    """A row of town houses, towers and domes along a shore, between two fractions of the width."""
    rng, x = plan.rng, where[0]
    while x < where[1]:
        stand = plan.stand(x, depth)
        width, tall = float(rng.uniform(5, 10)) * scale, float(rng.uniform(6, 13)) * scale
        kind = rng.random()
        material = Material.WALL if rng.random() < 0.45 else Material.PLASTER
        light = float(rng.uniform(-0.45, 0.4))
        if kind < 0.12:
            _box(stand, 0, width * 0.45, 0, tall * 2.2, Material.MASONRY, light)
            tip = [(-0.3, tall * 2.2), (width * 0.5, tall * 2.2), (width * 0.22, tall * 3.0)]
            stand.polygon(tip, Material.ROOF, 0.0, _UPRIGHT)
        elif kind < 0.18:
            _box(stand, 0, width, 0, tall, Material.MASONRY, light)
            dome = [
                (width * (0.5 - 0.45 * np.cos(t)), tall + width * 0.6 * np.sin(t)) for t in np.linspace(0, np.pi, 9)
            ]
            stand.polygon(dome, Material.MASONRY, light - 0.3, 0.6)
        else:
            _box(stand, 0, width, 0, tall, material, light)
            _windows(stand, 0.3, width - 0.3, 0, tall)
            peak = tall + float(rng.uniform(1.5, 4.5)) * scale
            shape = [(-0.3, tall), (width + 0.3, tall), (width * 0.75, peak), (width * 0.25, peak)]
            stand.polygon(shape, Material.ROOF, float(rng.uniform(-0.4, 0.3)), 0.7)
        x += width * float(rng.uniform(0.8, 1.0)) * stand.metre / plan.width


def quay(plan: Plan, side: float) -> None:
    """A stone quay in the foreground that rises to one side (-1 left, 1 right)."""
    left, right = plan.row(0.94 if side > 0 else 0.5), plan.row(0.5 if side > 0 else 0.94)
    edge = np.linspace(left, right, plan.width, dtype=np.float32)
    light = plan.ground_noise(1.5, 2.0) * 0.35
    plan.lay(plan.below(edge), Material.QUAY, light, plan.ground_haze, float(np.arctan2(right - left, plan.width)))
    lip = plan.below(edge) & ~plan.below(edge + plan.height * 0.012)
    plan.lay(lip, Material.QUAY, 0.6, plan.ground_haze, float(np.arctan2(right - left, plan.width)))

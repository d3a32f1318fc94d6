"""Palettes: the colours of materials, and the light of the hour that falls on them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from underpaint.taxonomy import LANDSCAPE

from .material import Material
from .noise import Field, fractal
from .plan import Mask, Plan

RGB = tuple[int, int, int]

_SKY, _WATER = LANDSCAPE.index("sky"), LANDSCAPE.index("water")

_LOCAL: Mapping[Material, RGB] = {
    Material.WATER: (62, 104, 122),
    Material.FOAM: (232, 236, 232),
    Material.LILY_PAD: (96, 140, 98),
    Material.LILY: (238, 196, 208),
    Material.FOLIAGE: (74, 106, 48),
    Material.POPLAR: (98, 124, 56),
    Material.CONIFER: (44, 76, 58),
    Material.WOOD: (66, 94, 66),
    Material.BLOSSOM: (232, 204, 206),
    Material.TRUNK: (92, 70, 58),
    Material.MEADOW: (128, 152, 66),
    Material.CROP: (204, 178, 84),
    Material.FLOWER: (204, 62, 44),
    Material.BLOOM: (214, 186, 214),
    Material.REED: (142, 146, 68),
    Material.PATH: (202, 178, 142),
    Material.SAND: (216, 192, 150),
    Material.EARTH: (150, 112, 82),
    Material.SNOW: (226, 228, 234),
    Material.HAY: (208, 168, 92),
    Material.QUAY: (168, 156, 144),
    Material.MOUNTAIN: (112, 110, 120),
    Material.SNOWCAP: (236, 236, 242),
    Material.CLIFF: (190, 168, 142),
    Material.BOULDER: (126, 116, 112),
    Material.WALL: (196, 140, 108),
    Material.PLASTER: (232, 218, 194),
    Material.ROOF: (168, 84, 62),
    Material.WINDOW: (74, 76, 92),
    Material.MASONRY: (176, 162, 146),
    Material.TIMBER: (118, 94, 76),
    Material.HULL: (72, 62, 66),
    Material.SAIL: (234, 218, 192),
    Material.MAST: (94, 70, 52),
    Material.COAT: (56, 54, 74),
    Material.DRESS: (226, 208, 206),
    Material.SKIN: (214, 166, 138),
}

_VARIANTS: Mapping[Material, tuple[RGB, ...]] = {
    Material.WATER: ((62, 104, 122), (58, 116, 106), (88, 112, 136), (70, 98, 84)),
    Material.FOLIAGE: ((74, 106, 48), (58, 98, 66), (170, 112, 44), (116, 122, 52), (156, 76, 48)),
    Material.POPLAR: ((98, 124, 56), (196, 150, 58), (84, 116, 84)),
    Material.MEADOW: ((128, 152, 66), (104, 142, 74), (170, 158, 84), (146, 150, 96)),
    Material.FLOWER: ((204, 62, 44), (236, 200, 70), (232, 228, 220), (170, 110, 178), (226, 120, 90)),
    Material.BLOOM: ((214, 186, 214), (240, 226, 140), (140, 140, 206), (226, 112, 128)),
    Material.MOUNTAIN: ((112, 110, 120), (108, 122, 104), (134, 112, 100), (96, 110, 138)),
    Material.CLIFF: ((190, 168, 142), (216, 206, 188), (168, 122, 92), (142, 138, 140)),
    Material.ROOF: ((168, 84, 62), (104, 108, 124), (196, 116, 70), (140, 110, 88)),
    Material.HULL: ((72, 62, 66), (52, 86, 96), (134, 60, 50), (176, 170, 160), (110, 84, 58)),
    Material.SAIL: ((234, 218, 192), (240, 236, 228), (190, 96, 58), (214, 160, 92)),
    Material.COAT: ((56, 54, 74), (104, 60, 54), (66, 88, 112), (120, 110, 88)),
    Material.DRESS: ((226, 208, 206), (110, 134, 176), (206, 90, 84), (236, 226, 170)),
}


@dataclass(frozen=True)
class Hour:
    """The light of an hour: colours of the sky and its clouds, of sunlit and shaded things, and how hazy the air is."""

    zenith: RGB
    horizon: RGB
    cloud: RGB
    cloud_shade: RGB
    sunlight: RGB
    shade: RGB
    tint: tuple[float, float, float]
    air: float


HOURS: Mapping[str, Hour] = {
    "morning": Hour(
        (112, 164, 212),
        (226, 228, 214),
        (250, 244, 232),
        (176, 188, 208),
        (255, 244, 206),
        (58, 74, 118),
        (1.0, 1.0, 0.98),
        0.9,
    ),
    "noon": Hour(
        (72, 136, 206),
        (186, 214, 228),
        (252, 250, 244),
        (160, 178, 204),
        (255, 250, 220),
        (50, 70, 110),
        (1.05, 1.04, 0.98),
        0.7,
    ),
    "dawn": Hour(
        (140, 158, 202),
        (248, 206, 172),
        (252, 214, 196),
        (168, 144, 178),
        (255, 214, 168),
        (86, 78, 128),
        (1.0, 0.9, 0.92),
        1.3,
    ),
    "dusk": Hour(
        (96, 92, 150),
        (246, 158, 92),
        (244, 168, 126),
        (122, 92, 136),
        (255, 182, 104),
        (58, 46, 98),
        (0.92, 0.76, 0.76),
        1.1,
    ),
    "overcast": Hour(
        (168, 178, 188),
        (216, 216, 208),
        (228, 228, 224),
        (158, 164, 174),
        (238, 236, 222),
        (76, 84, 96),
        (0.92, 0.94, 0.94),
        1.1,
    ),
    "storm": Hour(
        (82, 94, 112),
        (176, 178, 170),
        (150, 154, 162),
        (66, 74, 92),
        (222, 214, 182),
        (34, 44, 62),
        (0.74, 0.78, 0.8),
        1.0,
    ),
    "mist": Hour(
        (190, 194, 206),
        (222, 214, 206),
        (230, 224, 220),
        (188, 188, 204),
        (240, 226, 206),
        (116, 116, 146),
        (0.96, 0.95, 0.98),
        2.4,
    ),
    "nightfall": Hour(
        (36, 50, 96),
        (112, 124, 156),
        (106, 118, 158),
        (52, 62, 108),
        (188, 190, 196),
        (18, 24, 58),
        (0.5, 0.56, 0.74),
        1.0,
    ),
}


def _local_colours(rng: np.random.Generator, winter: bool) -> Field:
    """Colours of the materials of one scene, (materials, 3) float32, 0..1: a variant each, a little off its hue."""
    table = np.zeros((len(Material), 3), np.float32)
    table[list(_LOCAL)] = list(_LOCAL.values())
    for material, variants in _VARIANTS.items():
        table[material] = variants[int(rng.integers(len(variants)))]
    if winter:
        table[Material.ROOF] = 0.4 * table[Material.ROOF] + 0.6 * np.array((222, 226, 236), np.float32)
        for material in (Material.WOOD, Material.FOLIAGE, Material.CONIFER):
            table[material] = 0.6 * table[material] + 0.4 * np.array((128, 122, 130), np.float32)
    table *= 1.0 + rng.normal(0.0, 0.045, table.shape).astype(np.float32)
    return np.asarray(table / 255.0, np.float32)


def _reflect(plan: Plan, colour: Field, calm: float) -> tuple[Field, Mask]:
    """What the water mirrors, (H, W, 3), and where it mirrors anything, (H, W).

    Things at the water's edge hang from the edge above them; where none does, the sky and the far shore hang from the
    horizon. Ripples pull both apart.
    """
    rows, height, classes = plan.rows, plan.height, plan.class_map
    dry = np.where(classes == _WATER, -1.0, rows)
    edge = np.maximum.accumulate(dry, axis=0) + 0.5
    ripple = plan.ground_noise(1.2, 5.0) * np.clip((rows - plan.horizon) / height, 0.0, 1.0) * height * 0.05
    x = (plan.columns + ripple).astype(np.float32)

    def hang(line: npt.NDArray[np.floating[Any]] | float) -> tuple[Field, npt.NDArray[np.uint8]]:
        y = np.clip(2 * line - rows + ripple * (1.6 - calm), 0, height - 1).astype(np.float32)
        hanging = cv2.remap(classes, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        mirrored = cv2.remap(colour, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(mirrored), np.asarray(hanging)

    near, standing = hang(edge)
    far, beyond = hang(plan.horizon)
    hangs_near = (standing != _WATER) & (standing != _SKY)
    hangs_far = np.isin(beyond, [LANDSCAPE.index(name) for name in ("sky", "rock", "tree", "building")])
    return np.where(hangs_near[..., None], near, far), hangs_near | hangs_far


def colour_guide(plan: Plan, hour: Hour) -> Field:
    """The colours to paint, (H, W, 3) float32 RGB in 0..1: local colour, lit or shaded, seen through the air."""
    rng = plan.rng
    local = _local_colours(rng, plan.winter)
    zenith, horizon, cloud, cloud_shade, sunlight, shade = (
        np.array(value, np.float32) / 255.0
        for value in (hour.zenith, hour.horizon, hour.cloud, hour.cloud_shade, hour.sunlight, hour.shade)
    )
    local *= np.array(hour.tint, np.float32)
    local[Material.SKY], local[Material.CLOUD], local[Material.SUN] = zenith, cloud, (1.0, 0.95, 0.8)

    material, classes = plan.material, plan.class_map
    light, haze = plan.maps[..., 1].copy(), plan.maps[..., 2]
    on_land = np.isin(classes, [LANDSCAPE.index("grass"), LANDSCAPE.index("ground")])
    light -= np.asarray(cv2.GaussianBlur(plan.shadow, (0, 0), plan.height / 160), np.float32) * on_land
    light += fractal(rng, plan.height, plan.width, plan.height * 0.35, 1.6, 3) * 0.12
    lit, dim = np.clip(light, 0.0, 1.0)[..., None], np.clip(-light, 0.0, 1.0)[..., None]

    colour = local[material]
    in_sky = (classes == _SKY)[..., None].astype(np.float32)
    darker = np.where((material == Material.CLOUD)[..., None], cloud_shade, colour * 0.42 + shade * 0.28)
    colour = colour + (darker - colour) * dim * (0.85 + 0.15 * in_sky)
    colour = colour + (sunlight * (0.35 + 0.65 * colour) - colour) * lit * (0.7 + 0.15 * in_sky)
    air = np.clip(haze[..., None] * (hour.air + (1.0 - hour.air) * in_sky), 0.0, 0.95)
    colour = (colour + (horizon * (0.92 + 0.08 * in_sky) - colour) * air).astype(np.float32)

    calm = float(rng.uniform(0.35, 0.85))
    mirrored, mirrors = _reflect(plan, colour, calm)
    share = calm * ((mirrors & (material == Material.WATER)) * (1.0 - 0.35 * np.abs(light)))[..., None]
    return np.asarray(colour + (mirrored * 0.94 - colour) * share, np.float32)

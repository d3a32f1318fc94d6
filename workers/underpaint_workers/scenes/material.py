"""Materials: what a landscape is made of. Every material belongs to exactly one landscape class."""

from enum import IntEnum, auto

import numpy as np
import numpy.typing as npt

from underpaint.taxonomy import LANDSCAPE


class Material(IntEnum):
    """One kind of surface, finer than a class: a roof and a wall are both ``building``."""

    SKY = 0
    CLOUD = auto()
    SUN = auto()
    WATER = auto()
    FOAM = auto()
    LILY_PAD = auto()
    LILY = auto()
    FOLIAGE = auto()
    POPLAR = auto()
    CONIFER = auto()
    WOOD = auto()
    BLOSSOM = auto()
    TRUNK = auto()
    MEADOW = auto()
    CROP = auto()
    FLOWER = auto()
    BLOOM = auto()
    REED = auto()
    PATH = auto()
    SAND = auto()
    EARTH = auto()
    SNOW = auto()
    HAY = auto()
    QUAY = auto()
    MOUNTAIN = auto()
    SNOWCAP = auto()
    CLIFF = auto()
    BOULDER = auto()
    WALL = auto()
    PLASTER = auto()
    ROOF = auto()
    WINDOW = auto()
    MASONRY = auto()
    TIMBER = auto()
    HULL = auto()
    SAIL = auto()
    MAST = auto()
    COAT = auto()
    DRESS = auto()
    SKIN = auto()


_OF_CLASS: dict[str, tuple[Material, ...]] = {
    "sky": (Material.SKY, Material.CLOUD, Material.SUN),
    "water": (Material.WATER, Material.FOAM, Material.LILY_PAD, Material.LILY),
    "tree": (
        Material.FOLIAGE,
        Material.POPLAR,
        Material.CONIFER,
        Material.WOOD,
        Material.BLOSSOM,
        Material.TRUNK,
    ),
    "grass": (Material.MEADOW, Material.CROP, Material.FLOWER, Material.BLOOM, Material.REED),
    "ground": (Material.PATH, Material.SAND, Material.EARTH, Material.SNOW, Material.HAY, Material.QUAY),
    "rock": (Material.MOUNTAIN, Material.SNOWCAP, Material.CLIFF, Material.BOULDER),
    "building": (
        Material.WALL,
        Material.PLASTER,
        Material.ROOF,
        Material.WINDOW,
        Material.MASONRY,
        Material.TIMBER,
    ),
    "boat": (Material.HULL, Material.SAIL, Material.MAST),
    "person": (Material.COAT, Material.DRESS, Material.SKIN),
}


def _class_of_material() -> npt.NDArray[np.uint8]:
    table = np.zeros(len(Material), np.uint8)
    for name, materials in _OF_CLASS.items():
        table[list(materials)] = LANDSCAPE.index(name)
    return table


CLASS_OF = _class_of_material()
"""Class id (uint8) of each material, indexed by the material."""

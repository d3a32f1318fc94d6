"""Paintings that a net learns in seconds."""

import numpy as np

from underpaint_workers.dataset import Item

CLASSES = ("sky", "sea")


def painting(seed: int, size: tuple[int, int] = (64, 64)) -> Item:
    """A light sky over a dark sea, the horizon anywhere, one corner unlabelled."""
    random = np.random.default_rng(seed)
    class_map = np.zeros(size, np.uint8)
    class_map[random.integers(size[0] // 4, 3 * size[0] // 4) :] = 1
    image = np.where(class_map[..., None] == 0, [180, 200, 230], [20, 60, 70]) + random.integers(-15, 15, (*size, 3))
    class_map[:4, :4] = 255
    return image.astype(np.uint8), class_map

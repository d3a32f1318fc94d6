"""Painted scenes as a data set on disk, or as items in memory."""

import math
import time
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np

from underpaint.labelstudio.class_mapping import ClassMapping
from underpaint.taxonomy import LANDSCAPE, UNLABELLED
from underpaint_workers import dataset

from .manners import BASE_MANNERS
from .scene import Scene, paint


def write_dataset(
    folder: Path,
    count: int,
    seed: int = 0,
    size: tuple[int, int] = (384, 512),
    manners: Sequence[str] | None = None,
) -> None:
    """Paint ``count`` scenes as a data set in ``folder``, which is none before the last is done.

    Scenes take the ``manners`` in turn; None lets each seed choose. Existing files of the same names are replaced.
    """
    for index, scene in enumerate(_paint_each(count, seed, size, manners)):
        dataset.write_item(folder, f"{scene.manner}-{seed}-{index:04d}", scene.image, scene.class_map)
    dataset.write_classes(folder, LANDSCAPE)


def paint_items(
    classes: Sequence[str], count: int, seed: int, size: tuple[int, int], seconds: float = math.inf
) -> list[dataset.Item]:
    """`count` scenes in the base's manners, whose class maps hold ids of `classes`, 255 for what none of these names.

    After so many `seconds` none is begun any more. There are none where scenes show fewer than half of the `classes`:
    these are no landscape's.
    """
    ends = time.monotonic() + seconds
    mapping = ClassMapping.of(classes, LANDSCAPE)
    if 2 * len(set(mapping.owners) - {None}) < len(classes):
        return []
    ids = np.array([UNLABELLED if owner is None else owner for owner in mapping.owners], np.uint8)
    scenes = takewhile(lambda _: time.monotonic() < ends, _paint_each(count, seed, size, BASE_MANNERS))
    return [(scene.image, ids[scene.class_map]) for scene in scenes]


def _paint_each(count: int, seed: int, size: tuple[int, int], manners: Sequence[str] | None) -> Iterator[Scene]:
    seeds = np.random.SeedSequence(seed).generate_state(count, np.uint64)
    for index, scene_seed in enumerate(seeds.tolist()):
        yield paint(scene_seed, size, manners[index % len(manners)] if manners else None)

"""Painted scenes on disk, as a data set."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from underpaint.taxonomy import LANDSCAPE
from underpaint_workers import dataset

from .scene import paint


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
    seeds = np.random.SeedSequence(seed).generate_state(count, np.uint64)
    for index, scene_seed in enumerate(seeds.tolist()):
        scene = paint(scene_seed, size, manners[index % len(manners)] if manners else None)
        dataset.write_item(folder, f"{scene.manner}-{seed}-{index:04d}", scene.image, scene.class_map)
    dataset.write_classes(folder, LANDSCAPE)

"""Painted scenes on disk, in the layout that training reads: ``images/``, ``labels/`` and ``classes.json``."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from underpaint.taxonomy import LANDSCAPE

from .scene import paint


def write_dataset(
    folder: Path,
    count: int,
    seed: int = 0,
    size: tuple[int, int] = (384, 512),
    manners: Sequence[str] | None = None,
) -> None:
    """Paint ``count`` scenes as ``images/NAME.jpg``, ``labels/NAME.png`` (8-bit class ids) and ``classes.json``.

    Scenes take the ``manners`` in turn; None lets each seed choose. Existing files of the same names are replaced.
    """
    images, labels = folder / "images", folder / "labels"
    for place in (images, labels):
        place.mkdir(parents=True, exist_ok=True)
    seeds = np.random.SeedSequence(seed).generate_state(count, np.uint64)
    for index, scene_seed in enumerate(seeds.tolist()):
        scene = paint(scene_seed, size, manners[index % len(manners)] if manners else None)
        name = f"{scene.manner}-{seed}-{index:04d}"
        Image.fromarray(scene.image).save(images / f"{name}.jpg", quality=92)
        Image.fromarray(scene.class_map).save(labels / f"{name}.png")
    (folder / "classes.json").write_text(json.dumps({"classes": list(LANDSCAPE)}) + "\n")

"""What each process of a training is given: a folder."""

import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.labelstudio.class_mapping import ClassMapping
from underpaint_workers.augmentation import shrink
from underpaint_workers.dataset import Item
from underpaint_workers.resume import Keeper
from underpaint_workers.train_settings import TrainSettings

_FACTS, _TRAINING, _VALIDATION = "facts.pickle", "training", "validation"


@dataclass(frozen=True)
class Assignment:
    """What ``train_by_folds`` is given, but for the paintings, which can be many."""

    classes: tuple[str, ...]
    parent: Checkpoint | None
    mapping: ClassMapping | None
    settings: TrainSettings
    snapshot: str
    keeper: Keeper | None
    log_level: int

    def write(self, folder: Path, items: Iterable[Item], validation: Iterable[Item]) -> None:
        """Write it into a folder that this user alone can write to, for what is read there is trusted."""
        _write(folder / _TRAINING, (shrink(item, self.settings.largest_side) for item in items))
        _write(folder / _VALIDATION, validation)
        (folder / _FACTS).write_bytes(pickle.dumps(self))

    @classmethod
    def read(cls, folder: Path) -> tuple["Assignment", list[Item], list[Item]]:
        """It, the paintings to learn from and those for validation; all processes share the memory of these."""
        facts: Assignment = pickle.loads((folder / _FACTS).read_bytes())
        return facts, _read(folder / _TRAINING), _read(folder / _VALIDATION)


def _write(folder: Path, items: Iterable[Item]) -> None:
    folder.mkdir()
    for index, (image, class_map) in enumerate(items):
        np.save(folder / f"{index:06}-image.npy", image)
        np.save(folder / f"{index:06}-map.npy", class_map)


def _read(folder: Path) -> list[Item]:
    # Copied where it is written to, which nothing does; torch only takes arrays that can be.
    images, class_maps = (
        [np.load(path, mmap_mode="c") for path in sorted(folder.glob(f"*-{kind}.npy"))] for kind in ("image", "map")
    )
    return list(zip(images, class_maps, strict=True))

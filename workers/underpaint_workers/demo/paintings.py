"""What the demo shows: painted scenes, a labelled data set, or bare images."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from underpaint.taxonomy import LANDSCAPE
from underpaint_workers.dataset import Dataset
from underpaint_workers.scenes import DEMO_MANNERS, write_dataset

SCENES = 36
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Paintings:
    """Image files for a project, with a data set's labels where there are any."""

    images: tuple[Path, ...]
    classes: tuple[str, ...]
    labels: Dataset | None

    @classmethod
    def of(cls, data: Path | None, scenes: Path, console: Console, count: int = SCENES) -> "Paintings":
        """The paintings in ``data``, or ``count`` scenes painted into the folder ``scenes`` when it is None.

        Raises FileNotFoundError that says what a data set looks like when ``data`` holds no images, and DatasetError
        when it is a broken one.
        """
        if data is None:
            if not (scenes / "classes.json").exists():
                with console.status(f"painting {count} landscapes …"):
                    write_dataset(scenes, count, manners=DEMO_MANNERS)
                console.print(f"Painted {count} landscapes in {scenes}")
            data = scenes
        labels = Dataset.open(data) if (data / "classes.json").exists() else None
        if labels:
            images = tuple(labels.image_path(name) for name in labels.names)
        else:
            images = tuple(sorted(path for path in data.rglob("*") if path.suffix.lower() in SUFFIXES))
        if not images:
            raise FileNotFoundError(
                f"{data} holds neither a data set (images/, labels/, classes.json) nor any image: name another folder"
            )
        return cls(images, labels.classes if labels else LANDSCAPE, labels)

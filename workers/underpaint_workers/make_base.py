"""Make the base segmenter that ships: ``make base``, or ``python -m underpaint_workers.make_base --data DIR``.

From ImageNet's weights, in three runs: on scenes painted by the project, on real paintings with our own labels, and on
those together with unlabelled paintings under the labels that the second run gives them (pseudo-labels; Lee, 2013).
DIR has the data sets ``monet/train`` and ``monet/val`` and the images ``monet-unlabelled``; ``monet/val`` is only
measured on.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress as Bar

from underpaint import base
from underpaint.checkpoints import Checkpoint, folder
from underpaint.segmenter.segmenter import Segmenter
from underpaint.taxonomy import LANDSCAPE, UNLABELLED
from underpaint_workers.dataset import Dataset, Item
from underpaint_workers.evaluation import Metrics, evaluate
from underpaint_workers.scenes import BASE_MANNERS, write_dataset
from underpaint_workers.training import TrainSettings, train

SCENES = 320
SCENE_SIZE = (288, 352)
CERTAIN = 0.7
"""Confidence (0–1) from which on a pseudo-label is believed; less certain pixels stay unlabelled."""
REPEATS = 2
"""Times that a labelled painting counts for each unlabelled one."""
LICENCES = (
    "Made by the Underpaint project from public-domain paintings by Claude Monet, its own labels and its own painted "
    "scenes; Apache-2.0."
)

console = Console()


def make(data: Path, out: Path, settings: TrainSettings) -> tuple[Checkpoint, Metrics]:
    """Train, measure, and write the base into `out`, which then has ``model.safetensors`` and ``card.json``."""
    labelled, unseen = Dataset.open(data / "monet" / "train"), Dataset.open(data / "monet" / "val")
    if labelled.classes != LANDSCAPE or unseen.classes != LANDSCAPE:
        raise ValueError(f"{data}/monet must have the classes {', '.join(LANDSCAPE)}, in this order.")
    paintings = [labelled.load(name) for name in labelled.names]
    with tempfile.TemporaryDirectory(prefix="underpaint-scenes-") as painted:
        write_dataset(Path(painted), SCENES, seed=1, size=SCENE_SIZE, manners=BASE_MANNERS)
        scenes = Dataset.open(Path(painted))
        first = _run("scenes", [scenes.load(name) for name in scenes.names], None, replace(settings, epochs=8))
    second = _run("paintings", paintings, first, settings)
    _report("after paintings", second, unseen)
    images = [_read(path) for path in sorted((data / "monet-unlabelled").glob("*.jpg"))]
    pseudo = list(_pseudo_label(second, images))
    third = _run("pseudo-labels", paintings * REPEATS + pseudo, first, replace(settings, epochs=16))
    metrics = _report("after pseudo-labels", third, unseen)
    card = replace(third.card, parent=None, metrics=asdict(metrics), licences=f"{third.card.licences} {LICENCES}")
    made = Checkpoint.from_module(third.module(), card, half=True)
    (out / "card.json").unlink(missing_ok=True)  # a base may be made anew; other checkpoints never change
    folder.write(out, made)
    return made, metrics


def _run(name: str, items: Sequence[Item], parent: Checkpoint | None, settings: TrainSettings) -> Checkpoint:
    with Bar(console=console) as bar:
        line = bar.add_task(f"{name} ({len(items)})")
        return train(
            items,
            LANDSCAPE,
            parent,
            settings,
            snapshot=name,
            progress=lambda progress: bar.update(line, completed=progress.step, total=progress.steps),
        )


def _pseudo_label(checkpoint: Checkpoint, images: Sequence[np.ndarray]) -> list[Item]:  # type: ignore[type-arg]
    segmenter = Segmenter(checkpoint)
    items = []
    for image in images:
        class_map, confidence = segmenter.predict(image, quality="best")
        class_map[confidence < CERTAIN] = UNLABELLED
        items.append((image, class_map))
    return items


def _report(stage: str, checkpoint: Checkpoint, unseen: Dataset) -> Metrics:
    metrics = evaluate(Segmenter(checkpoint), map(unseen.load, unseen.names), unseen.classes)
    scores = ", ".join(f"{name} {score:.2f}" for name, score in metrics.per_class.items() if score is not None)
    console.print(f"{stage}: mIoU {metrics.miou:.3f}, pixel accuracy {metrics.accuracy:.3f} ({scores})")
    return metrics


def _read(path: Path) -> np.ndarray:  # type: ignore[type-arg]
    with Image.open(path) as file:
        return np.array(file.convert("RGB"))


def main() -> None:
    """Read the command line and make the base."""
    parser = argparse.ArgumentParser(prog="underpaint_workers.make_base", description="Make the base segmenter.")
    parser.add_argument("--data", type=Path, required=True, help="folder with monet/train, monet/val, monet-unlabelled")
    parser.add_argument("--out", type=Path, default=Path(base.__file__).parent, help="folder of the result")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    made, _ = make(args.data, args.out, TrainSettings(strategy="all", seed=args.seed, minutes=60))
    console.print(f"{made.version} in {args.out}: {len(made.weights) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

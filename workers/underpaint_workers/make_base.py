"""Make the base segmenter that ships: ``make base``, or ``python -m underpaint_workers.make_base --data DIR``.

From ImageNet's weights, in two runs: on scenes painted by the project, then on real paintings with our own labels. DIR
has the data sets ``monet/train`` and ``monet/val``; the second is only measured on.
"""

import argparse
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress as Bar

from underpaint import base
from underpaint.checkpoints import Checkpoint, folder
from underpaint.segmenter.segmenter import Segmenter
from underpaint.taxonomy import LANDSCAPE
from underpaint_workers.dataset import Dataset
from underpaint_workers.evaluation import Metrics, evaluate
from underpaint_workers.scenes import BASE_MANNERS, write_dataset
from underpaint_workers.train_settings import TrainSettings
from underpaint_workers.training import train

IMAGE_SIZE = 320  # pixels, as BASE.md says, whatever the default for new segmenters is
SCENES = 320
SCENE_SIZE = (288, 352)
SCENE_EPOCHS = 8
PAINTING_EPOCHS = 140
MIN_STEPS = 400
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
    with tempfile.TemporaryDirectory(prefix="underpaint-scenes-") as painted:
        write_dataset(Path(painted), SCENES, seed=1, size=SCENE_SIZE, manners=BASE_MANNERS)
        scenes = Dataset.open(Path(painted))
        first = _run("scenes", scenes, None, replace(settings, epochs=SCENE_EPOCHS))
    second = _run("paintings", labelled, first, settings)
    metrics = evaluate(Segmenter(second, settings.device), map(unseen.load, unseen.names), unseen.classes)
    card = replace(second.card, parent=None, metrics=asdict(metrics), licences=f"{second.card.licences} {LICENCES}")
    made = Checkpoint.from_module(second.module(), card, half=True)
    (out / "card.json").unlink(missing_ok=True)  # a base may be made anew; other checkpoints never change
    folder.write(out, made)
    return made, metrics


def _run(name: str, data: Dataset, parent: Checkpoint | None, settings: TrainSettings) -> Checkpoint:
    with Bar(console=console) as bar:
        line = bar.add_task(f"{name} ({len(data.names)})")
        return train(
            map(data.load, data.names),
            LANDSCAPE,
            parent,
            settings,
            snapshot=name,
            progress=lambda progress: bar.update(line, completed=progress.step, total=progress.steps),
        )


def main() -> None:
    """Read the command line and make the base."""
    parser = argparse.ArgumentParser(prog="underpaint_workers.make_base", description="Make the base segmenter.")
    parser.add_argument("--data", type=Path, required=True, help="folder with monet/train and monet/val")
    parser.add_argument("--out", type=Path, default=Path(base.__file__).parent, help="folder of the result")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    settings = TrainSettings(
        "all", epochs=PAINTING_EPOCHS, min_steps=MIN_STEPS, minutes=60, image_size=IMAGE_SIZE, seed=args.seed
    )
    made, metrics = make(args.data, args.out, settings)
    scores = ", ".join(f"{name} {score:.2f}" for name, score in metrics.per_class.items() if score is not None)
    console.print(f"mIoU {metrics.miou:.3f}, pixel accuracy {metrics.accuracy:.3f} ({scores})")
    console.print(f"{made.version} in {args.out}: {len(made.weights) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

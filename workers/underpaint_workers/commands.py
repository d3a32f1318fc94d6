"""The commands that learn, measure and predict on folders, without Label Studio or Redis.

The entry points ``underpaint.commands`` in pyproject.toml name them, and ``underpaint.cli`` adds them to its own. It
imports this module at every start, so what takes seconds to import is imported by the commands themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from underpaint.settings import get_settings

if TYPE_CHECKING:
    from underpaint.checkpoints.checkpoint import Checkpoint
    from underpaint_workers.dataset import Dataset, Item
    from underpaint_workers.evaluation import Metrics, Seen
    from underpaint_workers.training import Progress as TrainProgress

Strategy = Literal["auto", "final", "extra", "head", "stage4", "all"]
Quality = Literal["fast", "best"]

console = Console(highlight=False)
# Bars and remarks are not what was asked for: what was can be piped.
remarks = Console(stderr=True, highlight=False, soft_wrap=True)

CheckpointName = Annotated[
    str,
    typer.Argument(metavar="CHECKPOINT", help="Folder that `train --out` wrote, `base`, or a version in the store."),
]
Data = Annotated[Path, typer.Option("--data", exists=True, file_okay=False, help="Data set: a folder.")]
QualityOption = Annotated[Quality, typer.Option(help="`best` takes longer.")]
Domain = Annotated[str | None, typer.Option(help="Take one domain of domains.json; needed where there are several.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def train(
    data: Data,
    out: Annotated[Path, typer.Option(file_okay=False, help="New folder for model.safetensors and card.json.")],
    val: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Data set to score the result on, and from five paintings on to stop by."
        ),
    ] = None,
    parent: Annotated[
        str | None,
        typer.Option(
            metavar="base|imagenet|CHECKPOINT",
            help="Where the weights start; if left out, the base if it is the same net and images are 8-bit RGB, else "
            "imagenet.",
        ),
    ] = None,
    strategy: Annotated[Strategy, typer.Option(help="How much of the net learns.")] = "auto",
    arch: Annotated[str | None, typer.Option(help="Architecture, by smp's name; the parent's if left out.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder, by smp's name; the parent's if left out.")] = None,
    domain: Domain = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Learn from so many paintings, drawn by the seed.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all that is drawn.")] = 0,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Longest time to train.")] = None,
    folds: Annotated[int | None, typer.Option(min=0, help="Find how long to train by cross-validation.")] = None,
    scenes: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Painted scenes to learn from beside paintings of landscapes, from imagenet; never beside another "
            "domain.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a checkpoint on a data set."""
    import numpy as np

    from underpaint.checkpoints import folder
    from underpaint_workers.dataset import PAINTING
    from underpaint_workers.gate import ENOUGH_PAINTINGS
    from underpaint_workers.parallel import train_in_parallel
    from underpaint_workers.parent import find_parent
    from underpaint_workers.score_table import score_table
    from underpaint_workers.train_settings import SCENES, TrainSettings

    folder.check_free(out)
    paintings = _open(data, domain)
    unseen = _open(val, domain) if val else None
    names = paintings.names
    if limit is not None:
        names = tuple(names[index] for index in np.random.default_rng(seed).permutation(len(names))[:limit])
    first, _ = paintings.load(names[0])
    start = find_parent(parent, arch, encoder, first, get_settings())
    if strategy == "final" and start is None and (arch or "Hypercolumn").casefold() != "hypercolumn":
        raise ValueError(
            f"From ImageNet's weights, --strategy final is one layer on the encoder's own features, with no {arch} in "
            "between: leave out --arch, name a --parent, or use another strategy."
        )
    settings = TrainSettings.of(get_settings())
    settings = replace(
        settings,
        strategy=strategy,
        architecture=start.card.architecture if start else arch or settings.architecture,
        options=start.card.options if start else {},
        encoder=start.card.encoder if start else encoder or settings.encoder,
        seed=seed,
        folds=settings.folds if folds is None else folds,
        minutes=settings.minutes if minutes is None else minutes,
        scenes=(SCENES if scenes is None else scenes) if paintings.domains.get(names[0], PAINTING) == PAINTING else 0,
    )
    with _bar() as bar:
        line = bar.add_task("train", total=None)

        def show(progress: TrainProgress) -> None:
            seen = "" if progress.validation_miou is None else f", mIoU {progress.validation_miou:.3f}"
            said = f"train: loss {progress.loss:.3f}{seen}"
            bar.update(line, completed=progress.step, total=progress.steps, description=said)

        checkpoint = train_in_parallel(
            [paintings.load(name) for name in names],
            paintings.classes,
            start,
            settings,
            validation=_items(unseen, paintings.classes) if unseen and len(unseen.names) >= ENOUGH_PAINTINGS else (),
            progress=show,
        )
    metrics = _evaluate(checkpoint, unseen) if unseen else None
    if metrics:
        checkpoint = replace(checkpoint, card=replace(checkpoint.card, metrics=asdict(metrics)))
    folder.write(out, checkpoint)
    facts: dict[str, Any] = {
        "version": checkpoint.version,
        "seconds": checkpoint.card.seconds,
        "strategy": checkpoint.card.settings["strategy"],
        "paintings": len(names),
        "out": str(out),
    }
    if as_json:
        _print_json(facts | ({"metrics": asdict(metrics)} if metrics else {}))
        return
    beside = f" and {painted} scenes" if (painted := checkpoint.card.settings.get("scenes")) else ""
    learned = f"{len(names)} painting{'' if len(names) == 1 else 's'}{beside}, strategy {facts['strategy']}"
    console.print(f"{facts['version']} in {out}: {learned}, {facts['seconds']:.0f} s", soft_wrap=True)
    if metrics:
        console.print(score_table(metrics))


def evaluate(
    checkpoint: CheckpointName,
    data: Data,
    quality: QualityOption = "fast",
    domain: Domain = None,
    report: Annotated[
        Path | None, typer.Option(dir_okay=False, help="HTML file for scores and a contact sheet of the worst.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint on a data set."""
    from underpaint.checkpoints.lookup import find
    from underpaint_workers.contact_sheet import ContactSheet
    from underpaint_workers.report import write_report
    from underpaint_workers.score_table import score_table

    found = find(checkpoint, get_settings())
    paintings = _open(data, domain)
    sheet = ContactSheet(paintings.classes)
    names = iter(paintings.names)
    show: Seen = lambda item, predicted, own: sheet.add(next(names), item, predicted, own.miou)  # noqa: E731
    metrics = _evaluate(found, paintings, quality, show if report else None)
    if report:
        write_report(report, found.version, found.card, str(data), metrics, sheet)
        remarks.print(f"report in {report}", markup=False)
    if as_json:
        _print_json({"version": found.version, "quality": quality, **asdict(metrics)})
    else:
        console.print(score_table(metrics))


def predict(
    checkpoint: CheckpointName,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", exists=True, help="Images, or folders of them.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for class maps, overlays and confidences.")],
    quality: QualityOption = "fast",
) -> None:
    """Predict class maps of images."""
    from underpaint.checkpoints.lookup import find
    from underpaint.segmenter.segmenter import Segmenter
    from underpaint_workers.dataset import check_classes, read_image, write_classes
    from underpaint_workers.overlay import write_prediction

    settings = get_settings()
    segmenter = Segmenter(find(checkpoint, settings), settings.device)
    named = _name(images, out)
    check_classes(out, segmenter.classes)
    out.mkdir(parents=True, exist_ok=True)
    left_out = 0
    with _bar() as bar:
        for name, path in bar.track(named.items(), description="predict"):
            try:
                image = read_image(path, segmenter.card.channels, settings.max_image_pixels)
                class_map, confidence = segmenter.predict(image, quality)
            except (ValueError, OSError) as error:
                left_out += 1
                bar.console.print(f"left out: {path}: {str(error).removeprefix(f'{path}: ')}", markup=False)
                continue
            write_prediction(out, name, image, class_map, confidence, segmenter.classes)
    write_classes(out, segmenter.classes)
    console.print(f"{len(named) - left_out} of {len(named)} images predicted, in {out}", soft_wrap=True)
    if left_out:
        raise typer.Exit(1)


def _open(folder: Path, domain: str | None) -> Dataset:
    from underpaint_workers.dataset import Dataset, DatasetError

    data = Dataset.open(folder)
    if not data.names:
        raise DatasetError(f"{folder} has no paintings: add images/NAME.jpg and labels/NAME.png.")
    return data.of_domain(domain)


def _items(data: Dataset, classes: tuple[str, ...]) -> list[Item]:
    """All paintings of a data set, their maps in the ids of ``classes``; what those lack is unlabelled."""
    import numpy as np

    from underpaint.taxonomy import UNLABELLED, corresponding

    ids = np.full(256, UNLABELLED, np.uint8)
    for index, match in enumerate(corresponding(data.classes, classes)):
        if match is not None:
            ids[index] = match
    return [(image, ids[class_map]) for image, class_map in map(data.load, data.names)]


def _evaluate(checkpoint: Checkpoint, data: Dataset, quality: Quality = "fast", seen: Seen | None = None) -> Metrics:
    from underpaint.segmenter.segmenter import Segmenter
    from underpaint_workers.evaluation import evaluate

    segmenter = Segmenter(checkpoint, get_settings().device)
    with _bar() as bar:
        items = (data.load(name) for name in bar.track(data.names, description="evaluate"))
        return evaluate(segmenter, items, data.classes, quality=quality, seen=seen)


def _name(images: list[Path], out: Path) -> dict[str, Path]:
    """Image files by the name that their predictions get; those in folders are found at any depth."""
    from underpaint_workers.overlay import prediction_files
    from underpaint_workers.prelabel import find_images

    def named() -> Iterator[tuple[str, Path]]:
        for given in images:
            for path in find_images(given) if given.is_dir() else [given]:
                inner = path.relative_to(given) if given.is_dir() else Path(path.name)
                yield "__".join(inner.with_suffix("").parts), path

    found: dict[str, Path] = {}
    written: dict[Path, Path] = {}
    inputs = {path.resolve(): path for _, path in named()}
    for name, path in named():
        for file in prediction_files(out, name):
            if file.resolve() in inputs:
                raise ValueError(f"The predictions for {path} would overwrite {file}: name another folder by --out.")
            if written.setdefault(file, path) != path:
                raise ValueError(f"{written[file]} and {path} would both become {file}: rename one of them.")
        found[name] = path
    return found


def _bar() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=remarks)


def _print_json(values: dict[str, Any]) -> None:
    typer.echo(json.dumps(values, ensure_ascii=False))

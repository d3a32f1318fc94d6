"""How long to train when no painting can be spared for validation: k-fold cross-validation."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean

from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint_workers import training
from underpaint_workers.dataset import Item
from underpaint_workers.training import LOOKS, Progress, TrainSettings


def train_by_folds(
    items: Sequence[Item],
    classes: Sequence[str],
    parent: Checkpoint | None,
    settings: TrainSettings,
    *,
    validation: Sequence[Item] = (),
    snapshot: str = "",
    progress: Callable[[Progress], None] | None = None,
) -> Checkpoint:
    """``train`` on all `items`, for as long as did best when ``settings.folds`` parts of them were left out in turn.

    With `validation` paintings to stop by, or fewer than two folds, it is ``train`` and nothing more.
    Each of the runs has an equal part of ``settings.minutes``.

    Raises:
        ValueError: as ``train`` does.
    """
    folds = min(settings.folds, len(items))
    if validation or folds < 2:
        return training.train(
            items, classes, parent, settings, validation=validation, snapshot=snapshot, progress=progress
        )
    part = replace(settings, minutes=settings.minutes / (folds + 1), patience=LOOKS + 1)
    scores: dict[float, list[float]] = defaultdict(list)
    for fold in range(folds):
        left_out = items[fold::folds]
        others = [item for index, item in enumerate(items) if index % folds != fold]
        for share, miou in _curve(others, left_out, classes, parent, part, progress).items():
            scores[share].append(miou)
    # The longer of equals, for the final run has more to learn from than each fold's had.
    best = max(scores, key=lambda share: (mean(scores[share]), share), default=1.0)
    return training.train(items, classes, parent, replace(part, stop_after=best), snapshot=snapshot, progress=progress)


def _curve(
    items: Sequence[Item],
    left_out: Sequence[Item],
    classes: Sequence[str],
    parent: Checkpoint | None,
    settings: TrainSettings,
    progress: Callable[[Progress], None] | None,
) -> dict[float, float]:
    """mIoU (0–1) on the paintings left out, by the share (0–1) of the run at which it was looked at."""
    looks: list[float] = []

    def note(now: Progress) -> None:
        if now.looks > len(looks) and now.validation_miou is not None:
            looks.append(now.validation_miou)
        if progress:
            progress(now)

    training.train(items, classes, parent, settings, validation=left_out, progress=note)
    return {(index + 1) / LOOKS: miou for index, miou in enumerate(looks)}

"""How long to train when no painting can be spared for validation: k-fold cross-validation."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean

from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint_workers.dataset import Item
from underpaint_workers.training import LOOKS, Progress, TrainSettings, train


def train_by_folds(
    items: Sequence[Item],
    classes: Sequence[str],
    parent: Checkpoint | None,
    settings: TrainSettings,
    folds: int,
    *,
    snapshot: str = "",
    progress: Callable[[Progress], None] | None = None,
) -> Checkpoint:
    """``train`` on all `items`, for as long as did best when each fold of them was left out in turn.

    Each of the runs has an equal part of ``settings.minutes``. Fewer than two items can't be folded, only trained on.

    Raises:
        ValueError: as ``train`` does.
    """
    folds = min(folds, len(items))
    part = replace(settings, minutes=settings.minutes / (folds + 1), patience=LOOKS + 1)
    scores: dict[float, list[float]] = defaultdict(list)
    if folds > 1:
        for fold in range(folds):
            left_out = items[fold::folds]
            others = [item for index, item in enumerate(items) if index % folds != fold]
            for share, miou in _curve(others, left_out, classes, parent, part, progress).items():
                scores[share].append(miou)
    # The longer of equals, for the final run has more to learn from than each fold's had.
    best = max(scores, key=lambda share: (mean(scores[share]), share), default=1.0)
    return train(items, classes, parent, replace(part, stop_after=best), snapshot=snapshot, progress=progress)


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

    train(items, classes, parent, settings, validation=left_out, progress=note)
    return {(index + 1) / LOOKS: miou for index, miou in enumerate(looks)}

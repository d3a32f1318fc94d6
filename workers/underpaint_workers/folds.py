"""How long to train when no painting can be spared for validation: k-fold cross-validation."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean

from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.labelstudio.class_mapping import ClassMapping
from underpaint_workers import training
from underpaint_workers.dataset import Item
from underpaint_workers.resume import Keeper
from underpaint_workers.train_settings import TrainSettings
from underpaint_workers.training import LOOKS, Progress


def train_by_folds(
    items: Sequence[Item],
    classes: Sequence[str],
    parent: Checkpoint | None,
    settings: TrainSettings,
    *,
    mapping: ClassMapping | None = None,
    validation: Sequence[Item] = (),
    snapshot: str = "",
    progress: Callable[[Progress], None] | None = None,
    keeper: Keeper | None = None,
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
            items,
            classes,
            parent,
            settings,
            mapping=mapping,
            validation=validation,
            snapshot=snapshot,
            progress=progress,
            keeper=keeper,
        )
    part = replace(settings, minutes=settings.minutes / (folds + 1), patience=LOOKS + 1)
    scores: dict[float, list[float]] = defaultdict(list)
    for fold in range(folds):
        left_out = items[fold::folds]
        others = [item for index, item in enumerate(items) if index % folds != fold]
        kept = keeper and keeper.part(f"fold-{fold}")
        for look, miou in enumerate(_scores(others, left_out, classes, parent, part, mapping, progress, kept), 1):
            scores[look / LOOKS].append(miou)
    # The longer of equals, for the final run has more to learn from than each fold's had.
    best = max(scores, key=lambda share: (mean(scores[share]), share), default=1.0)
    final = replace(part, stop_after=best)
    return training.train(
        items, classes, parent, final, mapping=mapping, snapshot=snapshot, progress=progress, keeper=keeper
    )


def _scores(
    items: Sequence[Item],
    left_out: Sequence[Item],
    classes: Sequence[str],
    parent: Checkpoint | None,
    settings: TrainSettings,
    mapping: ClassMapping | None,
    progress: Callable[[Progress], None] | None,
    keeper: Keeper | None,
) -> tuple[float, ...]:
    """mIoU (0–1) on the paintings left out, at each look of the run."""
    scores: tuple[float, ...] = ()

    def note(now: Progress) -> None:
        nonlocal scores
        scores = now.scores
        if progress:
            progress(now)

    training.train(items, classes, parent, settings, mapping=mapping, validation=left_out, progress=note, keeper=keeper)
    return scores

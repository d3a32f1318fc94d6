"""A retrain's decisions and accidents, on a store and Redis that are real; what it learns from is painted here.

Where its labels come from is tested with a real Label Studio, end to end.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store, StoreError
from underpaint.labelstudio.client import LabelStudioError
from underpaint.project import key_of
from underpaint.settings import Settings
from underpaint.signals import Pending, Signals
from underpaint_workers import dataset, retraining, snapshot
from underpaint_workers.retraining import NothingToLearn, Retraining, WrongProject
from underpaint_workers.runs import Run
from underpaint_workers.snapshot import Painting, Snapshot

PROJECT = key_of({"id": 3, "created_at": "2026-11-22T10:45:27Z"})
CLASSES = ("sky", "water")
Make = Callable[..., Checkpoint]


@pytest.fixture
def retrain(settings: Settings, signals: Signals) -> Retraining:
    quick = settings.model_copy(update={"train_epochs": 1, "train_min_steps": 0, "image_size": 64, "base": "none"})
    return Retraining(PROJECT, quick, Store(settings.store), signals)


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``labels(training, validation)``: what the next snapshot holds; every painting is water all over."""

    def set_labels(training: int, validation: int) -> None:
        def take(_: Any, __: int, folder: Path, ___: Settings) -> Snapshot:
            image = np.full((64, 64, 3), 90, np.uint8)
            paintings = []
            for number in range(training + validation):
                dataset.write_item(folder, f"task-{number}", image, np.full((64, 64), 1, np.uint8))
                paintings.append(Painting(f"task-{number}", str(number), number >= training))
            dataset.write_classes(folder, CLASSES)
            return Snapshot(folder, CLASSES, tuple(paintings), ())

        monkeypatch.setattr(snapshot, "take", take)
        monkeypatch.setattr(Retraining, "_label_studio", lambda _: None)

    return set_labels


def promoted(retrain: Retraining, make_checkpoint: Make, winner: str) -> str:
    version = retrain.store.put(make_checkpoint(CLASSES, winner))
    retrain.store.promote(PROJECT, version, "test", "test", {})
    return version


def champion(retrain: Retraining) -> str:
    promotion = retrain.store.champion(PROJECT)
    assert promotion is not None
    return promotion.version


def test_a_better_challenger_is_promoted_with_its_metrics(
    retrain: Retraining, labels: Callable[..., None], make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = promoted(retrain, make_checkpoint, "sky")
    better = make_checkpoint(CLASSES, "water", image_size=96)
    monkeypatch.setattr(retraining, "train_by_folds", lambda *_, **__: better)
    labels(2, 6)
    record = retrain.run()
    assert (record["status"], record["stage"], record["champion"]) == ("finished", "promoted", old)
    assert (record["champion_miou"], record["challenger_miou"]) == (0.0, 1.0)
    assert champion(retrain) == record["version"]
    assert retrain.store.card(record["version"]).metrics["miou"] == 1.0


def test_a_worse_challenger_is_kept_and_refused(
    retrain: Retraining, labels: Callable[..., None], make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = promoted(retrain, make_checkpoint, "water")
    worse = make_checkpoint(CLASSES, "sky", image_size=96)
    monkeypatch.setattr(retraining, "train_by_folds", lambda *_, **__: worse)
    labels(2, 6)
    record = retrain.run()
    assert (record["status"], record["stage"]) == ("finished", "refused")
    assert champion(retrain) == old
    assert retrain.store.get(record["version"]).card.metrics["miou"] == 0.0


def test_a_rollback_during_training_is_what_the_challenger_is_held_against(
    retrain: Retraining, labels: Callable[..., None], make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(retrain, make_checkpoint, "sky")
    worse = make_checkpoint(CLASSES, "sky", image_size=96)
    back: list[str] = []

    def train_while_an_admin_acts(*_: Any, **__: Any) -> Checkpoint:
        back.append(promoted(retrain, make_checkpoint, "water"))
        return worse

    monkeypatch.setattr(retraining, "train_by_folds", train_while_an_admin_acts)
    labels(2, 6)
    assert retrain.run()["stage"] == "refused"
    assert champion(retrain) == back[0]


def test_a_real_training_ends_with_a_champion(retrain: Retraining, labels: Callable[..., None]) -> None:
    labels(2, 0)
    record = retrain.run()
    assert record["stage"] == "promoted"
    assert "untested" in record["reason"]
    assert retrain.store.get(champion(retrain)).card.classes == CLASSES


@pytest.fixture
def with_base(retrain: Retraining, tmp_path: Path, make_checkpoint: Make) -> Callable[..., Retraining]:
    """``with_base(classes, winner)``: the retrain of a project that a base of its own serves."""

    def with_base(classes: tuple[str, ...], winner: str) -> Retraining:
        version = Store(str(tmp_path / "elsewhere")).put(make_checkpoint(classes, winner))
        folder = tmp_path / "elsewhere" / "checkpoints" / version
        return replace(
            retrain, settings=retrain.settings.model_copy(update={"base": str(folder), "architecture": "FPN"})
        )

    return with_base


def base_version(retrain: Retraining) -> str:
    return Path(retrain.settings.base).name


def test_the_first_training_starts_from_the_base_which_is_then_in_the_store(
    with_base: Callable[..., Retraining], labels: Callable[..., None]
) -> None:
    retrain = with_base(CLASSES, "sky")
    labels(2, 0)
    assert retrain.run()["stage"] == "promoted"
    parent = retrain.store.get(champion(retrain)).card.parent
    assert parent == base_version(retrain)
    assert retrain.store.get(parent).card.classes == CLASSES


@pytest.mark.parametrize(("winner", "stage"), [("sky", "promoted"), ("water", "refused")])
def test_the_first_challenger_is_held_against_the_base(
    with_base: Callable[..., Retraining],
    labels: Callable[..., None],
    make_checkpoint: Make,
    monkeypatch: pytest.MonkeyPatch,
    winner: str,
    stage: str,
) -> None:
    retrain = with_base(CLASSES, winner)
    challenger = make_checkpoint(CLASSES, "water" if winner == "sky" else "sky", image_size=96)
    monkeypatch.setattr(retraining, "train_by_folds", lambda *_, **__: challenger)
    labels(2, 6)
    record = retrain.run()
    assert (record["stage"], record["champion"]) == (stage, base_version(retrain))
    assert sorted((record["champion_miou"], record["challenger_miou"])) == [0.0, 1.0]
    assert (retrain.store.champion(PROJECT) is None) == (stage == "refused")


@pytest.mark.parametrize(
    ("classes", "trained"), [(("boat", "person"), False), (("sky", "water"), True)], ids=["unnamed", "trained"]
)
def test_a_base_that_does_not_serve_the_project_has_no_part_in_it(
    with_base: Callable[..., Retraining],
    labels: Callable[..., None],
    make_checkpoint: Make,
    monkeypatch: pytest.MonkeyPatch,
    classes: tuple[str, ...],
    trained: bool,
) -> None:
    retrain = with_base(classes, classes[0])
    old = promoted(retrain, make_checkpoint, "water") if trained else None
    parents: list[Checkpoint] = []

    def keep_the_parent(*arguments: Any, **named: Any) -> Checkpoint:
        parents.extend(each for each in (*arguments, *named.values()) if isinstance(each, Checkpoint))
        return make_checkpoint(CLASSES, "water", image_size=96)

    monkeypatch.setattr(retraining, "train_by_folds", keep_the_parent)
    labels(2, 6)
    record = retrain.run()
    assert [parent.version for parent in parents] == ([old] if old else [])
    assert record["champion"] == old
    with pytest.raises(StoreError):
        retrain.store.card(base_version(retrain))


def test_without_labels_it_says_what_to_do_and_is_not_tried_again(
    retrain: Retraining, labels: Callable[..., None], signals: Signals
) -> None:
    signals.note(PROJECT, 7)
    labels(0, 0)
    with pytest.raises(NothingToLearn, match="submit"):
        retrain.run()
    assert signals.pending() == {}
    [record] = retrain.store.runs(PROJECT)
    assert record["status"] == "failed"
    assert "submit" in record["error"]


def test_labels_of_a_retrain_that_failed_wait_again(
    retrain: Retraining, labels: Callable[..., None], signals: Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: Any) -> Snapshot:
        raise LabelStudioError("Label Studio can't be reached")

    labels(1, 1)
    monkeypatch.setattr(snapshot, "take", down)
    signals.note(PROJECT, 7)
    signals.request(PROJECT)
    with pytest.raises(LabelStudioError):
        retrain.run()
    waiting = signals.pending()[PROJECT]
    assert (waiting.labels, waiting.requested) == (7, False)
    assert "can't be reached" in retrain.store.runs(PROJECT)[-1]["error"]


def test_redis_going_away_costs_no_training(
    retrain: Retraining,
    labels: Callable[..., None],
    make_checkpoint: Make,
    signals: Signals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(_: str) -> None:
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(signals, "announce", gone)
    monkeypatch.setattr(retraining, "train_by_folds", lambda *_, **__: make_checkpoint(CLASSES, "water"))
    labels(1, 0)
    assert retrain.run()["status"] == "finished"
    assert champion(retrain)


def test_a_killed_run_is_called_interrupted_by_the_next(retrain: Retraining, labels: Callable[..., None]) -> None:
    Run(retrain.store, PROJECT).__enter__()  # and nothing after it: the process is gone
    labels(0, 0)
    with pytest.raises(NothingToLearn):
        retrain.run()
    assert [record["status"] for record in retrain.store.runs(PROJECT)] == ["interrupted", "failed"]


def test_a_project_that_nobody_located_is_reported(retrain: Retraining) -> None:
    with pytest.raises(WrongProject, match="UNDERPAINT_LABEL_STUDIO_URL"):
        retrain.run()


@pytest.mark.parametrize(
    ("project", "champion_knows", "new"),
    [
        (("sky", "water"), ("water", "sky"), False),
        (("Sky", "Sea"), ("sky", "water"), False),
        (("sky", "boat"), ("sky", "water"), True),
        (("sky", "cloud"), ("sky",), True),  # a synonym, and still a class of its own
    ],
)
def test_which_classes_are_new(
    project: tuple[str, ...], champion_knows: tuple[str, ...], new: bool, make_checkpoint: Make
) -> None:
    assert retraining._has_new(project, make_checkpoint(champion_knows, champion_knows[0])) is new


def test_pending_is_what_a_retrain_takes(retrain: Retraining, labels: Callable[..., None], signals: Signals) -> None:
    signals.note(PROJECT, 3)
    labels(1, 0)
    retrain.run()
    assert signals.take(PROJECT) == Pending()

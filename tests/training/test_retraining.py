"""A retrain's decisions and accidents, on a store and Redis that are real; what it learns from is painted here.

Where its labels come from is tested with a real Label Studio, end to end.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from object_store import ObjectStore
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store, StoreError
from underpaint.labelstudio.class_mapping import ClassMapping
from underpaint.labelstudio.client import LabelStudio, LabelStudioError
from underpaint.labelstudio.label_config import Label, parse
from underpaint.labelstudio.label_space import LabelSpace
from underpaint.project import key_of
from underpaint.settings import Settings
from underpaint.signals import Pending, Signals
from underpaint_workers import dataset, retraining, snapshot
from underpaint_workers.connection import WrongProject
from underpaint_workers.lease import Cancelled
from underpaint_workers.manifest import Manifest
from underpaint_workers.retraining import NothingToLearn, Retraining
from underpaint_workers.runs import Run
from underpaint_workers.snapshot import Painting, Snapshot

PROJECT = key_of({"id": 3, "created_at": "2026-11-22T10:45:27Z"})
CLASSES = ("sky", "water")
CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    '<Label value="Heaven" predicted_values="sky"/><Label value="Boat"/></BrushLabels></View>'
)
Make = Callable[..., Checkpoint]


@pytest.fixture
def retrain(settings: Settings, signals: Signals) -> Retraining:
    quick = settings.model_copy(update={"train_epochs": 1, "train_min_steps": 0, "image_size": 64, "base": "none"})
    return Retraining(PROJECT, quick, Store(settings.store), signals)


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``labels(training, validation, config)``: what the next snapshot holds; all over, every painting is what comes
    second in the label config."""

    def set_labels(training: int, validation: int, config: Sequence[Label] = tuple(map(Label, CLASSES))) -> None:
        def take(_: Any, __: int, folder: Path, *___: Any) -> Snapshot:
            image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
            paintings = []
            for number in range(training + validation):
                dataset.write_item(folder, f"task-{number}", image, np.full((64, 64), 1, np.uint8))
                paintings.append(Painting(f"task-{number}", str(number), number >= training))
            dataset.write_classes(folder, [label.value for label in config])
            return Snapshot(folder, tuple(config), tuple(paintings), (), Manifest(rules=CLASSES))

        monkeypatch.setattr(snapshot, "take", take)
        monkeypatch.setattr(Retraining, "_label_studio", lambda _: LabelStudio("http://labels.example", ""))

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
    monkeypatch.setattr(retraining, "train_in_parallel", lambda *_, **__: better)
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
    monkeypatch.setattr(retraining, "train_in_parallel", lambda *_, **__: worse)
    labels(2, 6)
    record = retrain.run()
    assert (record["status"], record["stage"]) == ("finished", "refused")
    assert champion(retrain) == old
    assert retrain.store.get(record["version"]).card.metrics["miou"] == 0.0


@pytest.mark.parametrize("winner", ["sky", "water"])
def test_a_retrain_leaves_a_report_of_what_was_decided_and_why(
    retrain: Retraining,
    labels: Callable[..., None],
    make_checkpoint: Make,
    monkeypatch: pytest.MonkeyPatch,
    winner: str,
) -> None:
    old = promoted(retrain, make_checkpoint, "water" if winner == "sky" else "sky")
    challenger = make_checkpoint(CLASSES, winner, image_size=96)
    monkeypatch.setattr(retraining, "train_in_parallel", lambda *_, **__: challenger)
    labels(2, 6)
    record = retrain.run()
    assert record["report"] == f"runs/{record['id']}.html"
    page = retrain.store.read_file(PROJECT, record["report"])
    assert page is not None
    for part in (record["reason"], record["version"], old, record["snapshot"], "http://labels.example/projects/3/data"):
        assert part in page.decode()
    assert record["gain"] == (1.0 if winner == "water" else -1.0)
    assert list(record["interval"]) == [record["gain"]] * 2
    assert record["falls"] == ({} if winner == "water" else {"water": 1.0})
    assert record["seconds"] > 0
    [stored] = retrain.store.runs(PROJECT)
    assert stored == json.loads(json.dumps(record))


def test_labels_that_are_contradicted_are_listed_with_their_tasks(
    retrain: Retraining, labels: Callable[..., None], make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = promoted(retrain, make_checkpoint, "sky")
    shown: list[tuple[int, set[int]]] = []
    monkeypatch.setattr(retraining, "show_tab", lambda _, project, tasks: shown.append((project, set(tasks))))
    monkeypatch.setattr(
        retraining, "train_in_parallel", lambda *_, **__: make_checkpoint(CLASSES, "water", image_size=96)
    )
    labels(2, 1)
    record = retrain.run()
    # The old champion sees sky where the new one learned of water; what validates is judged by the new one.
    assert [(each["task"], each["label"], each["predicted"]) for each in record["contradicted"]] == [
        (0, "water", "sky"),
        (1, "water", "sky"),
    ]
    assert record["contradicted"][0]["link"] == "http://labels.example/projects/3/data?task=0"
    assert (shown, record["champion"]) == ([], old)
    tagging = retrain.settings.model_copy(update={"tag_contradicted_labels": True})
    retrain.store.promote(PROJECT, old, "test", "test", {})
    labels(2, 2)  # the same again would be no retrain
    assert "report_error" not in replace(retrain, settings=tagging).run()
    assert shown == [(3, {0, 1})]


def test_a_report_that_fails_costs_nothing_but_itself(
    retrain: Retraining, labels: Callable[..., None], make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: Any) -> None:
        raise LabelStudioError("Label Studio can't be reached")

    monkeypatch.setattr(retraining, "look_again", down)
    monkeypatch.setattr(retraining, "train_in_parallel", lambda *_, **__: make_checkpoint(CLASSES, "water"))
    labels(1, 0)
    record = retrain.run()
    assert (record["status"], record["stage"]) == ("finished", "promoted")
    assert record["report_error"] == "LabelStudioError: Label Studio can't be reached"
    assert "report" not in record
    assert champion(retrain) == record["version"]


def test_a_rollback_during_training_is_what_the_challenger_is_held_against(
    retrain: Retraining, labels: Callable[..., None], make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(retrain, make_checkpoint, "sky")
    worse = make_checkpoint(CLASSES, "sky", image_size=96)
    back: list[str] = []

    def train_while_an_admin_acts(*_: Any, **__: Any) -> Checkpoint:
        back.append(promoted(retrain, make_checkpoint, "water"))
        return worse

    monkeypatch.setattr(retraining, "train_in_parallel", train_while_an_admin_acts)
    labels(2, 6)
    assert retrain.run()["stage"] == "refused"
    assert champion(retrain) == back[0]


def test_a_real_training_ends_with_a_champion(retrain: Retraining, labels: Callable[..., None]) -> None:
    labels(2, 0)
    record = retrain.run()
    assert record["stage"] == "promoted"
    assert "untested" in record["reason"]
    assert b"<svg" in (retrain.store.read_file(PROJECT, record["report"]) or b"")
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
    monkeypatch.setattr(retraining, "train_in_parallel", lambda *_, **__: challenger)
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

    monkeypatch.setattr(retraining, "train_in_parallel", keep_the_parent)
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


def test_an_object_store_that_is_down_is_said_and_changes_nothing(
    retrain: Retraining,
    labels: Callable[..., None],
    make_checkpoint: Make,
    signals: Signals,
    object_store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It goes while the challenger is trained, and comes again."""
    retrain = replace(retrain, store=Store(f"{object_store.url}/down"))
    old = promoted(retrain, make_checkpoint, "sky")

    def train(*_: Any, **__: Any) -> Checkpoint:
        object_store.stop()
        return make_checkpoint(CLASSES, "water")

    monkeypatch.setattr(retraining, "train_in_parallel", train)
    labels(2, 0)
    signals.note(PROJECT, 7)
    try:
        with pytest.raises(StoreError, match=r"cannot be used .*bucket, endpoint and credentials"):
            retrain.run()
    finally:
        object_store.start()
    assert signals.pending()[PROJECT].labels == 7
    assert champion(retrain) == old
    monkeypatch.setattr(retraining, "train_in_parallel", lambda *_, **__: make_checkpoint(CLASSES, "water"))
    assert retrain.run()["stage"] == "promoted"
    assert [run["status"] for run in retrain.store.runs(PROJECT)] == ["interrupted", "finished"]


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
    monkeypatch.setattr(retraining, "train_in_parallel", lambda *_, **__: make_checkpoint(CLASSES, "water"))
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
    ("heaven", "miou", "reason"),
    [
        (Label("Heaven", ("sky",)), 1.0, "no gain"),
        (Label("Skies"), 1.0, "no gain"),
        (Label("Heaven"), 0.0, "cannot name Heaven"),
    ],
)
def test_a_renamed_label_is_held_against_the_class_that_it_is_said_to_be(
    retrain: Retraining,
    labels: Callable[..., None],
    make_checkpoint: Make,
    monkeypatch: pytest.MonkeyPatch,
    heaven: Label,
    miou: float,
    reason: str,
) -> None:
    promoted(retrain, make_checkpoint, "sky")
    trained: list[ClassMapping] = []

    def train(*_: Any, mapping: ClassMapping, **__: Any) -> Checkpoint:
        trained.append(mapping)
        return make_checkpoint(("Boat", heaven.value), heaven.value)

    monkeypatch.setattr(retraining, "train_in_parallel", train)
    labels(2, 6, [Label("Boat", ("water",)), heaven])
    record = retrain.run()
    assert trained == [ClassMapping.of([Label("Boat", ("water",)), heaven], CLASSES)]
    assert record["champion_miou"] == miou
    assert reason in record["reason"]
    assert record["new_labels"] == ([] if miou else ["Heaven"])
    assert record["unused_classes"] == ([] if miou else ["sky"])
    page = (retrain.store.read_file(PROJECT, record["report"]) or b"").decode()
    assert ("<td>Heaven" in page.partition("labels that it can&#x27;t name")[2][:40]) == (not miou)
    assert record["contradicted"] == []


def test_a_base_that_only_predicted_values_can_name_serves_and_is_the_parent(
    with_base: Callable[..., Retraining], labels: Callable[..., None]
) -> None:
    retrain = with_base(CLASSES, "sky")
    labels(2, 0, [Label("Heaven", ("sky",)), Label("Boat")])
    record = retrain.run()
    made = retrain.store.get(record["version"])
    assert (record["champion"], made.card.parent, made.card.classes) == (
        *[base_version(retrain)] * 2,
        ("Heaven", "Boat"),
    )
    assert record["new_labels"] == ["Boat"]
    assert not LabelSpace.match(parse(CONFIG), made.card.classes).unmatched_labels


def test_pending_is_what_a_retrain_takes(retrain: Retraining, labels: Callable[..., None], signals: Signals) -> None:
    signals.note(PROJECT, 3)
    labels(1, 0)
    retrain.run()
    assert signals.take(PROJECT) == Pending()


@pytest.fixture
def trained(make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each training, which takes no time and makes another checkpoint each time."""
    trainings: list[int] = []

    def train(*_: Any, **__: Any) -> Checkpoint:
        trainings.append(len(trainings))
        return make_checkpoint(CLASSES, "water", image_size=64 + 32 * len(trainings))

    monkeypatch.setattr(retraining, "train_in_parallel", train)
    return trainings


def test_the_same_labels_are_learned_once(
    retrain: Retraining, labels: Callable[..., None], trained: list[int], signals: Signals
) -> None:
    labels(2, 0)
    assert retrain.run()["stage"] == "promoted"
    signals.request(PROJECT)  # a person asking for it makes no difference
    record = retrain.run()
    assert (record["status"], record["stage"], len(trained)) == ("finished", "unchanged", 1)
    assert "nothing changed since the last retrain" in record["reason"]
    labels(3, 0)
    assert retrain.run()["stage"] == "promoted"
    assert len(trained) == 2


def test_the_same_labels_are_learned_again_in_another_way_or_from_another_champion(
    retrain: Retraining, labels: Callable[..., None], trained: list[int], make_checkpoint: Make
) -> None:
    labels(2, 0)
    retrain.run()
    longer = replace(retrain, settings=retrain.settings.model_copy(update={"train_epochs": 2}))
    longer.run()
    assert len(trained) == 2
    promoted(retrain, make_checkpoint, "sky")
    longer.run()
    assert len(trained) == 3
    longer.run()
    assert len(trained) == 3


def test_labels_are_learned_again_where_the_label_config_makes_something_else_of_them(
    retrain: Retraining, labels: Callable[..., None], trained: list[int], make_checkpoint: Make
) -> None:
    sky, water = map(Label, CLASSES)
    old = retrain.store.put(make_checkpoint((*CLASSES, "storm"), "water"))
    retrain.store.promote(PROJECT, old, "test", "test", {})
    for config, trainings in (
        ([sky, water], 1),
        ([water, sky], 1),
        ([replace(sky, predicted_values=("nebula",)), water], 1),
        ([replace(sky, predicted_values=("water",)), water], 1),  # which is a label's own
        ([replace(sky, predicted_values=("storm",)), water], 2),
        ([sky, water], 3),
    ):
        labels(2, 0, config)
        retrain.run()
        assert len(trained) == trainings, config
        made = champion(retrain)
        retrain.store.promote(PROJECT, old, "test", "so that it is about its classes", {})
    retrain.store.promote(PROJECT, made, "test", "whose classes are the labels", {})
    labels(2, 0, [replace(sky, predicted_values=("storm",)), water])
    assert retrain.run()["stage"] == "unchanged"


def test_what_was_promoted_and_rolled_back_is_not_made_again(
    retrain: Retraining, labels: Callable[..., None], trained: list[int], make_checkpoint: Make
) -> None:
    old = promoted(retrain, make_checkpoint, "sky")
    labels(2, 0)
    retrain.run()
    retrain.store.promote(PROJECT, old, "test", "rolled back", {})
    assert retrain.run()["stage"] == "unchanged"


def test_after_a_rollback_the_next_challenger_starts_from_what_serves_then(
    retrain: Retraining, labels: Callable[..., None], make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    parents: list[str] = []

    def train(_: Any, __: Any, parent: Checkpoint, *___: Any, **____: Any) -> Checkpoint:
        parents.append(parent.version)
        return make_checkpoint(CLASSES, "water", image_size=64 + 32 * len(parents))

    monkeypatch.setattr(retraining, "train_in_parallel", train)
    old = promoted(retrain, make_checkpoint, "sky")
    for number, goes_back in enumerate((False, True, False)):
        labels(2 + number, 0)
        made = retrain.run()["version"]
        if goes_back:
            retrain.store.promote(PROJECT, old, "test", "rolled back", {})
    first = retrain.store.promotions(PROJECT)[1].version
    assert parents == [old, first, old]
    assert champion(retrain) == made


def test_a_retrain_prunes_what_no_project_needs_any_more_and_a_store_that_refuses_costs_nothing(
    retrain: Retraining,
    labels: Callable[..., None],
    trained: list[int],
    make_checkpoint: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    retrain = replace(retrain, settings=retrain.settings.model_copy(update={"keep_checkpoints": 1}))
    old = promoted(retrain, make_checkpoint, "sky")
    labels(2, 0)
    retrain.run()
    for path in Path(retrain.store.url, "checkpoints").glob("*/*"):
        os.utime(path, (1e9, 1e9))

    def refuse(_: str) -> None:
        raise StoreError("the store is read-only")

    with monkeypatch.context() as patch:
        patch.setattr(retrain.store, "doom", refuse)
        assert retrain.run()["stage"] == "unchanged"
    assert "not pruned: the store is read-only" in caplog.text
    retrain.store.get(old)
    retrain.run()
    assert set(retrain.store.checkpoints()[old]) == {"pruned.json"}
    retrain.store.get(champion(retrain))


def test_a_cancelled_retrain_says_so_and_its_labels_ask_for_no_other(
    retrain: Retraining, labels: Callable[..., None], signals: Signals
) -> None:
    """The real training, which is told at its first step."""

    def cancelled() -> None:
        raise Cancelled("cancelled")

    signals.note(PROJECT, 7)
    labels(2, 0)
    with pytest.raises(Cancelled):
        replace(retrain, check=cancelled).run()
    [record] = retrain.store.runs(PROJECT)
    assert record["status"] == "cancelled"
    assert signals.pending() == {}
    assert Manifest.read(retrain.store, PROJECT).rules == CLASSES
    assert not Path(retrain.store.url, "projects", PROJECT, "training").exists()
    assert retrain.run()["stage"] == "promoted"  # asked for, it learns what it did not

"""A training that was cut off goes on from where its state was last kept, and comes to the same end."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from toy import CLASSES, painting
from underpaint.checkpoints.store import Store, StoreError
from underpaint.labelstudio.label_config import Label
from underpaint_workers import resume
from underpaint_workers.folds import train_by_folds
from underpaint_workers.resume import FOLDER, Keeper
from underpaint_workers.train_settings import TrainSettings
from underpaint_workers.training import Progress, train

PROJECT = "3.1795344327"
QUICK = TrainSettings(strategy="all", epochs=1, min_steps=5, image_size=64, batch_size=2, device="cpu", threads=1)


class Killed(BaseException):
    """Stands for the end of a process."""


PAINTINGS = [painting(seed) for seed in range(3)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def keeper(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Keeper]:
    """``keeper()``: as a new process has one; it keeps the state of every step."""
    monkeypatch.setattr(resume, "EVERY_SECONDS", 0)
    monkeypatch.setattr(resume, "SHARE", float("inf"))
    return lambda: Keeper.of(store, PROJECT, "abc", CLASSES, QUICK)


def kept(store: Store) -> list[str]:
    return sorted(path.name for path in Path(store.url, "projects", PROJECT, FOLDER).glob("*"))


def killed_after(steps: int, told: list[Progress]) -> Callable[[Progress], None]:
    def progress(now: Progress) -> None:
        told.append(now)
        if len(told) == steps:
            raise Killed

    return progress


def test_a_training_that_was_killed_twice_ends_with_equal_weights(keeper: Callable[[], Keeper]) -> None:
    validation = [painting(9)]
    whole = train(PAINTINGS, CLASSES, None, QUICK, validation=validation)
    told: list[Progress] = []
    for steps in (2, 4):
        with pytest.raises(Killed):
            train(
                PAINTINGS,
                CLASSES,
                None,
                QUICK,
                validation=validation,
                progress=killed_after(steps, told),
                keeper=keeper(),
            )
    made = train(PAINTINGS, CLASSES, None, QUICK, validation=validation, progress=told.append, keeper=keeper())
    assert [each.step for each in told] == [1, 2, 2, 3, 3, 4, 5]
    assert len(told[-1].scores) == 5
    assert made.weights == whole.weights
    assert made.card.settings == whole.card.settings


def test_one_beside_scenes_goes_on_as_well(keeper: Callable[[], Keeper]) -> None:
    paintings, settings = [painting(seed) for seed in range(3)], replace(QUICK, scenes=2)
    classes = ("sky", "water", "tree")
    whole = train(paintings, classes, None, settings)
    assert whole.card.settings["scenes"] == 2
    with pytest.raises(Killed):
        train(paintings, classes, None, settings, progress=killed_after(3, []), keeper=keeper())
    assert train(paintings, classes, None, settings, keeper=keeper()).weights == whole.weights


def test_the_time_before_counts(keeper: Callable[[], Keeper]) -> None:
    told: list[Progress] = []
    with pytest.raises(Killed):
        train(PAINTINGS, CLASSES, None, QUICK, progress=killed_after(2, told), keeper=keeper())
    train(PAINTINGS, CLASSES, None, QUICK, progress=told.append, keeper=keeper())
    assert told[2].seconds == told[1].seconds
    assert told[3].seconds > told[2].seconds


def test_one_that_had_ended_is_not_trained_again(keeper: Callable[[], Keeper]) -> None:
    made = train(PAINTINGS, CLASSES, None, QUICK, keeper=keeper())
    told: list[Progress] = []
    again = train(PAINTINGS, CLASSES, None, QUICK, progress=told.append, keeper=keeper())
    assert again.weights == made.weights
    assert [each.step for each in told] == [5]


def test_cross_validation_goes_on_in_the_fold_where_it_was_killed(
    keeper: Callable[[], Keeper], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(QUICK, folds=2, strategy="head")
    whole = train_by_folds(PAINTINGS, CLASSES, None, settings)
    told: list[Progress] = []
    with pytest.raises(Killed):
        train_by_folds(PAINTINGS, CLASSES, None, settings, progress=killed_after(8, told), keeper=keeper())
    assert len(kept(store)) == 2
    made = train_by_folds(PAINTINGS, CLASSES, None, settings, progress=told.append, keeper=keeper())
    assert [each.step for each in told[8:11]] == [5, 3, 4]
    assert made.weights == whole.weights
    assert made.card.settings == whole.card.settings


def test_trainings_are_told_apart_by_what_they_learn_and_how(store: Store) -> None:
    renamed = [Label(CLASSES[0]), Label(CLASSES[1], ("another",))]
    others: list[tuple[str, Sequence[Label | str], TrainSettings]] = [
        ("abc", CLASSES, QUICK),
        ("abd", CLASSES, QUICK),
        ("abc", CLASSES[::-1], QUICK),
        ("abc", renamed, QUICK),
        ("abc", CLASSES, replace(QUICK, lr=1e-4)),
    ]
    keys = {Keeper.of(store, PROJECT, *each)._key for each in others}
    assert len(keys) == len(others)
    elsewhere = Keeper.of(store, PROJECT, "abc", CLASSES, replace(QUICK, device="cuda", threads=8))
    assert elsewhere._key in keys


def test_keeping_costs_a_hundredth_of_the_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    written: list[float] = []

    def write(*_: object) -> None:
        nonlocal now
        now += 0.5
        written.append(now)

    class Nothing:
        def to_bytes(self) -> bytes:
            return b""

    monkeypatch.setattr(store, "write_file", write)
    keeper = Keeper(store, PROJECT, "key", clock=lambda: now)
    for _ in range(1000):
        now += 0.25
        keeper.keep(Nothing())  # type: ignore[arg-type]
    assert len(written) == 5
    assert written[0] == 5.5
    assert 0.5 * len(written) <= 0.011 * now


def test_a_state_that_is_no_state_is_removed_and_said(keeper: Callable[[], Keeper], store: Store) -> None:
    train(PAINTINGS, CLASSES, None, replace(QUICK, min_steps=1, strategy="head"), keeper=keeper())
    [name] = kept(store)
    store.write_file(PROJECT, f"{FOLDER}/{name}", b"no state")
    with pytest.raises(ValueError, match="was removed: train again"):
        train(PAINTINGS, CLASSES, None, QUICK, keeper=keeper())
    assert kept(store) == []


def test_a_store_that_is_full_for_a_while_costs_no_training(
    keeper: Callable[[], Keeper], store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise StoreError("No space left on device")

    monkeypatch.setattr(store, "write_file", full)
    made = train(PAINTINGS, CLASSES, None, replace(QUICK, min_steps=2, strategy="head"), keeper=keeper())
    assert made.card.settings["steps"] == 2
    assert "No space left" in caplog.text


def test_what_was_kept_is_forgotten_with_the_leavings_of_killed_writers(store: Store) -> None:
    Keeper.forget(store, PROJECT)
    store.write_file(PROJECT, f"{FOLDER}/other.pt", b"")
    Path(store.url, "projects", PROJECT, FOLDER, ".half-written").touch()
    Keeper.forget(store, PROJECT)
    assert not Path(store.url, "projects", PROJECT, FOLDER).exists()

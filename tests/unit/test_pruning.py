"""What is removed from a store and what stays, also when others promote or die meanwhile."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from underpaint.checkpoints import Card, Checkpoint, Store, StoreError
from underpaint.checkpoints.pruning import DAY, INTERRUPTED_SECONDS, prune

CARD = Card(
    architecture="FPN",
    encoder="tu-tf_efficientnet_lite0",
    classes=("sky", "sea"),
    image_size=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
CHECKPOINTS = [Checkpoint(replace(CARD, snapshot=str(number)), b"weights") for number in range(5)]
LATER = time.time() + 3 * DAY


def test_what_a_project_served_lately_stays_and_the_rest_goes_once_it_is_old(url: str) -> None:
    store = Store(url)
    first, second, third, fourth, refused = map(store.put, CHECKPOINTS)
    for version in (first, second, third, second, third):
        store.promote("1.100", version, "ada", "test", {})
    store.promote("2.200", fourth, "ada", "test", {})
    log = store.promotions("1.100")
    assert prune(store, 2, 1) == []
    assert prune(store, 0, 1, now=LATER) == []
    going = sorted((first, refused))
    assert prune(store, 2, 1, now=LATER, only_say=True) == going
    assert store.get(first) == CHECKPOINTS[0]
    assert prune(store, 2, 1, now=LATER) == going
    assert prune(store, 2, 1, now=LATER) == []
    assert [store.get(version) for version in (second, third, fourth)] == CHECKPOINTS[1:4]
    assert store.promotions("1.100") == log
    for version in going:
        assert set(store.checkpoints()[version]) == {"pruned.json"}
        with pytest.raises(StoreError, match=rf"{version} was pruned.*UNDERPAINT_KEEP_CHECKPOINTS.*backup"):
            store.promote("1.100", version, "ada", "test", {})


def test_one_that_was_pruned_can_be_put_again(url: str) -> None:
    store = Store(url)
    version = store.put(CHECKPOINTS[0])
    assert prune(store, 1, 1, now=LATER) == [version]
    store.put(CHECKPOINTS[0])
    store.promote("1.100", version, "ada", "test", {})
    assert store.get(version) == CHECKPOINTS[0]


def acting(store: Store, at: str, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another machine ``act`` once, right before ``store`` does ``at``."""
    method = getattr(store, at)

    def act_first(*arguments: object) -> object:
        monkeypatch.setattr(store, at, method)
        act()
        return method(*arguments)

    monkeypatch.setattr(store, at, act_first)


@pytest.mark.parametrize("at", ["doom", "spare", "prune"])
def test_what_another_machine_promotes_meanwhile_is_served_or_refused(
    tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = Store(str(tmp_path)), Store(str(tmp_path))
    version, champion = map(other.put, CHECKPOINTS[:2])
    other.promote("1.100", champion, "ada", "test", {})
    said: list[str] = []

    def promote() -> None:
        try:
            other.promote("1.100", version, "ada", "test", {})
        except StoreError as error:
            said.append(str(error))

    if at == "spare":  # the moment between the mark and the second look at the projects
        acting(store, "doom", lambda: acting(store, "projects", promote, monkeypatch), monkeypatch)
    else:
        acting(store, at, promote, monkeypatch)
    prune(store, 1, 1, now=LATER)
    promotion = other.champion("1.100")
    assert promotion is not None
    assert other.get(promotion.version).version == promotion.version
    if at == "doom":
        assert (promotion.version, said) == (version, [])
    else:
        assert promotion.version == champion
        assert ["is being pruned by another process" in each for each in said] == [True]
    assert len(other.promotions("1.100")) == 2 - len(said)


@pytest.mark.parametrize("at", ["doom", "prune", "_written"])
def test_who_is_killed_while_pruning_leaves_nothing_that_seems_whole_and_the_next_does_the_rest(
    tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    version, champion = map(store.put, CHECKPOINTS[:2])
    store.promote("1.100", champion, "ada", "test", {})

    def die() -> None:
        raise KeyboardInterrupt

    if at == "_written":  # the card is gone by then, the weights are not
        acting(store, "prune", lambda: acting(store, at, die, monkeypatch), monkeypatch)
    else:
        acting(store, at, die, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        prune(store, 1, 1, now=LATER)
    if at == "_written":
        with pytest.raises(StoreError, match="was pruned"):
            store.get(version)
        assert set(store.checkpoints()[version]) == {"model.safetensors", "pruned.json"}
    else:
        assert store.get(version) == CHECKPOINTS[0]
    assert prune(store, 1, 1, now=LATER) == [version]
    assert set(store.checkpoints()[version]) == {"pruned.json"}
    assert store.get(champion) == CHECKPOINTS[1]


def test_a_mark_that_a_killed_process_left_on_a_champion_goes(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    version = store.put(CHECKPOINTS[0])
    store.promote("1.100", version, "ada", "test", {})
    store.doom(version)
    prune(store, 1, 1)  # whoever put it there may be about to take it back
    with pytest.raises(StoreError, match="try again in an hour"):
        store.promote("2.200", version, "ada", "test", {})
    prune(store, 1, 1, now=time.time() + 2 * INTERRUPTED_SECONDS)
    assert store.promote("2.200", version, "ada", "test", {}).version == version


def test_what_killed_writers_left_goes_too(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    version = store.put(CHECKPOINTS[0])
    folder = tmp_path / "checkpoints" / version
    (folder / "card.json").unlink()
    (folder / ".model.safetensors.1234").touch()
    assert prune(store, 1, 1) == []
    assert prune(store, 1, 1, now=LATER) == [version]
    assert list(folder.iterdir()) == []

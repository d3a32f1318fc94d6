import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store, StoreError
from underpaint.serving.champions import UNTRAINED, Champions
from underpaint.settings import Settings
from underpaint.signals import Signals

Make = Callable[..., Checkpoint]
PROJECT = "3.1795344327"


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings.store)


@pytest.fixture
def champions(settings: Settings, store: Store, signals: Signals) -> Champions:
    return Champions(settings, store, signals)


@pytest.fixture
def running(champions: Champions) -> Iterator[Champions]:
    champions.start()
    yield champions
    champions.stop()


def test_a_project_without_champion_is_untrained(champions: Champions) -> None:
    assert champions.version(PROJECT) == UNTRAINED
    assert champions.serving(PROJECT) is None


def test_the_version_is_known_before_anything_is_loaded(
    champions: Champions, store: Store, make_checkpoint: Make
) -> None:
    version = store.put(make_checkpoint(("sky", "water"), "sky"))
    store.promote(PROJECT, version, "test", "first", {})
    assert champions.version(PROJECT) == version
    segmenter = champions.serving(PROJECT)
    assert segmenter is not None
    assert segmenter.version == version


def test_an_announced_promotion_is_served_within_a_second_or_so(
    running: Champions, store: Store, signals: Signals, make_checkpoint: Make
) -> None:
    first, second = (store.put(make_checkpoint(("sky", "water"), name)) for name in ("sky", "water"))
    store.promote(PROJECT, first, "test", "first", {})
    assert running.serving(PROJECT)
    store.promote(PROJECT, second, "test", "second", {})
    signals.announce(PROJECT)
    _wait_for(lambda: running.version(PROJECT) == second)
    segmenter = running.serving(PROJECT)
    assert segmenter is not None
    assert segmenter.version == second


def test_a_lost_message_is_made_up_for_by_the_poll(
    settings: Settings, store: Store, make_checkpoint: Make, signals: Signals
) -> None:
    lonely = Champions(settings.model_copy(update={"poll_seconds": 0.2}), store, Signals("redis://127.0.0.1:1", "q"))
    lonely.start()
    assert lonely.version(PROJECT) == UNTRAINED
    version = store.put(make_checkpoint(("sky", "water"), "sky"))
    store.promote(PROJECT, version, "test", "first", {})
    _wait_for(lambda: lonely.version(PROJECT) == version)
    lonely.stop()


def test_the_old_champion_serves_until_the_new_one_is_warm(
    champions: Champions, store: Store, make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (store.put(make_checkpoint(("sky", "water"), name)) for name in ("sky", "water"))
    store.promote(PROJECT, first, "test", "first", {})
    champions.serving(PROJECT)
    store.promote(PROJECT, second, "test", "second", {})
    loading, go_on = threading.Event(), threading.Event()
    read = store.get

    def slow_get(version: str) -> Checkpoint:
        loading.set()
        go_on.wait(10)
        return read(version)

    monkeypatch.setattr(store, "get", slow_get)
    swap = threading.Thread(target=champions.refresh, args=(PROJECT,))
    swap.start()
    loading.wait(10)
    during = champions.serving(PROJECT)
    assert during is not None
    assert champions.version(PROJECT) == during.version == first
    go_on.set()
    swap.join()
    assert champions.version(PROJECT) == second


def test_a_champion_that_does_not_load_leaves_the_old_one_serving(
    champions: Champions, store: Store, make_checkpoint: Make, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (store.put(make_checkpoint(("sky", "water"), name)) for name in ("sky", "water"))
    store.promote(PROJECT, first, "test", "first", {})
    champions.serving(PROJECT)
    store.promote(PROJECT, second, "test", "second", {})
    with Path(settings.store, "checkpoints", second, "model.safetensors").open("r+b") as file:
        file.write(b"torn")
    champions.refresh(PROJECT)
    assert champions.version(PROJECT) == first
    assert second in caplog.text
    cold = Champions(settings, store, Signals(settings.redis_url, settings.queue))
    with pytest.raises(StoreError, match="corrupt"):
        cold.serving(PROJECT)


def test_the_least_recently_used_champion_leaves_memory(
    settings: Settings, store: Store, signals: Signals, make_checkpoint: Make
) -> None:
    champions = Champions(settings.model_copy(update={"max_loaded": 2}), store, signals)
    versions = {}
    for project, name in [("1.1", "sky"), ("2.1", "water"), ("3.1", "tree")]:
        versions[project] = store.put(make_checkpoint(("sky", "water", "tree"), name))
        store.promote(project, versions[project], "test", "first", {})
    kept, left = champions.serving("1.1"), champions.serving("2.1")
    assert champions.serving("1.1") is kept
    champions.serving("3.1")  # 2.1 is the one that was used longest ago
    assert champions.versions() == versions
    assert champions.serving("1.1") is kept
    loaded_again = champions.serving("2.1")
    assert loaded_again is not None
    assert loaded_again is not left
    assert loaded_again.version == versions["2.1"]


def _wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)

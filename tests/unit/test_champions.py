import gc
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from heap import HOLE_MIB, hole, needs_glibc, resident_mib
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store, StoreError
from underpaint.labelstudio.label_config import LabelConfig, parse
from underpaint.segmenter.segmenter import Segmenter
from underpaint.serving.champions import UNTRAINED, Champions
from underpaint.settings import Settings
from underpaint.signals import Signals

Make = Callable[..., Checkpoint]
PROJECT = "3.1795344327"


def config(*labels: str) -> LabelConfig:
    tags = "".join(f'<Label value="{label}"/>' for label in labels)
    return parse(
        f'<View><Image name="image" value="$image"/><BrushLabels name="b" toName="image">{tags}</BrushLabels></View>'
    )


CONFIG = config("Sky", "Water")
UNNAMED = config("Signature", "Frame")


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings.store)


@pytest.fixture
def champions(settings: Settings, store: Store, signals: Signals) -> Champions:
    return Champions(settings.model_copy(update={"base": "none"}), store, signals)


@pytest.fixture
def base(tmp_path: Path, make_checkpoint: Make) -> Path:
    """The folder of a base that sees sky everywhere; its name is the version."""
    version = Store(str(tmp_path / "elsewhere")).put(make_checkpoint(("sky", "water"), "sky"))
    return tmp_path / "elsewhere" / "checkpoints" / version


@pytest.fixture
def with_base(settings: Settings, store: Store, signals: Signals, base: Path) -> Champions:
    return Champions(settings.model_copy(update={"base": str(base)}), store, signals)


@pytest.fixture
def running(champions: Champions) -> Iterator[Champions]:
    champions.start()
    yield champions
    champions.stop()


def test_a_project_without_champion_is_untrained(champions: Champions) -> None:
    assert champions.version(PROJECT, CONFIG) == UNTRAINED
    assert champions.serving(PROJECT, CONFIG) is None


def test_the_version_is_known_before_anything_is_loaded(
    champions: Champions, store: Store, make_checkpoint: Make
) -> None:
    version = store.put(make_checkpoint(("sky", "water"), "sky"))
    store.promote(PROJECT, version, "test", "first", {})
    assert champions.version(PROJECT, CONFIG) == version
    segmenter = champions.serving(PROJECT, CONFIG)
    assert segmenter is not None
    assert segmenter.version == version


def test_an_announced_promotion_is_served_within_a_second_or_so(
    running: Champions, store: Store, signals: Signals, make_checkpoint: Make
) -> None:
    first, second = (store.put(make_checkpoint(("sky", "water"), name)) for name in ("sky", "water"))
    store.promote(PROJECT, first, "test", "first", {})
    assert running.serving(PROJECT, CONFIG)
    store.promote(PROJECT, second, "test", "second", {})
    signals.announce(PROJECT)
    _wait_for(lambda: running.version(PROJECT, CONFIG) == second)
    segmenter = running.serving(PROJECT, CONFIG)
    assert segmenter is not None
    assert segmenter.version == second


def test_a_lost_message_is_made_up_for_by_the_poll(
    settings: Settings, store: Store, make_checkpoint: Make, signals: Signals
) -> None:
    alone = settings.model_copy(update={"poll_seconds": 0.2, "base": "none"})
    lonely = Champions(alone, store, Signals("redis://127.0.0.1:1", "q"))
    lonely.start()
    assert lonely.version(PROJECT, CONFIG) == UNTRAINED
    version = store.put(make_checkpoint(("sky", "water"), "sky"))
    store.promote(PROJECT, version, "test", "first", {})
    _wait_for(lambda: lonely.version(PROJECT, CONFIG) == version)
    lonely.stop()


@needs_glibc
def test_memory_goes_back_to_the_system_after_a_swap(settings: Settings, store: Store, make_checkpoint: Make) -> None:
    first, second = (store.put(make_checkpoint(("sky", "water"), name)) for name in ("sky", "water"))
    alone = settings.model_copy(update={"poll_seconds": 0.2})
    swapping = Champions(alone, store, Signals("redis://127.0.0.1:1", "q"))
    store.promote(PROJECT, first, "test", "first", {})
    swapping.serving(PROJECT, CONFIG)
    with hole() as full:
        swapping.start()
        store.promote(PROJECT, second, "test", "second", {})
        _wait_for(lambda: swapping.version(PROJECT, CONFIG) == second and resident_mib() < full - HOLE_MIB / 2)
    swapping.stop()


def test_the_old_champion_serves_until_the_new_one_is_warm(
    champions: Champions, store: Store, make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (store.put(make_checkpoint(("sky", "water"), name)) for name in ("sky", "water"))
    store.promote(PROJECT, first, "test", "first", {})
    champions.serving(PROJECT, CONFIG)
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
    during = champions.serving(PROJECT, CONFIG)
    assert during is not None
    assert champions.version(PROJECT, CONFIG) == during.version == first
    go_on.set()
    swap.join()
    assert champions.version(PROJECT, CONFIG) == second


def test_a_champion_that_does_not_load_leaves_the_old_one_serving(
    champions: Champions, store: Store, make_checkpoint: Make, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (store.put(make_checkpoint(("sky", "water"), name)) for name in ("sky", "water"))
    store.promote(PROJECT, first, "test", "first", {})
    champions.serving(PROJECT, CONFIG)
    store.promote(PROJECT, second, "test", "second", {})
    with Path(settings.store, "checkpoints", second, "model.safetensors").open("r+b") as file:
        file.write(b"torn")
    champions.refresh(PROJECT)
    assert champions.version(PROJECT, CONFIG) == first
    assert second in caplog.text
    cold = Champions(settings, store, Signals(settings.redis_url, settings.queue))
    with pytest.raises(StoreError, match="corrupt"):
        cold.serving(PROJECT, CONFIG)


def test_a_store_that_lost_its_promotions_takes_no_champion_from_service(
    champions: Champions, store: Store, make_checkpoint: Make, settings: Settings
) -> None:
    """As a bucket by another name or a share that isn't mounted would seem to."""
    version = store.put(make_checkpoint(("sky", "water"), "sky"))
    store.promote(PROJECT, version, "test", "first", {})
    serving = champions.serving(PROJECT, CONFIG)
    Path(settings.store).rename(f"{settings.store} elsewhere")
    with pytest.raises(StoreError, match=r"lost the project's promotions.*backup"):
        champions.refresh(PROJECT)
    assert champions.version(PROJECT, CONFIG) == version
    assert champions.serving(PROJECT, CONFIG) is serving is not None


def test_a_champion_that_fails_its_check_leaves_the_old_one_serving_and_says_so_once(
    champions: Champions, store: Store, make_checkpoint: Make, caplog: pytest.LogCaptureFixture
) -> None:
    good = make_checkpoint(("sky", "water"), "sky")
    first = store.put(good)
    store.promote(PROJECT, first, "test", "first", {})
    champions.serving(PROJECT, CONFIG)
    module = good.module()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(math.nan)  # as after a training that diverged
    second = store.put(Checkpoint.from_module(module, good.card))
    store.promote(PROJECT, second, "test", "second", {})
    for _ in range(3):
        champions.refresh(PROJECT)
    segmenter = champions.serving(PROJECT, CONFIG)
    assert segmenter is not None
    assert segmenter.version == champions.version(PROJECT, CONFIG) == first
    assert caplog.text.count(f"not {second}, but {first} goes on serving") == 1
    third = store.put(make_checkpoint(("sky", "water"), "water"))
    store.promote(PROJECT, third, "test", "third", {})
    champions.refresh(PROJECT)
    assert champions.version(PROJECT, CONFIG) == third


def test_what_can_not_be_used_is_not_loaded_again_and_what_can_not_be_read_is(
    champions: Champions, store: Store, make_checkpoint: Make, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (store.put(make_checkpoint(("sky", "water"), name)) for name in ("sky", "water"))
    store.promote(PROJECT, first, "test", "first", {})
    champions.serving(PROJECT, CONFIG)
    store.promote(PROJECT, second, "test", "second", {})
    weights = Path(settings.store, "checkpoints", second, "model.safetensors")
    kept = weights.read_bytes()
    weights.write_bytes(b"torn")
    champions.refresh(PROJECT)
    assert champions.version(PROJECT, CONFIG) == first
    weights.write_bytes(kept)  # restored from a backup
    tries: list[str] = []

    def check(segmenter: Segmenter) -> None:
        tries.append(segmenter.version)
        raise ValueError("no")

    monkeypatch.setattr(Segmenter, "check", check)
    for _ in range(3):
        champions.refresh(PROJECT)
    assert tries == [second]
    assert champions.version(PROJECT, CONFIG) == first


def test_a_new_champion_is_warm_at_every_shape_that_the_old_one_saw(
    champions: Champions, store: Store, make_checkpoint: Make
) -> None:
    first, second = (store.put(make_checkpoint(("sky", "water"), name)) for name in ("sky", "water"))
    store.promote(PROJECT, first, "test", "first", {})
    old = champions.serving(PROJECT, CONFIG)
    assert old is not None
    for shape in [(60, 90), (20, 90), (90, 20)]:
        old.predict(np.zeros((*shape, 3), np.uint8))
    store.promote(PROJECT, second, "test", "second", {})
    champions.refresh(PROJECT)
    new = champions.serving(PROJECT, CONFIG)
    assert new is not None
    assert new.version == second
    assert new.shapes >= old.shapes
    assert old.shapes >= {(64, 64), (32, 64), (64, 32)}


def test_the_old_champion_leaves_memory_when_the_last_request_lets_go_of_it(
    champions: Champions, store: Store, make_checkpoint: Make
) -> None:
    first, second = (store.put(make_checkpoint(("sky", "water"), name)) for name in ("sky", "water"))
    store.promote(PROJECT, first, "test", "first", {})
    held = champions.serving(PROJECT, CONFIG)
    assert held is not None
    old = weakref.ref(held)
    gc.disable()  # memory of a net must not wait for the collector
    try:
        store.promote(PROJECT, second, "test", "second", {})
        champions.refresh(PROJECT)
        assert champions.version(PROJECT, CONFIG) == second
        assert held.predict(np.zeros((60, 90, 3), np.uint8))[0].shape == (60, 90)
        del held
        assert old() is None
    finally:
        gc.enable()


def test_the_least_recently_used_champion_leaves_memory(
    settings: Settings, store: Store, signals: Signals, make_checkpoint: Make
) -> None:
    champions = Champions(settings.model_copy(update={"max_loaded": 2}), store, signals)
    versions = {}
    for project, name in [("1.1", "sky"), ("2.1", "water"), ("3.1", "tree")]:
        versions[project] = store.put(make_checkpoint(("sky", "water", "tree"), name))
        store.promote(project, versions[project], "test", "first", {})
    kept, left = champions.serving("1.1", CONFIG), champions.serving("2.1", CONFIG)
    assert champions.serving("1.1", CONFIG) is kept
    champions.serving("3.1", CONFIG)  # 2.1 is the one that was used longest ago
    assert champions.versions() == versions
    assert champions.serving("1.1", CONFIG) is kept
    loaded_again = champions.serving("2.1", CONFIG)
    assert loaded_again is not None
    assert loaded_again is not left
    assert loaded_again.version == versions["2.1"]


def test_the_base_serves_a_project_without_champion_at_once(with_base: Champions, base: Path, store: Store) -> None:
    assert with_base.version(PROJECT, CONFIG) == base.name
    assert with_base.versions() == {PROJECT: base.name}
    segmenter = with_base.serving(PROJECT, CONFIG)
    assert segmenter is not None
    assert segmenter.version == base.name
    assert with_base.serving("4.1", config("Clouds", "Signature")) is segmenter  # one label will do, and one net
    assert store.projects() == []


def test_setup_neither_loads_nor_waits_for_the_base(
    with_base: Champions, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, go_on = threading.Event(), threading.Event()

    def slow(*_: object, **__: object) -> None:
        loading.set()
        go_on.wait(10)
        raise ValueError("never mind")

    def predict() -> None:
        with pytest.raises(StoreError, match="never mind"):
            with_base.serving(PROJECT, CONFIG)

    monkeypatch.setattr("underpaint.serving.champions.Segmenter", slow)
    assert with_base.version(PROJECT, CONFIG) == base.name
    assert not loading.is_set()
    prediction = threading.Thread(target=predict)
    prediction.start()
    assert loading.wait(10)
    started = time.perf_counter()
    assert with_base.version(PROJECT, CONFIG) == base.name
    assert time.perf_counter() - started < 0.1
    go_on.set()
    prediction.join()


def test_the_base_leaves_labels_that_it_can_not_name_alone(with_base: Champions, base: Path) -> None:
    for labels, version in [(UNNAMED, UNTRAINED), (CONFIG, base.name), (UNNAMED, UNTRAINED)]:  # as they are edited
        assert with_base.version(PROJECT, labels) == version
        assert with_base.versions() == {PROJECT: version}
        assert (with_base.serving(PROJECT, labels) is None) == (version == UNTRAINED)


def test_the_first_champion_takes_over_from_the_base_beside_it(
    with_base: Champions, base: Path, store: Store, make_checkpoint: Make
) -> None:
    before = with_base.serving(PROJECT, CONFIG)
    version = store.put(make_checkpoint(("sky", "water"), "water"))
    store.promote(PROJECT, version, "test", "first", {})
    assert with_base.version(PROJECT, CONFIG) == base.name  # until it is loaded and warm
    with_base.refresh(PROJECT)
    after = with_base.serving(PROJECT, CONFIG)
    assert before is not None
    assert after is not None
    assert (before.version, after.version) == (base.name, version)
    assert with_base.version(PROJECT, UNNAMED) == version  # a champion serves whatever its project's labels


def test_a_first_champion_that_does_not_load_leaves_the_base_serving(
    with_base: Champions, base: Path, store: Store, settings: Settings, make_checkpoint: Make
) -> None:
    with_base.serving(PROJECT, CONFIG)
    version = store.put(make_checkpoint(("sky", "water"), "water"))
    store.promote(PROJECT, version, "test", "first", {})
    Path(settings.store, "checkpoints", version, "model.safetensors").write_bytes(b"torn")
    with_base.refresh(PROJECT)
    segmenter = with_base.serving(PROJECT, CONFIG)
    assert segmenter is not None
    assert segmenter.version == with_base.version(PROJECT, CONFIG) == base.name


def _wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)

"""The recipe of the base runs from paintings to a folder that is one, on few and tiny paintings."""

from collections.abc import Callable
from pathlib import Path

import pytest

from underpaint.checkpoints import Checkpoint
from underpaint.checkpoints.folder import read, write
from underpaint.taxonomy import LANDSCAPE
from underpaint_workers import make_base
from underpaint_workers.scenes import BASE_MANNERS, DEMO_MANNERS, MANNERS, write_dataset
from underpaint_workers.train_settings import TrainSettings

TINY = TrainSettings(strategy="head", epochs=1, min_steps=2, image_size=64, crop_size=64, device="cpu", threads=1)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(make_base, "SCENES", 2)
    monkeypatch.setattr(make_base, "SCENE_EPOCHS", 1)
    monkeypatch.setattr(make_base, "SCENE_SIZE", (64, 80))
    for seed, part in enumerate(("train", "val")):
        write_dataset(tmp_path / "monet" / part, 2, seed, (64, 64))
    return tmp_path


def test_it_ends_in_a_folder_that_is_a_base_and_replaces_the_last(
    data: Path, tmp_path: Path, make_checkpoint: Callable[..., Checkpoint]
) -> None:
    write(tmp_path / "base", make_checkpoint(("sky",), "sky"))
    made, metrics = make_base.make(data, tmp_path / "base", TINY)
    found = read(tmp_path / "base")
    assert found.version == made.version
    assert found.card.classes == LANDSCAPE
    assert found.card.parent is None
    assert found.card.metrics["miou"] == metrics.miou
    assert metrics.paintings == 2
    assert "public-domain" in found.card.licences
    assert len(found.weights) < 8e6


def test_the_classes_must_be_the_landscapes(data: Path, tmp_path: Path) -> None:
    (data / "monet" / "val" / "classes.json").write_text('{"classes": ["a", "b", "c", "d", "e", "f", "g", "h", "i"]}')
    with pytest.raises(ValueError, match="in this order"):
        make_base.make(data, tmp_path / "base", TINY)


def test_the_demo_paints_in_manners_that_the_base_never_saw() -> None:
    assert not set(BASE_MANNERS) & set(DEMO_MANNERS)
    assert set(BASE_MANNERS) | set(DEMO_MANNERS) == set(MANNERS)

"""The base segmenter as it is read: from the package, from a folder, or not at all."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from underpaint import base
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store, StoreError
from underpaint.segmenter.segmenter import Segmenter
from underpaint.taxonomy import LANDSCAPE

LARGEST = 12_000_000


@pytest.fixture
def folder(tmp_path: Path, make_checkpoint: Callable[..., Checkpoint]) -> Path:
    """A checkpoint's folder, as a store keeps it."""
    return tmp_path / "checkpoints" / Store(str(tmp_path)).put(make_checkpoint(("sky", "water"), "sky"))


@pytest.fixture
def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same folder in the place of the package's own."""
    monkeypatch.setattr(base, "FOLDER", folder)
    base.load.cache_clear()
    yield folder
    base.load.cache_clear()


def test_a_base_is_the_checkpoint_that_was_made_and_read_once(folder: Path) -> None:
    found = base.load(str(folder))
    assert found is not None
    assert found.version == folder.name
    assert base.load(str(folder)) is found


def test_the_package_ships_one(package: Path) -> None:
    found = base.load()
    assert found is not None
    assert found.version == package.name
    assert base.load("none") is None


@pytest.mark.parametrize("missing", ["card.json", "model.safetensors"])
def test_a_package_without_it_has_none_and_a_named_folder_must_have_all(package: Path, missing: str) -> None:
    (package / missing).unlink()
    assert base.load() is None
    with pytest.raises(StoreError, match=rf"{missing} is missing.*Set UNDERPAINT_BASE"):
        base.load(str(package))


def test_a_card_that_can_not_be_read_is_named_with_the_remedy(package: Path) -> None:
    (package / "card.json").write_text("{")
    with pytest.raises(StoreError, match=r"not JSON.*UNDERPAINT_BASE"):
        base.load()


def test_what_ships_is_small_names_the_landscape_and_says_what_it_is() -> None:
    shipped = base.load()
    if shipped is None:
        pytest.skip("this checkout has no base segmenter yet; `make base` makes it")
    assert len(shipped.weights) <= LARGEST
    assert shipped.card.classes == LANDSCAPE
    assert shipped.card.licences
    assert (base.FOLDER / "BASE.md").stat().st_size
    Segmenter(shipped, "cpu").warm()

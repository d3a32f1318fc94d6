from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from underpaint_workers.dataset import Dataset, DatasetError, write_classes, write_item

MONET = Path(__file__).resolve().parents[2] / "../shared/data/monet/val"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_item(tmp_path, "one", np.full((4, 6, 3), 7, np.uint8), np.full((4, 6), 1, np.uint8))
    write_classes(tmp_path, ["sky", "sea"])
    return tmp_path


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_what_is_written_comes_back(tmp_path_factory: pytest.TempPathFactory, seed: int, size: tuple[int, int]) -> None:
    folder = tmp_path_factory.mktemp("data") / "new" / "folder"
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (*size, 3), np.uint8)
    class_map = random.choice(np.array([0, 1, 2, 255], np.uint8), size)
    write_item(folder, "task-1-image", image, class_map)
    with pytest.raises(DatasetError, match=r"classes\.json is missing"):
        Dataset.open(folder)
    write_classes(folder, ("sky", "sea", "Bäume"))
    dataset = Dataset.open(folder)
    assert dataset.classes == ("sky", "sea", "Bäume")
    assert dataset.names == ("task-1-image",)
    loaded = dataset.load("task-1-image")
    np.testing.assert_array_equal(loaded[0], image)
    np.testing.assert_array_equal(loaded[1], class_map)


def test_the_paintings_that_come_with_the_project_can_be_read() -> None:
    if not MONET.exists():
        pytest.skip("no paintings: shared data is absent")
    dataset = Dataset.open(MONET)
    assert len(dataset.names) == 20
    image, class_map = dataset.load(dataset.names[0])
    assert image.shape == (256, 256, 3)
    assert class_map.shape == (256, 256)


def test_a_painting_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(DatasetError, match="has no painting 'two'"):
        Dataset.open(folder).load("two")


def test_an_empty_data_set_is_no_error(tmp_path: Path) -> None:
    write_classes(tmp_path / "new", ["sky"])
    assert Dataset.open(tmp_path / "new").names == ()


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"classes": "sky"}', '{"classes": []}', '{"classes": [1]}'])
def test_classes_must_be_named(folder: Path, text: str | None) -> None:
    path = folder / "classes.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(DatasetError, match=r"classes\.json.*write \{"):
        Dataset.open(folder)


@pytest.mark.parametrize(("gone", "message"), [("images", "has labels/one but no images"), ("labels", "no labels/one")])
def test_images_and_maps_come_in_pairs(folder: Path, gone: str, message: str) -> None:
    (folder / gone / "one.png").unlink()
    with pytest.raises(DatasetError, match=message):
        Dataset.open(folder)


def test_a_map_of_another_size_is_refused(folder: Path) -> None:
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(folder / "labels" / "one.png")
    with pytest.raises(DatasetError, match=r"one\.png is 5×4 but its image is 6×4"):
        Dataset.open(folder).load("one")


def test_ids_that_are_no_class_are_refused(folder: Path) -> None:
    Image.fromarray(np.full((4, 6), 2, np.uint8)).save(folder / "labels" / "one.png")
    with pytest.raises(DatasetError, match=r"has the id 2, but 2 classes have the ids 0–1"):
        Dataset.open(folder).load("one")


def test_a_coloured_map_is_refused(folder: Path) -> None:
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(folder / "labels" / "one.png")
    with pytest.raises(DatasetError, match="has mode RGB: save it with 8 bits"):
        Dataset.open(folder).load("one")


def test_a_palette_map_is_read_by_its_ids(folder: Path) -> None:
    image = Image.fromarray(np.full((4, 6), 1, np.uint8), mode="P")
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.save(folder / "labels" / "one.png")
    assert (Dataset.open(folder).load("one")[1] == 1).all()


def test_what_cannot_be_a_pair_is_not_written(folder: Path) -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(ValueError, match="6×5"):
        write_item(folder, "two", image, np.zeros((5, 6), np.uint8))
    with pytest.raises(ValueError, match="cannot name a painting"):
        write_item(folder, "../two", image, np.zeros((4, 6), np.uint8))
    assert Dataset.open(folder).names == ("one",)

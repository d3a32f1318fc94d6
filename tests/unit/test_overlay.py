from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from underpaint.taxonomy import LANDSCAPE, colour_for
from underpaint_workers.dataset import Dataset, write_classes, write_item
from underpaint_workers.overlay import as_rgb, indexed, overlay, palette, prediction_files, write_prediction

CLASSES = ("sky", "water", "bicycle")


@pytest.fixture
def painting() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)


@pytest.fixture
def class_map() -> NDArray[np.uint8]:
    """Sky above water, and unlabelled pixels on the right."""
    class_map = np.zeros((24, 36), np.uint8)
    class_map[12:] = 1
    class_map[:, 30:] = 255
    return class_map


def test_a_palette_has_the_taxonomys_colours() -> None:
    colours = palette(LANDSCAPE)
    assert [tuple(colour) for colour in colours[: len(LANDSCAPE)]] == [colour_for(name) for name in LANDSCAPE]
    assert (tuple(colours[len(LANDSCAPE)]), tuple(colours[255])) == ((0, 0, 0), (255, 255, 255))


def test_a_palette_takes_as_many_classes_as_there_are() -> None:
    names = [f"class {index}" for index in range(255)]
    assert tuple(palette(names)[254]) == colour_for("class 254")


def test_ids_of_a_written_map_are_read_as_they_were(tmp_path: Path, class_map: NDArray[np.uint8]) -> None:
    indexed(class_map, CLASSES).save(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as file:
        assert file.mode == "P"
        assert np.array_equal(np.array(file), class_map)
        assert file.convert("RGB").getpixel((0, 0)) == colour_for("sky")


def test_every_id_survives_the_palette() -> None:
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(np.array(indexed(ids, CLASSES)), ids)


def test_an_overlay_mixes_painting_and_colour(painting: NDArray[np.uint8], class_map: NDArray[np.uint8]) -> None:
    shown = overlay(painting, class_map, CLASSES, opacity=0.25)
    wanted = 0.75 * painting[4, 4] + 0.25 * np.array(colour_for("sky"))
    assert np.abs(shown[4, 4] - wanted).max() <= 1
    assert tuple(shown[11, 4]) == colour_for("sky")  # the outline
    assert tuple(shown[12, 4]) == colour_for("water")
    assert np.array_equal(shown[:, 30:], painting[:, 30:])


def test_a_prediction_becomes_a_data_sets_label_map(
    tmp_path: Path, painting: NDArray[np.uint8], class_map: NDArray[np.uint8]
) -> None:
    confidence = np.linspace(0, 255, class_map.size).astype(np.uint8).reshape(class_map.shape)
    write_prediction(tmp_path, "a.b", painting, class_map, confidence, CLASSES)
    map_file, overlay_file, confidence_file = prediction_files(tmp_path, "a.b")
    assert {path.name for path in tmp_path.iterdir()} == {map_file.name, overlay_file.name, confidence_file.name}
    with Image.open(overlay_file) as file:
        assert (file.mode, file.size) == ("RGB", (36, 24))
    with Image.open(confidence_file) as file:
        assert file.mode == "L"
        assert np.array_equal(np.array(file), confidence)
    write_item(tmp_path / "data", "a.b", painting, np.zeros_like(class_map))
    write_classes(tmp_path / "data", CLASSES)
    map_file.replace(tmp_path / "data" / "labels" / "a.b.png")
    assert np.array_equal(Dataset.open(tmp_path / "data").load("a.b")[1], class_map)


@given(st.sampled_from([np.uint8, np.uint16, np.float32]), st.sampled_from([1, 2, 3, 4]))
def test_any_raster_can_be_shown(kind: type[np.generic], channels: int) -> None:
    ramp = np.linspace(10, 200, 32 * 32).reshape(32, 32)
    raster = np.repeat(ramp[:, :, None], channels, axis=2).astype(kind)
    shown = as_rgb(raster)
    assert shown.shape == (32, 32, 3)
    assert shown.dtype == np.uint8
    assert (np.diff(shown[:, :, 0].ravel().astype(int)) >= 0).all()
    if (channels, kind) != (3, np.uint8):
        assert (shown.min(), shown.max()) == (0, 255)


def test_pixels_without_a_height_are_black() -> None:
    raster = np.linspace(-5, 5, 100, dtype=np.float32).reshape(10, 10, 1)
    raster[0, 0], raster[0, 1] = np.nan, np.inf
    shown = as_rgb(raster)
    assert not shown[0, :2].any()
    assert shown[-1, -1].min() == 255
    assert not as_rgb(np.full((4, 4, 1), np.nan, np.float32)).any()
    assert not as_rgb(np.ones((4, 4, 1), np.float32)).any()

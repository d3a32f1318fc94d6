from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from conftest import DATA
from underpaint.labelstudio.decoding import ImageError
from underpaint_workers.dataset import Dataset, DatasetError, check_classes, read_image, write_classes, write_item

MONET = DATA / "monet" / "val"


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


def raster_set(folder: Path, name: str, image: np.ndarray[Any, Any], classes: str) -> Dataset:
    """A data set of one raster, written as OpenCV writes it, which takes blue, green and red."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    (folder / "classes.json").write_text(classes)
    plain = [cv2.IMWRITE_TIFF_COMPRESSION, 1]  # the default for colours of float32 loses some of their precision
    assert cv2.imwrite(str(folder / "images" / name), image[..., ::-1] if image.shape[-1] == 3 else image, plain)
    Image.fromarray(np.zeros(image.shape[:2], np.uint8)).save(folder / "labels" / f"{Path(name).stem}.png")
    return Dataset.open(folder)


@pytest.mark.parametrize(
    ("suffix", "dtype", "channels"),
    [
        ("png", np.uint8, 1),
        ("png", np.uint8, 4),
        ("png", np.uint16, 1),
        ("png", np.uint16, 3),
        ("tif", np.uint8, 1),
        ("tif", np.uint8, 3),
        ("tif", np.uint16, 3),
        ("tiff", np.float32, 1),
        ("tif", np.float32, 3),
        ("tif", np.float32, 4),
    ],
)
def test_rasters_are_read_as_they_are(tmp_path: Path, suffix: str, dtype: type[np.generic], channels: int) -> None:
    image = np.random.default_rng(0).uniform(0, 250, (4, 6, channels)).astype(dtype)
    if dtype == np.uint16:
        image *= 256
    written = image[..., [2, 1, 0, 3]] if channels == 4 else image
    dataset = raster_set(tmp_path, f"one.{suffix}", written, f'{{"classes": ["sky"], "channels": {channels}}}')
    assert dataset.channels == channels
    loaded, _ = dataset.load("one")
    assert loaded.dtype == dtype
    np.testing.assert_array_equal(loaded, image)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float64])
def test_heights_of_other_types_become_float32(tmp_path: Path, dtype: type[np.generic]) -> None:
    heights = np.array([[-3, 0], [1200, 8848]]).astype(dtype)
    loaded, _ = raster_set(tmp_path, "one.tif", heights, '{"classes": ["sky"], "channels": 1}').load("one")
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded[..., 0], heights)


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        (np.full((4, 6), 9, np.uint8), 9),
        (np.full((4, 6, 4), (0, 0, 0, 255), np.uint8), 0),
        (np.zeros((4, 6, 4), np.uint8), 255),
        (np.zeros((4, 6, 4), np.uint16), 255),
    ],
    ids=["grey", "opaque", "transparent", "transparent, 16 bits"],
)
def test_pictures_are_rgb_on_white_unless_the_data_set_says_otherwise(
    tmp_path: Path, image: NDArray[Any], shown: int
) -> None:
    dataset = raster_set(tmp_path, "one.png", image, '{"classes": ["sky"]}')
    assert dataset.channels == 3
    np.testing.assert_array_equal(dataset.load("one")[0], np.full((4, 6, 3), shown, np.uint8))


@pytest.mark.parametrize(("mode", "channels", "has"), [("RGB", 3, 3), ("RGB", 1, 3), ("L", 1, 1), ("L", 3, 3)])
def test_a_picture_is_upright_and_keeps_what_can_be_made_into_the_channels_wanted(
    tmp_path: Path, mode: str, channels: int, has: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # what is left in the file is up on the screen
    image = Image.new(mode, (40, 30), "black")
    image.paste("white", (0, 0, 20, 30))
    image.save(tmp_path / "one.jpg", exif=exif)
    read = read_image(tmp_path / "one.jpg", channels)
    assert read.shape == (40, 30, has)
    assert read.dtype == np.uint8
    assert read[:15].min() > 200
    assert read[25:].max() < 50


def test_grey_of_16_bits_keeps_them_for_whoever_sees_three_channels(tmp_path: Path) -> None:
    grey = np.full((4, 6), 40000, np.uint16)
    cv2.imwrite(str(tmp_path / "one.png"), grey)
    np.testing.assert_array_equal(read_image(tmp_path / "one.png"), grey[..., None])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_more_pixels_than_allowed_are_refused(tmp_path: Path, dtype: type[np.generic]) -> None:
    cv2.imwrite(str(tmp_path / "one.tif"), np.zeros((4, 6, 3), dtype))
    assert read_image(tmp_path / "one.tif", 3, 24).dtype == dtype
    with pytest.raises(ImageError, match=r"one\.tif: 6×4 is more than 23 pixels; shrink it"):
        read_image(tmp_path / "one.tif", 3, 23)


def test_other_channels_than_the_data_set_says_are_refused(tmp_path: Path) -> None:
    dataset = raster_set(tmp_path, "one.png", np.zeros((4, 6), np.uint16), '{"classes": ["sky"]}')
    with pytest.raises(DatasetError, match=r'one\.png has 1 channels, and the data set 3: .*"channels": 1'):
        dataset.load("one")


@pytest.mark.parametrize("channels", ["0", "-1", "2", "5", "1.5", '"3"', "true", "null"])
def test_channels_are_a_number_that_can_be_read(folder: Path, channels: str) -> None:
    (folder / "classes.json").write_text(f'{{"classes": ["sky", "sea"], "channels": {channels}}}')
    with pytest.raises(DatasetError, match=r"classes\.json says .* channels: write how many .* 1, 3 and 4"):
        Dataset.open(folder)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("content", [b"", b"no image"])
def test_a_broken_image_is_named(folder: Path, content: bytes, suffix: str, channels: int) -> None:
    (folder / "images" / "one.png").unlink()
    (folder / "images" / f"one.{suffix}").write_bytes(content)
    (folder / "classes.json").write_text(f'{{"classes": ["sky", "sea"], "channels": {channels}}}')
    with pytest.raises(DatasetError, match=rf"one\.{suffix}: not an image .* or remove it and its label map"):
        Dataset.open(folder).load("one")


@pytest.mark.parametrize("said", ['{"classes": ["sea", "sky"]}', '{"classes": ["sky", "sea"], "channels": 1}', "{"])
def test_other_classes_are_not_overwritten(folder: Path, said: str) -> None:
    check_classes(folder / "new", ["sky"])
    check_classes(folder, ["sky", "sea"])
    (folder / "classes.json").write_text(said)
    with pytest.raises(DatasetError, match=r"classes\.json says something else .* name another folder"):
        check_classes(folder, ["sky", "sea"])


def test_domains_are_optional(folder: Path) -> None:
    assert Dataset.open(folder).domains == {}
    (folder / "domains.json").write_text('{"one": "illustration"}')
    assert Dataset.open(folder).domains == {"one": "illustration"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is no object of words"),
        ('{"one": 1}', "is no object of words"),
        ('{"two": "photo"}', "names 'two', which is no painting"),
    ],
)
def test_bad_domains_are_refused(folder: Path, text: str, message: str) -> None:
    (folder / "domains.json").write_text(text)
    with pytest.raises(DatasetError, match=rf"domains\.json {message}.*remove it"):
        Dataset.open(folder)


def test_what_cannot_be_a_pair_is_not_written(folder: Path) -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(ValueError, match="6×5"):
        write_item(folder, "two", image, np.zeros((5, 6), np.uint8))
    with pytest.raises(ValueError, match="only RGB paintings of uint8"):
        write_item(folder, "two", image.astype(np.float32), np.zeros((4, 6), np.uint8))
    with pytest.raises(ValueError, match="cannot name a painting"):
        write_item(folder, "../two", image, np.zeros((4, 6), np.uint8))
    assert Dataset.open(folder).names == ("one",)


def test_domains_never_mix_unless_one_is_chosen(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_item(tmp_path, name, np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8))
    write_classes(tmp_path, ["sky"])
    assert Dataset.open(tmp_path).of_domain(None).names == ("a", "b", "c")
    (tmp_path / "domains.json").write_text('{"a": "photo", "b": "painting"}')
    data = Dataset.open(tmp_path)
    with pytest.raises(DatasetError, match=r"mixes the domains painting, photo.*--domain"):
        data.of_domain(None)
    with pytest.raises(DatasetError, match="no 'illustration', only painting, photo"):
        data.of_domain("illustration")
    assert data.of_domain("painting").names == ("b", "c")
    assert data.of_domain("photo").names == ("a",)

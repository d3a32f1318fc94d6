"""``underpaint train``, ``evaluate`` and ``predict`` on real folders, with neither Redis nor Label Studio."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from underpaint.checkpoints import Card, Checkpoint, Store
from underpaint.checkpoints import folder as checkpoint_folder
from underpaint.checkpoints.folder import FolderError
from underpaint.checkpoints.lookup import find
from underpaint.cli import main
from underpaint.segmenter.architecture import Architecture, build
from underpaint.segmenter.channels import Image as Raster
from underpaint.segmenter.channels import statistics
from underpaint.segmenter.segmenter import Segmenter
from underpaint.settings import get_settings
from underpaint_workers import train_settings, training
from underpaint_workers.dataset import Dataset, Item, write_classes, write_item
from underpaint_workers.train_settings import TrainSettings

CLASSES = ("sky", "water")
SCENES = 4
# softmax((3, 0)) is what the net is sure of everywhere, and the refinement raises it to the power of 1.2.
SURE = float(1 / (1 + np.exp(-1.2 * 3)))
ENDINGS = (".png", ".overlay.jpg", ".confidence.png")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No Redis, no base, an empty store, small nets, short trainings and few scenes."""
    for name, value in {
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "UNDERPAINT_STORE": str(tmp_path / "store"),
        "UNDERPAINT_BASE": "none",
        "UNDERPAINT_DEVICE": "cpu",
        "UNDERPAINT_IMAGE_SIZE": "64",
        "UNDERPAINT_TRAIN_EPOCHS": "1",
        "UNDERPAINT_TRAIN_MIN_STEPS": "2",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(train_settings, "SCENES", SCENES)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.fixture
def underpaint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``underpaint(*arguments)``: the command's exit status, what it answered, and what it remarked."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["underpaint", *map(str, arguments)])
        get_settings.cache_clear()
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three paintings: one half sky and half water, one all sky, one all water."""
    folder, random = tmp_path / "data", np.random.default_rng(0)
    for name, width in (("both", 24), ("sky", 48), ("water", 0)):
        labels = np.ones((40, 48), np.uint8)
        labels[:, :width] = 0
        write_item(folder, name, random.integers(0, 256, (40, 48, 3), np.uint8), labels)
    write_classes(folder, CLASSES)
    return folder


@pytest.fixture(scope="module")
def sky(make_checkpoint: Callable[..., Checkpoint]) -> Checkpoint:
    """Sees sky everywhere."""
    return make_checkpoint(CLASSES, "sky")


@pytest.fixture
def checkpoint(tmp_path: Path, sky: Checkpoint) -> Path:
    checkpoint_folder.write(tmp_path / "checkpoint", sky)
    return tmp_path / "checkpoint"


def test_evaluate_prints_one_json_object(underpaint: Command, data: Path, checkpoint: Path, sky: Checkpoint) -> None:
    status, answer, _ = underpaint("evaluate", checkpoint, "--data", data, "--json")
    scores = json.loads(answer)
    assert status == 0
    assert (scores["version"], scores["paintings"], scores["quality"]) == (sky.version, 3, "fast")
    assert scores["accuracy"] == pytest.approx(0.5)
    assert scores["per_class"] == {"sky": pytest.approx(0.5), "water": 0.0}
    assert scores["boundary_f1"] == 0.0
    assert scores["calibration_error"] == pytest.approx(SURE - 0.5, abs=0.5 / 255)


def test_evaluate_shows_a_table_and_writes_a_report(
    underpaint: Command, data: Path, checkpoint: Path, sky: Checkpoint, tmp_path: Path
) -> None:
    status, answer, _ = underpaint("evaluate", checkpoint, "--data", data, "--report", tmp_path / "new" / "report.html")
    assert status == 0
    for part in (
        "water",
        "mIoU",
        "0.250",
        "pixel accuracy",
        "0.500",
        "boundary F1",
        "calibration error",
        f"{SURE - 0.5:.3f}",
    ):
        assert part in answer
    report = (tmp_path / "new" / "report.html").read_text()
    assert sky.version in report
    places = [report.index(f"<h3>{name} ·") for name in ("water", "both", "sky")]
    assert places == sorted(places)


def test_predict_writes_maps_overlays_and_confidences(
    underpaint: Command, data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    inner = tmp_path / "crawl" / "monet"
    inner.mkdir(parents=True)
    Image.new("RGB", (70, 50), (10, 200, 90)).save(inner / "Étretat 1.jpeg")
    single = data / "images" / "both.png"
    status, answer, _ = underpaint("predict", checkpoint, tmp_path / "crawl", single, "--out", tmp_path / "out")
    assert status == 0
    assert answer.startswith("2 of 2 images")
    names = {f"{name}{ending}" for name in ("monet__Étretat 1", "both") for ending in ENDINGS}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, "classes.json"}
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == {"classes": list(CLASSES)}
    with Image.open(tmp_path / "out" / "monet__Étretat 1.png") as file:
        assert (file.mode, file.size) == ("P", (70, 50))
        assert not np.array(file).any()
    with Image.open(tmp_path / "out" / "both.confidence.png") as file:
        assert set(np.unique(np.array(file))) == {round(255 * SURE)}


def test_predict_names_what_it_left_out(underpaint: Command, data: Path, checkpoint: Path, tmp_path: Path) -> None:
    (data / "images" / "torn.jpg").write_bytes((data / "images" / "sky.png").read_bytes()[:60])
    status, answer, remarks = underpaint("predict", checkpoint, data / "images", "--out", tmp_path / "out")
    assert status == 1
    assert "3 of 4 images" in answer
    assert "torn.jpg" in next(line for line in remarks.splitlines() if "left out" in line)
    assert not (tmp_path / "out" / "torn.png").exists()


def test_predict_overwrites_neither_images_nor_other_predictions(
    underpaint: Command, data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    images = data / "images"
    before = (images / "sky.png").read_bytes()
    assert_one_line(underpaint("predict", checkpoint, images, "--out", images), "overwrite", "--out")
    assert (images / "sky.png").read_bytes() == before
    (tmp_path / "other").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "other" / "sky.jpg")
    arguments = (images / "sky.png", tmp_path / "other" / "sky.jpg", "--out", tmp_path / "out")
    assert_one_line(underpaint("predict", checkpoint, *arguments), "both become", "rename")
    assert not (tmp_path / "out").exists()


def test_predict_reads_rasters_as_they_are(underpaint: Command, tmp_path: Path) -> None:
    module = build(Architecture(encoder="resnet18", classes=CLASSES, channels=1))
    card = Card(
        architecture="FPN", encoder="resnet18", classes=CLASSES, image_size=64, channels=1, mean=(900.0,), std=(300.0,)
    )
    made = Checkpoint.from_module(module, card)
    checkpoint_folder.write(tmp_path / "checkpoint", made)
    heights = np.random.default_rng(0).normal(900, 300, (40, 60)).astype(np.float32)
    Image.fromarray(heights).save(tmp_path / "terrain.tif")
    status, _, remarks = underpaint(
        "predict", tmp_path / "checkpoint", tmp_path / "terrain.tif", "--out", tmp_path / "out"
    )
    assert status == 0, remarks
    with Image.open(tmp_path / "out" / "terrain.png") as file:
        assert np.array_equal(np.array(file), Segmenter(made).predict(heights)[0])
    with Image.open(tmp_path / "out" / "terrain.overlay.jpg") as file:
        assert file.size == (60, 40)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_predict_keeps_the_values_of_rgb_beyond_8_bits(
    underpaint: Command, tmp_path: Path, dtype: type[np.generic]
) -> None:
    image = np.random.default_rng(0).uniform(300, 900, (40, 60, 3)).astype(dtype)
    made = untrained(3, image)
    checkpoint_folder.write(tmp_path / "checkpoint", made)
    plain = [cv2.IMWRITE_TIFF_COMPRESSION, 1]  # OpenCV's own choice for float32 loses
    cv2.imwrite(str(tmp_path / "one.tif"), np.asarray(image)[..., ::-1], plain)
    status, _, remarks = underpaint("predict", tmp_path / "checkpoint", tmp_path / "one.tif", "--out", tmp_path / "out")
    assert status == 0, remarks
    assert_predicted(tmp_path / "out", made, image)


def test_predict_makes_one_channel_of_a_colour_picture(underpaint: Command, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    made = untrained(1, image)
    checkpoint_folder.write(tmp_path / "checkpoint", made)
    Image.fromarray(image).save(tmp_path / "one.jpg")
    status, _, remarks = underpaint("predict", tmp_path / "checkpoint", tmp_path / "one.jpg", "--out", tmp_path / "out")
    assert status == 0, remarks
    with Image.open(tmp_path / "one.jpg") as file:
        luma = np.asarray(cv2.cvtColor(np.array(file), cv2.COLOR_RGB2GRAY), np.uint8)
    assert_predicted(tmp_path / "out", made, luma)


def test_predict_leaves_out_what_is_too_large_or_has_other_channels(
    underpaint: Command, data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERPAINT_MAX_IMAGE_PIXELS", "2000")
    cv2.imwrite(str(data / "images" / "large.tif"), np.zeros((50, 41, 3), np.uint16))
    cv2.imwrite(str(data / "images" / "four.tif"), np.zeros((40, 48, 4), np.float32))
    status, answer, remarks = underpaint("predict", checkpoint, data / "images", "--out", tmp_path / "out")
    assert status == 1
    assert "3 of 5 images" in answer
    large, four = (next(line for line in remarks.splitlines() if line.count(name) == 1) for name in ("large", "four"))
    assert "2,000 pixels" in large
    assert "4 channels" in four


def test_predict_overwrites_no_other_classes(underpaint: Command, data: Path, checkpoint: Path, tmp_path: Path) -> None:
    write_classes(data, ("sea", "land"))
    before = (data / "classes.json").read_bytes()
    assert_one_line(underpaint("predict", checkpoint, data / "images", "--out", data), "classes.json", "another folder")
    assert (data / "classes.json").read_bytes() == before
    assert not (data / "sky.png").exists()
    for _ in range(2):  # its own are no others
        assert underpaint("predict", checkpoint, data / "images", "--out", tmp_path / "out")[0] == 0


@pytest.mark.parametrize("given", ["checkpoint", "a version", "base"])
def test_a_checkpoint_is_a_folder_a_version_or_the_base(
    given: str, checkpoint: Path, sky: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = {"checkpoint": str(checkpoint), "a version": sky.version, "base": "base"}[given]
    if given == "a version":
        Store(get_settings().store).put(sky)
    if given == "base":
        monkeypatch.setenv("UNDERPAINT_BASE", str(checkpoint))
        get_settings.cache_clear()
    found = find(name, get_settings())
    assert (found.version, found.card) == (sky.version, sky.card)


def test_what_is_no_checkpoint_is_one_line(
    underpaint: Command, data: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERPAINT_BASE", "none")
    get_settings.cache_clear()

    def evaluate(name: str | Path) -> tuple[int, str, str]:
        return underpaint("evaluate", name, "--data", data)

    assert_one_line(evaluate("0123456789ab"), "0123456789ab", "UNDERPAINT_STORE", "`base`")
    assert_one_line(evaluate("base"), "no base")
    assert_one_line(evaluate(data), "card.json", "underpaint train --out")
    (checkpoint / "model.safetensors").write_bytes(b"torn")
    assert_one_line(evaluate(checkpoint), "do not fit")
    (checkpoint / "model.safetensors").unlink()
    assert_one_line(evaluate(checkpoint), "model.safetensors is missing")
    (checkpoint / "card.json").write_text("{")
    assert_one_line(evaluate(checkpoint), "card.json", "not JSON")


def test_photographs_are_not_mixed_with_paintings(underpaint: Command, data: Path, tmp_path: Path) -> None:
    (data / "domains.json").write_text('{"sky": "photo"}')
    assert_one_line(underpaint("train", "--data", data, "--out", tmp_path / "out"), "photo", "--domain")


def test_a_domain_is_chosen_for_validation_and_evaluation_too(
    underpaint: Command, data: Path, checkpoint: Path, sky: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "domains.json").write_text('{"sky": "photo"}')
    assert_one_line(underpaint("evaluate", checkpoint, "--data", data), "photo", "--domain")
    status, answer, _ = underpaint("evaluate", checkpoint, "--data", data, "--domain", "photo", "--json")
    assert (status, json.loads(answer)["paintings"], json.loads(answer)["accuracy"]) == (0, 1, 1.0)
    note_trainings(monkeypatch, sky)
    arguments = ("train", "--data", data, "--val", data, "--domain", "painting", "--out", tmp_path / "out", "--json")
    status, answer, _ = underpaint(*arguments)
    assert (status, json.loads(answer)["paintings"], json.loads(answer)["metrics"]["paintings"]) == (0, 2, 2)


def test_what_is_no_data_set_is_one_line(underpaint: Command, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_one_line(underpaint("evaluate", checkpoint, "--data", tmp_path / "empty"), "classes.json")
    write_classes(tmp_path / "empty", CLASSES)
    assert_one_line(underpaint("train", "--data", tmp_path / "empty", "--out", tmp_path / "out"), "no paintings")
    (data / "labels" / "sky.png").unlink()
    assert_one_line(underpaint("evaluate", checkpoint, "--data", data), "images/sky", "labels/sky")


def test_a_checkpoint_folder_is_written_once_and_whole(tmp_path: Path, sky: Checkpoint) -> None:
    folder = tmp_path / "a" / "b"
    checkpoint_folder.write(folder, sky)
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "model.safetensors"]
    assert checkpoint_folder.read(folder) == sky
    with pytest.raises(FolderError, match="new folder"):
        checkpoint_folder.write(folder, sky)


def test_a_checkpoint_without_its_card_is_none_yet(tmp_path: Path, sky: Checkpoint) -> None:
    (tmp_path / "card.json").mkdir()  # so that the card can't be put there
    with pytest.raises((OSError, FolderError)):
        checkpoint_folder.write(tmp_path, sky)
    (tmp_path / "card.json").rmdir()
    with pytest.raises(FolderError, match=r"card\.json"):
        checkpoint_folder.read(tmp_path)


def test_train_paints_scenes_beside_paintings_of_landscapes(
    underpaint: Command, data: Path, sky: Checkpoint, tmp_path: Path
) -> None:
    def scenes(name: str, *arguments: str | Path) -> int:
        out = tmp_path / name
        status, _, remarks = underpaint(
            "train", "--data", data, "--arch", "FPN", "--strategy", "head", "--out", out, *arguments
        )
        assert status == 0, remarks
        return int(checkpoint_folder.read(out).card.settings["scenes"])

    assert scenes("default", "--parent", "imagenet") == SCENES
    assert scenes("others", "--parent", "imagenet", "--scenes", "3") == 3
    assert scenes("none", "--parent", "imagenet", "--scenes", "0") == 0
    checkpoint_folder.write(tmp_path / "parent", sky)
    assert scenes("learned", "--parent", tmp_path / "parent") == 0
    (data / "domains.json").write_text(json.dumps(dict.fromkeys(("both", "sky", "water"), "photograph")))
    assert scenes("photographs", "--parent", "imagenet", "--scenes", "3") == 0
    (data / "domains.json").unlink()
    write_classes(data, ("wall", "window"))
    assert scenes("houses", "--parent", "imagenet") == 0


def test_train_writes_a_scored_checkpoint(underpaint: Command, data: Path, tmp_path: Path) -> None:
    arguments = ("train", "--data", data, "--val", data, "--parent", "imagenet", "--strategy", "final")
    out = tmp_path / "out"
    status, answer, remarks = underpaint(*arguments, "--limit", "2", "--seed", "1", "--out", out, "--json")
    assert status == 0, remarks
    facts = json.loads(answer)
    assert set(facts) == {"version", "seconds", "strategy", "metrics", "paintings", "out"}
    assert (facts["strategy"], facts["paintings"], facts["out"]) == ("final", 2, str(out))
    made = checkpoint_folder.read(out)
    assert made.version == facts["version"]
    assert made.card.metrics == facts["metrics"]
    assert facts["metrics"]["paintings"] == 3
    assert (made.card.classes, made.card.parent, made.card.settings["seed"]) == (CLASSES, None, 1)
    _, scores, _ = underpaint("evaluate", out, "--data", data, "--json")
    assert json.loads(scores)["miou"] == facts["metrics"]["miou"]
    assert_one_line(underpaint(*arguments, "--out", out), "new folder")


def test_train_goes_on_from_a_parent(underpaint: Command, data: Path, checkpoint: Path, tmp_path: Path) -> None:
    status, answer, remarks = underpaint("train", "--data", data, "--parent", checkpoint, "--out", tmp_path / "out")
    assert status == 0, remarks
    made = checkpoint_folder.read(tmp_path / "out")
    assert made.version in answer
    assert "3 paintings" in answer
    assert made.card.parent == checkpoint_folder.read(checkpoint).version
    assert made.card.metrics == {}


def test_the_base_is_the_parent_unless_told_otherwise(
    underpaint: Command, data: Path, checkpoint: Path, sky: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []

    def train(
        items: object, classes: object, parent: Checkpoint | None, settings: TrainSettings, **_: object
    ) -> Checkpoint:
        starts.append((parent and parent.version, settings.architecture))
        return replace(sky, card=replace(sky.card, settings={"strategy": "all"}))

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setenv("UNDERPAINT_BASE", str(checkpoint))
    monkeypatch.setenv("UNDERPAINT_ARCHITECTURE", sky.card.architecture)
    for number, options in enumerate(
        [(), ("--parent", "base"), ("--parent", "imagenet"), ("--arch", "Unet"), ("--parent", "base", "--arch", "FPN")]
    ):
        status, _, remarks = underpaint("train", "--data", data, "--out", tmp_path / str(number), *options)
        assert status == 0, remarks
    assert starts == [(sky.version, "FPN"), (sky.version, "FPN"), (None, "FPN"), (None, "Unet"), (sky.version, "FPN")]


def test_a_parent_gives_its_options_and_its_case(underpaint: Command, data: Path, tmp_path: Path) -> None:
    train = ("train", "--data", data, "--out")
    parent, child = tmp_path / "parent", tmp_path / "child"
    assert underpaint(*train, parent, "--parent", "imagenet", "--strategy", "final")[0] == 0
    status, _, remarks = underpaint(*train, child, "--parent", parent, "--arch", "hYPERCOLUMN")
    assert status == 0, remarks
    made, began = checkpoint_folder.read(child), checkpoint_folder.read(parent)
    assert made.card.parent == began.version
    assert (made.card.architecture, made.card.options) == ("Hypercolumn", {"decoder_channels": 0})


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 1), (np.uint16, 1), (np.uint16, 3), (np.float32, 3)])
def test_only_8_bit_rgb_starts_from_the_base_unasked(
    underpaint: Command,
    checkpoint: Path,
    sky: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: type[np.generic],
    channels: int,
) -> None:
    monkeypatch.setenv("UNDERPAINT_BASE", str(checkpoint))
    monkeypatch.setenv("UNDERPAINT_ARCHITECTURE", sky.card.architecture)
    trainings = note_trainings(monkeypatch, sky)
    data = tmp_path / "rasters"
    for folder in ("images", "labels"):
        (data / folder).mkdir(parents=True)
    cv2.imwrite(str(data / "images" / "one.tif"), np.ones((40, 48, channels), dtype))
    Image.new("L", (48, 40)).save(data / "labels" / "one.png")
    (data / "classes.json").write_text(json.dumps({"classes": CLASSES, "channels": channels}))
    status, _, remarks = underpaint("train", "--data", data, "--out", tmp_path / "new")
    assert status == 0, remarks
    assert [parent for parent, _, _ in trainings] == [None]
    ended = underpaint("train", "--data", data, "--parent", "base", "--out", tmp_path / "newer")
    if channels == 3:
        assert ended[0] == 0
        assert trainings[-1][0] == sky
    else:
        assert_one_line(ended, "base sees 3 channels", "images have 1", "--parent imagenet")


def test_final_from_imagenet_has_no_other_architecture(underpaint: Command, data: Path, tmp_path: Path) -> None:
    arguments = ("train", "--data", data, "--out", tmp_path / "out", "--strategy", "final", "--arch")
    assert_one_line(underpaint(*arguments, "Unet"), "--strategy final", "Unet", "leave out --arch")
    status, _, remarks = underpaint(*arguments, "hypercolumn")
    assert status == 0, remarks


@pytest.mark.parametrize("count", [4, 5])
def test_few_validation_paintings_only_score(
    underpaint: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sky: Checkpoint, count: int
) -> None:
    for index in range(count):
        write_item(tmp_path / "val", str(index), np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8))
    write_classes(tmp_path / "val", CLASSES)
    trainings = note_trainings(monkeypatch, sky)
    arguments = ("train", "--data", data, "--val", tmp_path / "val", "--out", tmp_path / "out", "--json")
    status, answer, remarks = underpaint(*arguments)
    assert status == 0, remarks
    assert len(trainings[0][2]) == (5 if count == 5 else 0)
    assert json.loads(answer)["metrics"]["paintings"] == count


def test_paintings_are_drawn_by_the_seed(
    underpaint: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sky: Checkpoint
) -> None:
    drawn = []

    def train(items: Iterable[Item], *_: object, **__: object) -> Checkpoint:
        by_share_of_water = {0.0: "sky", 0.5: "both", 1.0: "water"}
        drawn.append([by_share_of_water[float(labels.mean())] for _, labels in items])
        return replace(sky, card=replace(sky.card, settings={"strategy": "all"}))

    monkeypatch.setattr(training, "train", train)
    names = Dataset.open(data).names
    for number, options in enumerate([("--limit", "2", "--seed", "5"), ("--limit", "9"), ()]):
        assert underpaint("train", "--data", data, "--out", tmp_path / str(number), *options)[0] == 0
    assert drawn == [
        [names[index] for index in np.random.default_rng(5).permutation(3)[:2]],
        [names[index] for index in np.random.default_rng(0).permutation(3)],
        list(names),
    ]


def test_validation_paintings_are_told_in_the_classes_that_are_learned(
    underpaint: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sky: Checkpoint
) -> None:
    labels = np.array([[0, 1, 2, 255]], np.uint8)
    for name in "abcde":
        write_item(tmp_path / "val", name, np.zeros((1, 4, 3), np.uint8), labels)
    write_classes(tmp_path / "val", ("River", "bicycle", "sky"))
    given: list[Item] = []

    def train(*_: object, validation: Sequence[Item], **__: object) -> Checkpoint:
        given.extend(validation)
        return replace(sky, card=replace(sky.card, settings={"strategy": "all"}))

    monkeypatch.setattr(training, "train", train)
    status, answer, _ = underpaint(
        "train", "--data", data, "--val", tmp_path / "val", "--out", tmp_path / "out", "--json"
    )
    assert status == 0
    assert [class_map.tolist() for _, class_map in given] == [[[1, 255, 0, 255]]] * 5
    assert json.loads(answer)["metrics"]["per_class"] == {"River": 0.0, "bicycle": 0.0, "sky": pytest.approx(1 / 3)}


def test_a_net_that_can_not_be_had_is_one_line(
    underpaint: Command, data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    def train(*options: str | Path) -> tuple[int, str, str]:
        return underpaint("train", "--data", data, "--out", tmp_path / "out", *options)

    assert_one_line(train("--parent", checkpoint, "--encoder", "resnet18"), "FPN", "resnet18", "--parent imagenet")
    assert_one_line(train("--arch", "Unicorn"), "Unicorn")
    assert_one_line(train("--encoder", "mit_b0"), "mit_b0", "UNDERPAINT_ALLOW_NONCOMMERCIAL")
    assert not (tmp_path / "out").exists()


def test_the_command_line_starts_without_torch() -> None:
    code = "import underpaint.cli, sys; assert not {'torch', 'cv2', 'numpy'} & sys.modules.keys(), 'slow'; print(1)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


def test_a_machine_without_the_workers_has_the_other_commands() -> None:
    code = (
        "import sys; sys.modules['underpaint_workers'] = None\n"
        "from underpaint.cli import app\n"
        "from typer.main import get_command\n"
        "print(*get_command(app).commands)"
    )
    commands = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "serve" in commands
    assert not {"train", "evaluate", "predict"} & set(commands)


def untrained(channels: int, image: Raster) -> Checkpoint:
    """A checkpoint with random weights, for images such as this one."""
    torch.manual_seed(0)
    module = build(Architecture(encoder="resnet18", classes=CLASSES, channels=channels))
    mean, std = statistics([image[..., :channels]])
    card = Card(
        architecture="FPN",
        encoder="resnet18",
        classes=CLASSES,
        image_size=64,
        channels=channels,
        mean=mean,
        std=std,
    )
    return Checkpoint.from_module(module, card)


def assert_predicted(out: Path, checkpoint: Checkpoint, image: Raster) -> None:
    class_map, confidence = Segmenter(checkpoint).predict(image)
    with Image.open(out / "one.png") as file:
        assert np.array_equal(np.array(file), class_map)
    with Image.open(out / "one.confidence.png") as file:
        assert np.array_equal(np.array(file), confidence)
    assert np.ptp(confidence) > 2, "it sees the same everywhere"


def note_trainings(
    monkeypatch: pytest.MonkeyPatch, made: Checkpoint
) -> list[tuple[Checkpoint | None, TrainSettings, Sequence[Item]]]:
    """Parent, settings and validation paintings of each training from now on, all of which make ``made``."""
    noted: list[tuple[Checkpoint | None, TrainSettings, Sequence[Item]]] = []

    def train(
        items: object,
        classes: object,
        parent: Checkpoint | None,
        settings: TrainSettings,
        *,
        validation: Sequence[Item],
        **_: object,
    ) -> Checkpoint:
        noted.append((parent, settings, validation))
        return replace(made, card=replace(made.card, settings={"strategy": "all"}))

    monkeypatch.setattr(training, "train", train)
    return noted


def assert_one_line(ended: tuple[int, str, str], *said: str) -> None:
    status, answer, remarks = ended
    assert (status, answer) == (1, "")
    error = remarks.strip().splitlines()[-1]
    assert error.startswith("error: "), remarks
    assert "Traceback" not in remarks
    for part in said:
        assert part in error

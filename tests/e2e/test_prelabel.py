"""``underpaint prelabel`` as an admin types it, carried out by a real worker: into Label Studio, and onto disk."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rq import Worker

from integration.processes import UNDERPAINT, eventually, running
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store
from underpaint.labelstudio.client import LabelStudio
from underpaint.labelstudio.images import decode
from underpaint.labelstudio.label_config import parse
from underpaint.labelstudio.regions import rasterise
from underpaint.project import key_of
from underpaint.settings import Settings
from underpaint.signals import Signals
from underpaint_workers.dataset import Dataset
from underpaint_workers.demo.label_studio import LabelStudioServer

pytestmark = pytest.mark.e2e

LABEL_CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image"><Label value="Water"/><Label value="Sky"/></BrushLabels>
</View>
"""
HEIGHT, WIDTH = 40, 60
UPRIGHT = {"dawn.png": (HEIGHT, WIDTH), "dusk.jpg": (HEIGHT, WIDTH), "turned.jpg": (WIDTH, HEIGHT)}
"""Images of `folder` that anything can be done with, by their plain names, with (H, W) as people see them."""

Underpaint = Callable[..., tuple[int, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A crawled folder: images at several depths, one of them on its side, and files that only look like images."""
    folder = tmp_path / "crawled"
    (folder / "monet").mkdir(parents=True)
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8))
    image.save(folder / "dawn.png")
    image.save(folder / "monet" / "dusk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "monet" / "turned.jpg", exif=exif)
    (folder / "cut off.png").write_bytes((folder / "dawn.png").read_bytes()[:1000])
    (folder / "error page.jpg").write_text("<html>404</html>")
    (folder / "about.txt").write_text("not named like an image, so not looked at")
    return folder


@pytest.fixture
def checkpoint(settings: Settings, make_checkpoint: Callable[..., Checkpoint]) -> str:
    """The version of a checkpoint, in the store, that sees sky everywhere."""
    return Store(settings.store).put(make_checkpoint(("sky", "water"), "sky"))


@pytest.fixture
def base(
    settings: Settings, make_checkpoint: Callable[..., Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The version of a base, in no store, that sees water everywhere; ask for it before `underpaint`."""
    version = Store(str(tmp_path / "elsewhere")).put(make_checkpoint(("sky", "water"), "water"))
    monkeypatch.setenv("UNDERPAINT_BASE", str(tmp_path / "elsewhere" / "checkpoints" / version))
    return version


@pytest.fixture
def underpaint(
    settings: Settings, signals: Signals, label_studio: LabelStudioServer, tmp_path: Path
) -> Iterator[Underpaint]:
    """``underpaint(*arguments)``: the command's exit status and its output as one line; a worker is there for it."""
    environment = os.environ | {
        "UNDERPAINT_LABEL_STUDIO_URL": label_studio.url,
        "UNDERPAINT_LABEL_STUDIO_TOKEN": label_studio.token,
    }

    def underpaint(*arguments: object) -> tuple[int, str]:
        done = subprocess.run(
            [*UNDERPAINT, *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        return done.returncode, " ".join(done.stdout.split())

    worker = [sys.executable, "-m", "underpaint_workers"]
    with running(worker, tmp_path / "worker.log", environment) as program:
        eventually(lambda: Worker.count(connection=signals.redis), f"a worker registers: {program.output()}")
        yield underpaint


def test_into_a_project(
    client: LabelStudio, settings: Settings, checkpoint: str, folder: Path, underpaint: Underpaint
) -> None:
    project = client.post("/api/projects/", {"title": "Crawled", "label_config": LABEL_CONFIG})
    Store(settings.store).promote(key_of(project), checkpoint, "test", "sees sky", {})
    Image.open(folder / "dawn.png").save(folder / "scan.tif")  # which Label Studio refuses

    status, output = underpaint("prelabel", folder, "--project", project["id"])

    assert status == 0, output
    assert f"3 images pre-labelled with {checkpoint}" in output
    for name, fault in [("cut off.png", "damaged"), ("error page.jpg", "not an image"), ("scan.tif", "Label Studio")]:
        assert f"left out: {folder / name}: " in output
        assert fault in output.split(f"{name}: ")[1]

    tasks = {str(task["data"]["image"]).split("-")[-1]: task["id"] for task in client.tasks(project["id"])}
    assert tasks.keys() == UPRIGHT.keys()
    for name, task_id in tasks.items():
        [prediction] = client.predictions(task_id)
        assert prediction["model_version"] == checkpoint
        # Softmax of the logits 3 and 0, to the power of 1.2 by which refinement sharpens.
        assert prediction["score"] == pytest.approx(1 / (1 + np.exp(-3 * 1.2)), abs=0.5 / 255)
        class_map, problems = rasterise(prediction["result"], parse(LABEL_CONFIG), UPRIGHT[name])
        assert problems == []
        assert np.all(class_map == 1)


def test_onto_disk(settings: Settings, checkpoint: str, folder: Path, tmp_path: Path, underpaint: Underpaint) -> None:
    to = tmp_path / "pairs"
    (folder / "dawn.jpg").write_bytes((folder / "monet" / "dusk.jpg").read_bytes())

    status, output = underpaint("prelabel", folder, "--to", to, "--checkpoint", checkpoint)

    assert status == 0, output
    assert f"3 images pre-labelled with {checkpoint}" in output
    for name in ("cut off.png", "error page.jpg"):
        assert f"left out: {folder / name}: " in output
    assert f"left out: {folder / 'dawn.png'}: it would overwrite {folder / 'dawn.jpg'}" in output

    pairs = Dataset.open(to)
    assert pairs.classes == ("sky", "water")
    files = {"dawn": "dawn.jpg", "monet__dusk": "monet/dusk.jpg", "monet__turned": "monet/turned.jpg"}
    assert pairs.names == tuple(files)
    for name, path in files.items():
        image, class_map = pairs.load(name)
        assert np.array_equal(image, decode((folder / path).read_bytes(), settings.max_image_pixels, name))
        assert np.all(class_map == 0)

    before = {path: path.read_bytes() for path in to.rglob("*") if path.is_file()}
    status, output = underpaint("prelabel", folder, "--to", to, "--checkpoint", checkpoint)
    assert status == 1
    assert f"{to} is not empty" in output
    assert {path: path.read_bytes() for path in to.rglob("*") if path.is_file()} == before


def test_before_any_champion_the_base_does_it(
    base: str, settings: Settings, folder: Path, tmp_path: Path, underpaint: Underpaint
) -> None:
    status, output = underpaint("prelabel", folder, "--to", tmp_path / "pairs")

    assert status == 0, output
    assert f"3 images pre-labelled with {base}" in output
    pairs = Dataset.open(tmp_path / "pairs")
    assert all(np.all(pairs.load(name)[1] == 1) for name in pairs.names)
    assert Store(settings.store).get(base).version == base


def test_a_project_that_no_class_fits_gets_no_tasks(
    client: LabelStudio, checkpoint: str, folder: Path, underpaint: Underpaint
) -> None:
    label_config = LABEL_CONFIG.replace("Water", "Signature").replace("Sky", "Frame")
    project = client.post("/api/projects/", {"title": "Frames", "label_config": label_config})

    status, output = underpaint("prelabel", folder, "--project", project["id"], "--checkpoint", checkpoint)

    assert status == 1
    assert "Labels that can't be predicted" in output
    assert 'predicted_values="' in output
    assert client.task_ids(project["id"]) == []

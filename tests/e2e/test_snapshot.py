"""A snapshot holds what people accepted in Label Studio, drawn as they see it, and nothing else."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_sdk.converter.brush import mask2rle
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from underpaint.labelstudio.client import LabelStudio
from underpaint.settings import Settings
from underpaint.taxonomy import UNLABELLED
from underpaint_workers import snapshot
from underpaint_workers.dataset import Dataset, Item
from underpaint_workers.snapshot import Snapshot, is_validation

pytestmark = pytest.mark.e2e

HEIGHT, WIDTH = 40, 60
SKY, WATER, TREE, ROCK = range(4)
LABEL_CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image"><Label value="Sky"/></BrushLabels>
  <PolygonLabels name="polygon" toName="image"><Label value="Water"/></PolygonLabels>
  <RectangleLabels name="rectangle" toName="image"><Label value="Tree"/><Label value="Sky"/></RectangleLabels>
  <EllipseLabels name="ellipse" toName="image"><Label value="Rock"/></EllipseLabels>
</View>
"""
TRIANGLE = [(10.0, 12.0), (92.0, 30.0), (35.0, 88.0)]

Region = dict[str, Any]
Mask = NDArray[np.bool_]
Take = Callable[..., Snapshot]


@pytest.fixture
def project_id(client: LabelStudio) -> int:
    project = client.post("/api/projects/", {"title": "Snapshot", "label_config": LABEL_CONFIG})
    return int(project["id"])


@pytest.fixture
def take(client: LabelStudio, project_id: int, tmp_path: Path) -> Take:
    """``take(**settings)``: a snapshot of the project as it is now, in a folder of its own."""
    folders = (tmp_path / f"snapshot-{number}" for number in range(9))
    return lambda **settings: snapshot.take(client, project_id, next(folders), Settings(**settings))


@pytest.fixture
def upload(client: LabelStudio, project_id: int, tmp_path: Path) -> Callable[[bytes], int]:
    """``upload(file)``: a new task's id."""

    def upload(file: bytes) -> int:
        path = tmp_path / "painting.png"
        path.write_bytes(file)
        [task_id] = client.upload(project_id, path)["task_ids"]
        return int(task_id)

    return upload


def painting(seed: int = 0) -> bytes:
    """A PNG of noise, so that no two seeds make the same."""
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def region(tool: str, label: str, size: tuple[int, int] = (HEIGHT, WIDTH), **value: Any) -> Region:
    """A region as the editor submits it."""
    return {
        "id": f"{tool}-{label}",
        "type": f"{tool}labels",
        "from_name": tool,
        "to_name": "image",
        "original_height": size[0],
        "original_width": size[1],
        "image_rotation": 0,
        "value": {**value, f"{tool}labels": [label]},
        "origin": "manual",
    }


def upper_half(label: str, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Region:
    return region("rectangle", label, size, x=0, y=0, width=100, height=50, rotation=0)


def stroke() -> tuple[Region, Mask]:
    """A brush stroke with a soft edge, and the pixels that are at least half in it."""
    drawing = Image.new("L", (4 * WIDTH, 4 * HEIGHT))
    ImageDraw.Draw(drawing).line([(20, 20), (110, 120), (220, 70)], fill=255, width=40)
    alpha = np.asarray(drawing.resize((WIDTH, HEIGHT), Image.Resampling.BOX))
    assert len(np.unique(alpha)) > 10
    rle = mask2rle(alpha)  # type: ignore[no-untyped-call]
    return region("brush", "Sky", format="rle", rle=rle), alpha >= 128


def centres() -> NDArray[np.complex128]:
    """The centre of each pixel, x + iy."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return np.asarray(x + 1j * y)


def turned(origin: complex, degrees: float) -> NDArray[np.complex128]:
    """The centre of each pixel, as seen from ``origin`` by one who turned clockwise (y points down)."""
    return np.asarray((centres() - origin) * np.exp(-1j * np.radians(degrees)))


def triangle() -> tuple[Region, Mask]:
    corners = [complex(x * WIDTH, y * HEIGHT) / 100 for x, y in TRIANGLE]
    inside = np.ones((HEIGHT, WIDTH), bool)
    for corner, after in zip(corners, corners[1:] + corners[:1], strict=True):
        inside &= ((centres() - corner) / (after - corner)).imag > 0
    return region("polygon", "Water", points=[list(point) for point in TRIANGLE], closed=True), inside


def turned_rectangle() -> tuple[Region, Mask]:
    seen = turned(complex(0.5 * WIDTH, 0.1 * HEIGHT), 35)
    inside = (seen.real > 0) & (seen.real < 0.4 * WIDTH) & (seen.imag > 0) & (seen.imag < 0.45 * HEIGHT)
    return region("rectangle", "Tree", x=50, y=10, width=40, height=45, rotation=35), inside


def turned_ellipse() -> tuple[Region, Mask]:
    seen = turned(complex(0.45 * WIDTH, 0.5 * HEIGHT), 20)
    inside = (seen.real / (0.3 * WIDTH)) ** 2 + (seen.imag / (0.2 * HEIGHT)) ** 2 < 1
    return region("ellipse", "Rock", x=45, y=50, radiusX=30, radiusY=20, rotation=20), inside


def load(taken: Snapshot, task_id: int) -> Item:
    return Dataset.open(taken.folder).load(f"task-{task_id}-image")


def tasks_of(taken: Snapshot) -> dict[int, set[int]]:
    """The ids of the tasks in a snapshot, each with its class ids."""
    return {
        (task_id := int(painting.name.split("-")[1])): set(np.unique(load(taken, task_id)[1]).tolist())
        for painting in taken.paintings
    }


def test_submitted_labels_teach_and_skips_drafts_and_empty_submits_do_not(
    client: LabelStudio, upload: Callable[[bytes], int], take: Take
) -> None:
    submitted, skipped, empty, drafted, _untouched = (upload(painting(seed)) for seed in range(5))
    client.create_annotation(submitted, [upper_half("Sky")])
    client.create_annotation(skipped, [upper_half("Sky")], was_cancelled=True)
    client.create_annotation(empty, [])
    client.post(f"/api/tasks/{drafted}/drafts", {"result": [upper_half("Sky")]})

    taken = take()
    assert taken.classes == ("Sky", "Water", "Tree", "Rock")
    assert tasks_of(taken) == {submitted: {SKY, UNLABELLED}}
    assert taken.problems == ()

    with_background = take(unlabelled_is_background=True)
    assert with_background.classes == (*taken.classes, snapshot.BACKGROUND)
    assert tasks_of(with_background) == {submitted: {SKY, 4}, empty: {4}}


def test_of_several_annotations_ground_truth_counts_else_the_latest(
    client: LabelStudio, upload: Callable[[bytes], int], take: Take
) -> None:
    ground_truth, latest, edited, skipped_later = (upload(painting(seed)) for seed in range(4))
    client.create_annotation(ground_truth, [upper_half("Sky")], ground_truth=True)
    client.create_annotation(ground_truth, [upper_half("Tree")])
    client.create_annotation(latest, [upper_half("Sky")])
    client.create_annotation(latest, [upper_half("Tree")])
    first = client.create_annotation(edited, [upper_half("Tree")])
    client.create_annotation(edited, [upper_half("Tree")])
    client.patch(f"/api/annotations/{first['id']}/", {"result": [upper_half("Sky")]})
    client.create_annotation(skipped_later, [upper_half("Sky")])
    client.create_annotation(skipped_later, [upper_half("Tree")], was_cancelled=True)

    assert tasks_of(take()) == {
        ground_truth: {SKY, UNLABELLED},
        latest: {TREE, UNLABELLED},
        edited: {SKY, UNLABELLED},
        skipped_later: {SKY, UNLABELLED},
    }
    assert tasks_of(take(ground_truth_only=True)) == {ground_truth: {SKY, UNLABELLED}}


def test_every_shape_is_drawn_over_those_before_it(
    client: LabelStudio, upload: Callable[[bytes], int], take: Take
) -> None:
    drawn = [(SKY, *stroke()), (WATER, *triangle()), (TREE, *turned_rectangle()), (ROCK, *turned_ellipse())]
    orders = [drawn, drawn[::-1]]
    tasks = [upload(painting()) for _ in orders]
    for task_id, order in zip(tasks, orders, strict=True):
        client.create_annotation(task_id, [region for _, region, _ in order])

    taken = take()

    assert taken.problems == ()
    maps = []
    for task_id, order in zip(tasks, orders, strict=True):
        expected = np.full((HEIGHT, WIDTH), UNLABELLED, np.uint8)
        for class_id, _, mask in order:
            expected[mask] = class_id
        maps.append(expected)
        image, class_map = load(taken, task_id)
        assert np.array_equal(image, np.asarray(Image.open(io.BytesIO(painting()))))
        assert np.array_equal(class_map, expected)
    assert {int(id) for drawing in maps for id in np.unique(drawing)} == {SKY, WATER, TREE, ROCK, UNLABELLED}
    assert (maps[0] != maps[1]).mean() > 0.1  # else the order would not have mattered


def test_an_exif_turned_upload_is_upright_like_its_labels(
    client: LabelStudio, upload: Callable[[bytes], int], take: Take
) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:, : WIDTH // 2] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored left side is the top of what people see
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", exif=exif, quality=95)
    task_id = upload(file.getvalue())
    upright = (WIDTH, HEIGHT)
    client.create_annotation(task_id, [upper_half("Sky", upright)])

    taken = take()

    assert taken.problems == ()
    image, class_map = load(taken, task_id)
    assert class_map.shape == upright
    red = image[..., 0] > 128
    assert red.any()
    assert np.array_equal(red, class_map == SKY)


def test_what_cannot_be_read_is_named_and_costs_nothing_else(
    client: LabelStudio, project_id: int, upload: Callable[[bytes], int], take: Take
) -> None:
    good, mixed = upload(painting(0)), upload(painting(1))
    no_image = upload(b"no image at all")
    gone, elsewhere = client.import_tasks(
        project_id, [{"data": {"image": url}} for url in ("/data/upload/1/gone.png", "http://127.0.0.1:9/x.png")]
    )["task_ids"]
    soft, soft_mask = stroke()
    garbled = region("brush", "Sky", format="rle", rle=[1, 2, 3]) | {"id": "garbled"}
    unknown = upper_half("Lantern")
    resized = upper_half("Tree", (HEIGHT + 1, WIDTH)) | {"id": "resized"}
    client.create_annotation(mixed, [garbled, unknown, soft, resized])
    for task_id in (good, no_image, gone, elsewhere):
        client.create_annotation(task_id, [soft])

    taken = take()

    expected = np.where(soft_mask, SKY, UNLABELLED)
    assert set(tasks_of(taken)) == {good, mixed}
    for task_id in (good, mixed):
        assert np.array_equal(load(taken, task_id)[1], expected)
    named = [
        (mixed, "Region garbled is left out"),
        (mixed, "Regions labelled 'Lantern' are left out"),
        (mixed, "Region resized is left out"),
        (no_image, "not an image"),
        (gone, "gone.png"),
        (elsewhere, "127.0.0.1:9"),
    ]
    assert len(taken.problems) == len(named)
    for task_id, fault in named:
        [problem] = [problem for problem in taken.problems if fault in problem]
        assert problem.count(f"task {task_id}:") == 1


def test_the_fingerprint_changes_with_the_labels_only(
    client: LabelStudio, upload: Callable[[bytes], int], take: Take
) -> None:
    task_id = upload(painting())
    annotation = client.create_annotation(task_id, [upper_half("Sky")])
    first = take().fingerprint
    assert take().fingerprint == first

    client.patch(f"/api/annotations/{annotation['id']}/", {"result": [upper_half("Tree")]})
    edited = take().fingerprint
    assert edited != first

    client.patch(f"/api/annotations/{annotation['id']}/", {"result": [upper_half("Sky")]})
    assert take().fingerprint == first


def test_an_image_that_is_imported_again_stays_on_its_side_of_the_split(
    client: LabelStudio, upload: Callable[[bytes], int], take: Take
) -> None:
    files = [painting(seed) for seed in range(40)]
    kept_back = [file for file in files if is_validation(file)][:2]
    learned = [file for file in files if not is_validation(file)][:2]
    tasks = {upload(file): file in kept_back for _ in range(2) for file in kept_back + learned}
    for task_id in tasks:
        client.create_annotation(task_id, [upper_half("Sky")])

    taken = take()

    assert len(tasks) == 8
    for validation in (True, False):
        expected = {f"task-{task_id}-image" for task_id, held in tasks.items() if held == validation}
        assert set(taken.names(validation=validation)) == expected


def test_annotations_made_from_predictions_in_bulk_are_found(
    client: LabelStudio, project_id: int, upload: Callable[[bytes], int], take: Take
) -> None:
    tasks = [upload(painting(seed)) for seed in range(2)]
    predictions = [{"task": task, "result": [upper_half("Sky")], "score": 0.5, "model_version": "v1"} for task in tasks]
    client.import_predictions(project_id, predictions)
    assert tasks_of(take()) == {}

    everything = {"ordering": [], "selectedItems": {"all": True, "excluded": []}}
    client.post("/api/dm/actions/", everything, id="predictions_to_annotations", project=project_id)

    assert tasks_of(take()) == {task_id: {SKY, UNLABELLED} for task_id in tasks}


def test_every_annotated_task_is_on_one_page(client: LabelStudio, project_id: int) -> None:
    assert list(client.annotated_tasks(project_id)) == []

    url = "/data/upload/1/painting.png"
    submitted: Region = {"data": {"image": url}, "annotations": [{"result": [upper_half("Sky")]}]}
    skipped: Region = {"data": {"image": url}, "annotations": [{"result": [], "was_cancelled": True}]}
    twice: Region = {"data": {"image": url}, "annotations": 2 * submitted["annotations"]}
    imported = [submitted, skipped, twice, {"data": {"image": url}}] * 40
    ids = client.import_tasks(project_id, imported)["task_ids"]
    client.post(f"/api/tasks/{ids[3]}/drafts", {"result": [upper_half("Sky")]})
    late = client.create_annotation(ids[7], [upper_half("Sky")])

    pages = list(client.annotated_tasks(project_id))

    assert [len(page) for page in pages] == [50, 50, 21]
    tasks = {task["id"]: task["annotations"] for page in pages for task in page}
    expected = {id for id, task in zip(ids, imported, strict=True) if "annotations" in task} | {ids[7]}
    assert set(tasks) == expected
    assert [annotation["was_cancelled"] for id in ids[:3] for annotation in tasks[id]] == [False, True, False, False]
    assert tasks[ids[7]][0]["id"] == late["id"]

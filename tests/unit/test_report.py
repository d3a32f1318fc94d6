import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from html_page import Page
from underpaint.checkpoints import Card
from underpaint_workers.contact_sheet import SIZE, ContactSheet
from underpaint_workers.evaluation import confusion_of, metrics_of
from underpaint_workers.report import write_report

CLASSES = ("sky", "<script>alert(1)</script>", 'tree "&')
CARD = Card(
    architecture="FPN",
    encoder="resnet18",
    classes=CLASSES,
    image_size=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    licences="<b>None</b>",
)


def sheet_of(scores: dict[str, float], size: tuple[int, int] = (30, 40), limit: int = 40) -> ContactSheet:
    sheet = ContactSheet(CLASSES, limit)
    for name, miou in scores.items():
        item = (np.full((*size, 3), 200, np.uint8), np.zeros(size, np.uint8))
        sheet.add(name, item, np.ones(size, np.uint8), miou)
    return sheet


def report(path: Path, sheet: ContactSheet) -> Page:
    labels = np.array([[0, 0, 1, 255]], np.uint8)
    metrics = metrics_of(confusion_of(labels, np.array([[0, 3, 1, 0]], np.uint8), 3), CLASSES, 1)
    write_report(path, "0123456789ab", CARD, "my <data>", replace(metrics, boundary_f1=0.4321), sheet)
    return Page(path)


def picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_a_report_needs_nothing_beside_it_and_runs_no_names(tmp_path: Path) -> None:
    page = report(tmp_path / "new" / "report.html", sheet_of({"<img src=x>": 0.5}))
    assert "script" not in page.tags
    assert "b" in page.tags
    assert page.tags.count("img") == len(page.links) == 4
    assert all(link.startswith("data:image/") for link in page.links)
    text = " ".join(page.texts)
    for part in ("0123456789ab", "my <data>", *CLASSES, "<img src=x>", "<b>None</b>", "resnet18"):
        assert part in text


def test_a_report_says_the_scores(tmp_path: Path) -> None:
    page = report(tmp_path / "report.html", sheet_of({"a": 0.5}))
    # sky: one of two labelled pixels; the script: its one; the tree is not labelled.
    assert [text for text in page.texts if text in ("0.500", "1.000", "0.750", "0.667", "0.432")] == [
        *("0.750", "0.667", "0.432"),
        *("0.500", "1.000"),
    ]
    assert page.texts.count("–") == 2  # the tree's IoU, and calibration
    assert "66.7 %" in page.texts
    assert page.texts.count("50") == 2  # half of sky is sky, half is none of these


def test_the_sheet_keeps_the_worst_and_says_so(tmp_path: Path) -> None:
    scores = {f"painting {index}": (index * 7 % 11) / 11 for index in range(11)}
    sheet = sheet_of(scores, limit=4)
    assert [row.name for row in sheet.rows] == sorted(scores, key=lambda name: scores[name])[:4]
    page = report(tmp_path / "report.html", sheet)
    assert any("The 4 with the lowest mIoU of 11" in text for text in page.texts)
    assert page.tags.count("img") == 16


def test_a_painting_without_labels_is_not_compared() -> None:
    sheet = ContactSheet(CLASSES)
    sheet.add("bare", (np.zeros((8, 8, 3), np.uint8), np.full((8, 8), 255, np.uint8)), np.zeros((8, 8), np.uint8), 0.0)
    assert (sheet.rows, sheet.seen) == ([], 0)


@pytest.mark.parametrize(
    ("size", "shown"), [((600, 900), (SIZE, 213)), ((900, 3), (1, SIZE)), ((40, 30), (30, 40)), ((1, 1), (1, 1))]
)
def test_pictures_are_small_and_alike_in_size(size: tuple[int, int], shown: tuple[int, int]) -> None:
    [row] = sheet_of({"a": 0.5}, size).rows
    for uri in (row.painting, row.labels, row.prediction, row.difference):
        assert picture(uri).size == shown


def test_differences_are_red_and_unlabelled_pixels_are_none() -> None:
    labels = np.zeros((32, 48), np.uint8)
    labels[:, 16:32] = 255
    predicted = np.zeros((32, 48), np.uint8)
    predicted[:, 16:] = 1
    sheet = ContactSheet(CLASSES)
    sheet.add("a", (np.full((32, 48, 3), 100, np.uint8), labels), predicted, 0.5)
    difference = np.array(picture(sheet.rows[0].difference)).astype(int)
    redness = difference[:, :, 0] - difference[:, :, 1]
    assert redness[:, :14].max() < 20
    assert redness[:, 18:28].max() < 20
    assert redness[:, 36:].min() > 150


def test_forty_large_paintings_make_a_file_of_a_few_megabytes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (400, 400, 3), np.uint8)  # no painting is harder to compress
    labels, predicted = (np.kron(random.integers(0, 3, (40, 40)), np.ones((10, 10))).astype(np.uint8) for _ in range(2))
    sheet = ContactSheet(CLASSES)
    for index in range(41):
        sheet.add(str(index), (noise, labels), predicted, 1 / (1 + index))
    report(tmp_path / "report.html", sheet)
    assert len(sheet.rows) == 40
    assert (tmp_path / "report.html").stat().st_size < 10e6

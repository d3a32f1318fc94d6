import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from html_page import Page
from underpaint.checkpoints import Checkpoint
from underpaint.labelstudio.label_config import Label
from underpaint.segmenter.segmenter import Segmenter
from underpaint_workers import dataset
from underpaint_workers.contact_sheet import SIZE
from underpaint_workers.curves import Curves
from underpaint_workers.dataset import Dataset
from underpaint_workers.evaluation import Examination, confusion_of, metrics_of
from underpaint_workers.gate import decide
from underpaint_workers.label_quality import Contradiction
from underpaint_workers.outcome import Outcome
from underpaint_workers.run_report import LABELS, ROWS, RunReport
from underpaint_workers.snapshot import Painting, Snapshot
from underpaint_workers.training import Progress

CLASSES = ("sky", "<script>alert(1)</script>", 'tree "&')
RECORD: dict[str, Any] = {
    "id": "20261122T104527000000",
    "project": "3.1795344327",
    "started": "2026-11-22T10:45:27+00:00",
    "version": "0123456789ab",
    "champion": "ba9876543210",
    "training": 4,
    "validation": 6,
}
WIDTH, HEIGHT = 640, 400


def progress(step: int, *scores: float, loss: float = 1.0) -> Progress:
    return Progress(epoch=1, epochs=2, step=step, steps=9, loss=loss, seconds=1.0, eta_seconds=1.0, scores=scores)


def examination(data: Dataset, names: list[str], right: float) -> Examination:
    """Of a segmenter that calls this share of each painting, from the top, as it is labelled, and the rest sky."""
    maps = []
    for name in names:
        predicted = data.load(name)[1].copy()
        predicted[round(right * HEIGHT) :] = 0
        maps.append(predicted)
    confusions = np.array([confusion_of(data.load(name)[1], each, 3) for name, each in zip(names, maps, strict=True)])
    metrics = metrics_of(confusions.sum(axis=0), CLASSES, len(names))
    return Examination(metrics, confusions, tuple(each[::2, ::2] for each in maps))


@pytest.fixture
def outcome(tmp_path: Path, make_checkpoint: Callable[..., Checkpoint]) -> Outcome:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[:, WIDTH // 2 :] = 1
    for number in range(10):
        dataset.write_item(tmp_path, f"task-{number}-image", noise, labels)
    dataset.write_classes(tmp_path, CLASSES)
    data = Dataset.open(tmp_path)
    paintings = tuple(Painting(name, name, number >= 4) for number, name in enumerate(data.names))
    names = [painting.name for painting in paintings if painting.is_validation]
    before, after = examination(data, names, 0.5), examination(data, names, 0.9)
    made = make_checkpoint(CLASSES, "sky")
    segmenter = Segmenter(replace(made, card=replace(made.card, licences="<b>None</b>", settings={"epochs": 140})))
    curves = Curves()
    for step in range(1, 500):
        curves.note(progress(step, *np.linspace(0.1, 0.6, step // 100), loss=2 - step / 500))
    return Outcome(
        Snapshot(tmp_path, tuple(map(Label, CLASSES)), paintings, ("task 77: <gone>",)),
        data,
        None,
        segmenter,
        before,
        after,
        decide(before.confusions, after.confusions, CLASSES, seed="x"),
        curves,
    )


def written(path: Path, outcome: Outcome, labels: int = 0, **record: Any) -> Page:
    found = [
        Contradiction("task-2-image", "sky", CLASSES[1], 0.9, 0.25, (10.0, 20.0, 30.0, 40.0)) for _ in range(labels)
    ]
    report = RunReport(RECORD | record, 65.4, outcome, found, "http://labels.example/sub")
    path.write_text(report.to_html(), "utf-8")
    return Page(path)


def test_a_report_needs_nothing_beside_it_and_runs_no_names(tmp_path: Path, outcome: Outcome) -> None:
    page = written(tmp_path / "report.html", outcome, labels=1)
    assert "script" not in page.tags
    tasks, pictures = ([link for link in page.links if link.startswith(start)] for start in ("http", "data:image/"))
    assert sorted({*tasks}) == [
        f"http://labels.example/sub/projects/3/data?task={task}" for task in (2, 4, 5, 6, 7, 8, 9)
    ]
    assert len(tasks) + len(pictures) == len(page.links)
    assert len(pictures) == 1 + 6 * 5
    text = " ".join(page.texts)
    for part in (
        *CLASSES,
        "task 77: <gone>",
        "0123456789ab",
        "ba9876543210",
        "<b>None</b>",
        "65 s",
        "4 to learn from",
        "140",
        "only the challenger is right",  # what the colours of a difference mean
    ):
        assert part in text
    for part in ("champion", "challenger", "where the challenger differs"):
        assert page.texts.count(part) >= 6
    assert (tmp_path / "report.html").stat().st_size < 3e6


def test_a_report_says_why_and_how_to_decide_otherwise(tmp_path: Path, outcome: Outcome) -> None:
    text = " ".join(written(tmp_path / "report.html", outcome).texts)
    assert outcome.decision.promote
    assert outcome.decision.reason in text
    assert "underpaint rollback 3.1795344327" in text
    assert "No accepted label is strongly contradicted" in text
    assert outcome.before
    assert outcome.after
    refused = decide(outcome.after.confusions, outcome.before.confusions, CLASSES)
    swapped = Outcome(
        *(outcome.taken, outcome.data, outcome.champion, outcome.challenger, outcome.after, outcome.before, refused),
        outcome.curves,
    )
    text = " ".join(written(tmp_path / "report.html", swapped).texts)
    assert "underpaint promote 3.1795344327 0123456789ab" in text
    assert "classes that fell" in text


def test_scores_stand_beside_each_other(tmp_path: Path, outcome: Outcome) -> None:
    html = (written(tmp_path / "report.html", outcome), (tmp_path / "report.html").read_text())[1]
    assert outcome.before
    assert outcome.after
    for name in ("miou", "accuracy"):
        pair = [f"{getattr(each.metrics, name):.3f}" for each in (outcome.before, outcome.after)]
        assert f"<td class=number>{pair[0]}<td class=number>{pair[1]}" in html
    change = outcome.after.metrics.per_class["sky"] - outcome.before.metrics.per_class["sky"]  # type: ignore[operator]
    assert f"{change:+.3f}" in html


def test_without_validation_paintings_there_is_less_to_say(tmp_path: Path, outcome: Outcome) -> None:
    untested = Outcome(
        *(outcome.taken, outcome.data, None, outcome.challenger, None, None, decide(None, None, CLASSES), Curves())
    )
    page = written(tmp_path / "report.html", untested, champion=None)
    assert "Promoted untested" in " ".join(page.texts)
    assert "nothing" in page.texts
    assert "img" not in page.tags
    assert "svg" not in page.tags


def test_no_more_is_shown_than_a_person_reads(tmp_path: Path, outcome: Outcome) -> None:
    page = written(tmp_path / "report.html", outcome, labels=LABELS + 5)
    assert page.tags.count("img") == LABELS + 6 * 5
    assert f"The strongest {LABELS} of {LABELS + 5} pieces" in " ".join(page.texts)
    assert ROWS * 5 * SIZE < 1e5


def test_curves_are_drawn_within_their_frame(outcome: Outcome) -> None:
    html = outcome.curves.to_html()
    assert html.count("<svg") == 2
    lines = re.findall(r'points="([^"]*)"', html)
    for line, most in zip(lines, (200, 4), strict=True):
        points = [tuple(map(float, point.split(","))) for point in line.split()]
        assert 2 <= len(points) <= most
        assert all(0 <= x <= 560 and 0 <= y <= 180 for x, y in points)
        assert points == sorted(points)
    assert "at the end 0.600" in html


def test_curves_follow_the_last_training_and_one_that_goes_on() -> None:
    curves = Curves()
    curves.note(progress(200, 0.1, 0.2))  # it went on where a killed one was
    assert curves.scores == [(100.0, 0.1), (200.0, 0.2)]
    curves.note(progress(300, 0.1, 0.2, 0.3))
    assert curves.scores[-1] == (300.0, 0.3)
    curves.note(progress(1))
    assert (curves.losses, curves.scores) == ([(1, 1.0)], [])
    assert Curves().to_html() == ""

"""Wrong labels that were planted, and who finds them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from http_server import Answer, Request, serve
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store
from underpaint.labelstudio.client import LabelStudio
from underpaint.labelstudio.label_config import Label
from underpaint.segmenter.segmenter import Segmenter
from underpaint_workers import dataset
from underpaint_workers.curves import Curves
from underpaint_workers.dataset import Dataset
from underpaint_workers.gate import Decision
from underpaint_workers.label_quality import (
    SMALLEST,
    STRONG,
    TAB,
    Contradiction,
    Piece,
    as_record,
    contradicted,
    judge,
    look_again,
    pieces_of,
    show_tab,
)
from underpaint_workers.outcome import Outcome
from underpaint_workers.snapshot import Painting, Snapshot

CLASSES = ("sky", "water", "boat")
SKY, WATER, BOAT = range(3)
PROJECT = "3.1795344327"
Make = Callable[..., Checkpoint]


def piece(label: int, *probabilities: float, name: str = "task-1-image") -> Piece:
    return Piece(name, label, np.array(probabilities), 0.5, (0.0, 0.0, 100.0, 50.0))


def landscape(random: np.random.Generator) -> NDArray[np.uint8]:
    """Sky over water, in every other one with a boat between them."""
    class_map = np.zeros((60, 80), np.uint8)
    horizon, left = random.integers(20, 40), random.integers(0, 60)
    class_map[horizon:] = WATER
    if random.random() < 0.5:
        class_map[horizon - 8 : horizon + 2, left : left + 20] = BOAT
    return class_map


def seen(truth: NDArray[np.uint8], random: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """What a fair segmenter makes of it: some pixels are wrong, more in some paintings, and boats are less sure."""
    predicted = np.where(random.random(truth.shape) < random.uniform(0, 0.3), random.integers(0, 3, truth.shape), truth)
    sure = np.where(predicted == BOAT, 0.6, 0.9) + random.normal(0, 0.05) + random.normal(0, 0.05, truth.shape)
    return predicted.astype(np.uint8), (255 * sure.clip(0, 1)).astype(np.uint8)


def test_planted_labels_are_found_and_no_others() -> None:
    hits = planted = 0
    for seed in range(10):
        random = np.random.default_rng(seed)
        pieces: list[Piece] = []
        wrong = {}
        for index in range(40):
            truth = landscape(random)
            labels = truth.copy()
            if index % 8 == 0 and BOAT not in truth:
                right = WATER if index % 16 else SKY
                labels[truth == right] = BOAT
                wrong[f"task-{index}-image"] = CLASSES[right]
            pieces += pieces_of(f"task-{index}-image", labels, *seen(truth, random), 3)
        found = judge(pieces, CLASSES)
        assert all(each.label == "boat" and wrong[each.painting] == each.predicted for each in found)
        assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
        hits += len(found)
        planted += len(wrong)
    assert planted > 20
    # As each class is held to its own mean, about half of those that are wrong reach it.
    assert hits > planted / 3


def test_each_class_is_held_to_what_is_usual_for_it() -> None:
    usual = [piece(SKY, 0.9, 0, 0), piece(SKY, 0.9, 0, 0), piece(BOAT, 0, 0.1, 0.6), piece(BOAT, 0, 0.1, 0.6)]
    # 0.7 is much for a boat, and little for sky.
    [found] = judge([*usual, piece(WATER, 0, 0.1, 0.7)], CLASSES)
    assert (found.label, found.predicted) == ("water", "boat")
    assert found.score == pytest.approx(0.6)
    assert judge([*usual, piece(WATER, 0.7, 0.1, 0)], CLASSES) == []
    # And 0.6 for boat leaves too little between the two where the label has its share.
    assert judge([*usual, piece(WATER, 0, 0.65 - STRONG, 0.62)], CLASSES) == []
    assert judge([], CLASSES) == []


def test_what_nobody_labelled_is_held_to_what_is_usual_for_all() -> None:
    usual = [piece(SKY, 0.9, 0, 0)] * 9
    found = judge([*usual, piece(SKY, 0, 0, 0.95)], CLASSES)
    assert [(each.label, each.predicted) for each in found] == [("sky", "boat")]
    assert judge([*usual, piece(SKY, 0.1, 0, 0.7)], CLASSES) == []


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32))
def test_pieces_agree_with_their_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.kron(random.choice([0, 1, 255], (4, 5)), np.ones((6, 6))).astype(np.uint8)
    predicted = random.integers(0, 3, labels.shape, np.uint8)  # 2 is none of them
    confidence = random.integers(0, 256, labels.shape, np.uint8)
    found = list(pieces_of("task-1-image", labels, predicted, confidence, 2))
    assert sum(each.area for each in found) == pytest.approx((labels != 255).mean())
    for label in (0, 1):
        of = [each for each in found if each.label == label]
        for other in (0, 1):
            total = sum(each.probabilities[other] * each.area for each in of) * labels.size
            wanted = confidence[(labels == label) & (predicted == other)].sum() / 255
            assert total == pytest.approx(float(wanted))
    for each in found:
        left, top, width, height = (
            round(part * side / 100) for part, side in zip(each.box, (30, 24, 30, 24), strict=True)
        )
        assert (labels[top : top + height, left : left + width] == each.label).any(axis=0).all()


def test_small_pieces_are_left_alone() -> None:
    labels = np.zeros((100, 100), np.uint8)
    pixels = round(SMALLEST * labels.size)
    labels[0, : pixels - 1] = WATER
    labels[50, :pixels] = WATER
    found = list(pieces_of("task-1-image", labels, labels, labels, 3))
    assert [(each.label, each.box) for each in found if each.label] == [(WATER, (0.0, 50.0, 100.0, 1.0))]


@pytest.fixture
def paintings(tmp_path: Path) -> Callable[..., Dataset]:
    """``paintings(label, ...)``: a data set whose paintings task-1, task-2, … are all of one label each."""

    def make(*labels: int) -> Dataset:
        image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        for number, label in enumerate(labels, 1):
            dataset.write_item(tmp_path, f"task-{number}-image", image, np.full((64, 64), label, np.uint8))
        dataset.write_classes(tmp_path, CLASSES)
        return Dataset.open(tmp_path)

    return make


def test_a_segmenter_contradicts_what_it_sees_otherwise(
    paintings: Callable[..., Dataset], make_checkpoint: Make
) -> None:
    data = paintings(SKY, SKY, WATER, BOAT)
    segmenter = Segmenter(make_checkpoint(("Sky", "river"), "Sky"))
    [found] = contradicted(segmenter, data, data.names)  # of boats it knows nothing
    assert (found.painting, found.label, found.predicted, found.area) == ("task-3-image", "water", "sky", 1.0)
    assert found.box == (0, 0, 100, 100)
    sure = 1 / (1 + np.exp(-3))
    assert found.score == pytest.approx(sure, abs=0.03)


def outcome(data: Dataset, champion: Checkpoint | None, challenger: Checkpoint, changed: str = "") -> Outcome:
    """The last painting is for validation."""
    taken = tuple(
        Painting(name, f"{name}{changed if number == 2 else ''}", number == len(data.names))
        for number, name in enumerate(data.names, 1)
    )
    snapshot = Snapshot(data.folder, tuple(map(Label, CLASSES)), taken, ())
    challenger = replace(challenger, card=replace(challenger.card, snapshot=snapshot.fingerprint))
    serving = Segmenter(champion) if champion else None
    return Outcome(snapshot, data, serving, Segmenter(challenger), None, None, Decision(True, ""), Curves())


def test_labels_are_judged_by_who_did_not_learn_from_them(
    tmp_path: Path, paintings: Callable[..., Dataset], make_checkpoint: Make
) -> None:
    store = Store(str(tmp_path / "store"))
    water, sky = make_checkpoint(CLASSES, "water"), make_checkpoint(CLASSES, "sky")

    def contradictions(of: Outcome) -> dict[str, str]:
        return {each.painting: each.predicted for each in look_again(store, PROJECT, of)}

    data = paintings(BOAT, BOAT, BOAT)
    first = outcome(data, None, water)
    assert contradictions(first) == dict.fromkeys(data.names, "water")  # nobody else can
    # The label of the second painting is another since; the third is for validation.
    taught = replace(water, card=first.challenger.card)
    second = outcome(data, taught, sky, "changed")
    assert contradictions(second) == {"task-1-image": "sky", "task-2-image": "water", "task-3-image": "sky"}
    # A base has learned from none of a project's labels.
    assert contradictions(outcome(data, water, sky)) == {
        "task-1-image": "water",
        "task-2-image": "water",
        "task-3-image": "sky",
    }


def test_a_record_leads_to_the_task() -> None:
    found = Contradiction("task-12-image", "sky", "water", 0.75, 0.5, (0.0, 25.0, 100.0, 50.0))
    record = as_record(found, "http://labels.example/sub", PROJECT)
    assert json.loads(json.dumps(record)) == record
    assert (record["task"], record["link"]) == (12, "http://labels.example/sub/projects/3/data?task=12")
    with pytest.raises(ValueError, match="task-<id>"):
        as_record(replace(found, painting="harbour"), "http://labels.example", PROJECT)


def test_a_tab_that_is_there_is_changed_and_keeps_what_people_made_of_it() -> None:
    tabs: list[dict[str, Any]] = [{"id": 1, "data": {"title": "Default"}}]
    columns: list[dict[str, Any]] = [
        {"id": "image", "visibility_defaults": {"explore": True, "labeling": True}},
        {"id": "completed_at", "visibility_defaults": {"explore": True, "labeling": False}},
        {"id": "inner_id", "visibility_defaults": {"explore": False, "labeling": False}},
        {"id": "data", "visibility_defaults": None},
    ]

    def answer(request: Request) -> Answer:
        if request.path == "/api/dm/columns/":
            return Answer(json.dumps({"columns": columns}).encode())
        if request.method == "GET":
            return Answer(json.dumps(tabs).encode())
        values = json.loads(request.body)
        if request.method == "POST":
            tabs.append({"id": 2} | values)
        else:
            next(tab for tab in tabs if request.path.endswith(f"/{tab['id']}/")).update(values)
        return Answer(b"{}")

    def tasks() -> list[list[int]]:
        return [[item["value"] for item in tab["data"]["filters"]["items"]] for tab in tabs[1:]]

    with serve(answer) as server:
        label_studio = LabelStudio(server.url, "token")
        show_tab(label_studio, 3, [])
        assert tasks() == []
        show_tab(label_studio, 3, [12, 7, 12])
        assert tasks() == [[7, 12]]
        hidden = {"explore": ["tasks:inner_id"], "labeling": ["tasks:completed_at", "tasks:inner_id"]}
        assert tabs[1]["data"]["hiddenColumns"] == hidden
        tabs[1]["data"]["hiddenColumns"] = ["id"]
        show_tab(label_studio, 3, {5})
        assert tasks() == [[5]]
        assert (tabs[1]["data"]["title"], tabs[1]["data"]["hiddenColumns"]) == (TAB, ["id"])
        show_tab(label_studio, 3, [])
        assert tasks() == [[0]]
        assert all(request.query.get("project") == "3" for request in server.requests if request.method == "GET")

"""The whole loop, as an annotation team meets it: a real Label Studio, Redis, backend, worker and browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page
from rich.console import Console

from conftest import DATA
from e2e.browser import open_label_stream, open_task, screenshot, submit, wait_for_regions, wait_until
from underpaint.serving.champions import UNTRAINED
from underpaint_workers.demo.label_studio import LabelStudioServer
from underpaint_workers.demo.loop import Demo
from underpaint_workers.demo.paintings import Paintings
from underpaint_workers.demo.underpaint_server import UnderpaintServer

pytestmark = pytest.mark.e2e

MONET = DATA / "monet" / "train"
# Enough to learn something in little time; the demo and the benchmarks learn properly.
OVERRIDES = {
    "UNDERPAINT_TRAIN_MINUTES": "1",
    "UNDERPAINT_RETRAIN_AFTER_LABELS": "1000",
    "UNDERPAINT_POLL_SECONDS": "1",
    "OMP_NUM_THREADS": "2",
}
FEW = range(0, 6)
MORE = range(7, 28)
BY_HAND = 6
UNSEEN = range(28, 40)


@pytest.fixture(scope="module")
def console() -> Console:
    return Console(force_terminal=False, width=120)


@pytest.fixture(scope="module")
def underpaint(
    label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory, console: Console
) -> Iterator[UnderpaintServer]:
    with UnderpaintServer(label_studio, tmp_path_factory.mktemp("underpaint"), console, OVERRIDES) as server:
        yield server


@pytest.fixture(scope="module")
def loop(underpaint: UnderpaintServer, tmp_path_factory: pytest.TempPathFactory, console: Console) -> Demo:
    """A connected project of 40 paintings: real ones where the data is at hand, else painted scenes."""
    scenes = tmp_path_factory.mktemp("scenes") / "scenes"
    paintings = Paintings.of(MONET if MONET.exists() else None, scenes, console, count=len(UNSEEN) + 28)
    demo = Demo(underpaint, paintings, console)
    demo.make_project()
    return demo


def test_the_loop(loop: Demo, underpaint: UnderpaintServer) -> None:
    """Connect, accept, train, swap: better pre-labels on paintings nobody accepted. The browser's part follows."""
    loop.retrieve("before any training")
    empty = loop.latest_prediction(loop.tasks[0])
    assert (empty["model_version"], empty["result"]) == (UNTRAINED, [])
    loop.accept(FEW)
    first = loop.retrain()
    assert underpaint.store.champion(loop.project).version == first  # type: ignore[union-attr]
    loop.retrieve("from the first champion")
    assert {loop.latest_prediction(task)["model_version"] for task in loop.tasks} == {first}
    assert loop.measure(UNSEEN).miou > 0.1


def test_a_person_accepts_a_pre_label_and_the_webhook_counts_it(
    loop: Demo, underpaint: UnderpaintServer, browser_page: Page, label_studio: LabelStudioServer, artefacts: Path
) -> None:
    task = loop.tasks[BY_HAND]
    predicted = loop.latest_prediction(task)
    underpaint.signals.take(loop.project)
    open_task(browser_page, label_studio, loop.project_id, task)
    wait_for_regions(browser_page, len(predicted["result"]))
    screenshot(browser_page, artefacts / "pre-label.png")
    submit(browser_page)
    [annotation] = underpaint.label_studio.get(f"/api/tasks/{task}/annotations/")
    assert {region["id"] for region in annotation["result"]} == {region["id"] for region in predicted["result"]}
    assert {region["origin"] for region in annotation["result"]} == {"prediction"}
    wait_until(
        browser_page,
        lambda: loop.project in underpaint.signals.pending() and underpaint.signals.pending()[loop.project].labels == 1,
        "the webhook counts the accepted label",
    )


def test_more_labels_make_a_better_champion(loop: Demo) -> None:
    before = loop.measure(UNSEEN)
    loop.accept(MORE)
    version = loop.retrain()
    loop.retrieve("from the second champion")
    after = loop.measure(UNSEEN)
    assert {loop.latest_prediction(loop.tasks[place])["model_version"] for place in UNSEEN} == {version}
    assert after.miou > before.miou
    assert after.accuracy > before.accuracy


def test_the_label_stream_serves_the_new_version(
    loop: Demo, underpaint: UnderpaintServer, browser_page: Page, label_studio: LabelStudioServer, artefacts: Path
) -> None:
    """A task that was never predicted gets its pre-label, by the champion that serves now, when the stream shows it."""
    everything = loop.tasks[:]
    for task in everything:  # so that the stream has just one task left to offer
        if not underpaint.label_studio.get(f"/api/tasks/{task}/annotations/"):
            underpaint.label_studio.create_annotation(task, [], was_cancelled=True)
    [fresh] = underpaint.label_studio.upload(loop.project_id, loop.image_path(0))["task_ids"]
    assert open_label_stream(browser_page, label_studio, loop.project_id) == fresh
    prediction = loop.latest_prediction(fresh)
    assert prediction["model_version"] == underpaint.serving()[loop.project]
    wait_for_regions(browser_page, len(prediction["result"]))
    screenshot(browser_page, artefacts / "label-stream.png")

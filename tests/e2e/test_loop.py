"""The whole loop, as an annotation team meets it: a real Label Studio, Redis, backend, worker and browser."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page
from rich.console import Console

from conftest import DATA
from e2e.browser import open_label_stream, open_task, screenshot, submit, wait_for_regions, wait_until
from integration.processes import eventually, running
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store
from underpaint.segmenter.architecture import Architecture, build
from underpaint.segmenter.encoder_weights import load_imagenet
from underpaint.serving.champions import UNTRAINED
from underpaint.settings import Settings
from underpaint.taxonomy import LANDSCAPE
from underpaint_workers.demo.label_studio import LabelStudioServer
from underpaint_workers.demo.loop import Demo
from underpaint_workers.demo.paintings import Paintings
from underpaint_workers.demo.underpaint_server import UnderpaintServer

pytestmark = pytest.mark.e2e

MONET = DATA / "monet" / "train"
# Enough to learn something in little time; the demo and the benchmarks learn properly.
OVERRIDES = {
    "UNDERPAINT_TRAIN_MINUTES": "2",
    "UNDERPAINT_RETRAIN_AFTER_LABELS": "1000",
    "UNDERPAINT_POLL_SECONDS": "1",
    "OMP_NUM_THREADS": "2",
}
FEW = range(0, 6)
MORE = range(7, 28)
BY_HAND = 6
UNSEEN = range(28, 40)
STALE = 39


@pytest.fixture(scope="module")
def console() -> Console:
    return Console(force_terminal=False, width=120)


@pytest.fixture(scope="module")
def base(make_checkpoint: Callable[..., Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a base that sees little but sky, so that whatever learns does better; its name is the version.

    The shipped one has learned from these paintings. Like it, this one is the net that the settings ask for.
    """
    card = replace(make_checkpoint(LANDSCAPE, "sky").card, architecture=Settings().architecture)
    torch.manual_seed(0)
    module = build(Architecture(name=card.architecture, encoder=card.encoder, classes=card.classes))
    load_imagenet(module.get_submodule("encoder"), card.encoder)
    with torch.no_grad():
        module.get_parameter("segmentation_head.0.weight").mul_(0.1)
        module.get_parameter("segmentation_head.0.bias")[LANDSCAPE.index("sky")] = 0.3
    store = tmp_path_factory.mktemp("base")
    return store / "checkpoints" / Store(str(store)).put(Checkpoint.from_module(module, card))


@pytest.fixture(scope="module")
def underpaint(
    label_studio: LabelStudioServer, base: Path, tmp_path_factory: pytest.TempPathFactory, console: Console
) -> Iterator[UnderpaintServer]:
    with pytest.MonkeyPatch.context() as caller:
        # Settings of whoever starts it would lock Label Studio out.
        caller.setenv("UNDERPAINT_BASIC_AUTH_USER", "somebody")
        caller.setenv("UNDERPAINT_QUEUE", "elsewhere")
        overrides = OVERRIDES | {"UNDERPAINT_BASE": str(base)}
        server = UnderpaintServer(label_studio, tmp_path_factory.mktemp("underpaint"), console, overrides)
        stack = ExitStack()
        stack.enter_context(server)
    with stack:
        yield server


@pytest.fixture(scope="module")
def loop(underpaint: UnderpaintServer, tmp_path_factory: pytest.TempPathFactory, console: Console) -> Demo:
    """A connected project of 40 paintings: real ones where the data is at hand, else painted scenes."""
    scenes = tmp_path_factory.mktemp("scenes") / "scenes"
    paintings = Paintings.of(MONET if MONET.exists() else None, scenes, console, count=len(UNSEEN) + 28)
    demo = Demo(underpaint, paintings, console)
    demo.make_project()
    return demo


def test_the_loop(
    loop: Demo,
    base: Path,
    underpaint: UnderpaintServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Connect, accept, train, swap: better pre-labels on paintings nobody accepted. The browser's part follows."""
    loop.retrieve("before any training")
    assert f"for {len(loop.tasks)} of {len(loop.tasks)} paintings" in capsys.readouterr().out
    predictions = [loop.latest_prediction(task) for task in loop.tasks]
    assert {prediction["model_version"] for prediction in predictions} == {base.name}
    assert all(prediction["result"] for prediction in predictions)
    before = loop.measure(UNSEEN)
    assert 0 < before.accuracy < 1
    loop.accept(FEW)
    first = loop.retrain()
    assert underpaint.store.champion(loop.project).version == first  # type: ignore[union-attr]
    assert underpaint.store.card(first).parent == base.name
    retrieve, reached = underpaint.label_studio.retrieve_predictions, iter([loop.tasks[:30], None])
    with monkeypatch.context() as patch:  # at first there is no time for all
        patch.setattr(underpaint.label_studio, "retrieve_predictions", lambda project: retrieve(project, next(reached)))
        loop.retrieve("from the first champion")
    assert f"for {len(loop.tasks)} of {len(loop.tasks)} paintings" in capsys.readouterr().out
    assert {loop.latest_prediction(task)["model_version"] for task in loop.tasks} == {first}
    assert loop.measure(UNSEEN).miou > 2 * before.miou


def test_a_project_whose_labels_the_base_can_not_name_has_none_until_it_maps_them(
    base: Path, underpaint: UnderpaintServer, tmp_path: Path
) -> None:
    """Its version stays "untrained", and so does what it predicts, until an admin says which classes its labels are."""
    api = underpaint.label_studio
    config = (
        '<View><Image name="image" value="$image"/>'
        '<BrushLabels name="label" toName="image"><Label value="Himmel"/></BrushLabels></View>'
    )
    project = api.post("/api/projects/", {"title": "Unnamed", "label_config": config})["id"]
    Image.new("RGB", (60, 40), (120, 150, 200)).save(tmp_path / "painting.png")
    [task] = api.upload(project, tmp_path / "painting.png")["task_ids"]
    api.add_ml_backend(project, underpaint.url, "Underpaint")
    api.retrieve_predictions(project)
    [empty] = api.predictions(task)
    assert (empty["model_version"], empty["result"]) == (UNTRAINED, [])
    api.patch(f"/api/projects/{project}/", {"label_config": config.replace("/></B", ' predicted_values="sky"/></B')})
    api.retrieve_predictions(project)
    mapped = max(api.predictions(task), key=lambda prediction: int(prediction["id"]))
    assert mapped["model_version"] == base.name
    assert mapped["result"]


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


@contextmanager
def seen(underpaint: UnderpaintServer) -> Iterator[list[dict[str, Any]]]:
    """What GET /jobs says of retrains that run while the block does."""
    found: list[dict[str, Any]] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.5):
            found.extend(job for job in underpaint_says(underpaint, "/jobs").json()["jobs"] if "run" in job)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def underpaint_says(underpaint: UnderpaintServer, path: str) -> httpx.Response:
    return httpx.get(f"{underpaint.url}{path}", timeout=10.0, trust_env=False).raise_for_status()


def test_more_labels_make_a_better_champion(loop: Demo, underpaint: UnderpaintServer) -> None:
    before = loop.measure(UNSEEN[:-1])
    first = underpaint.serving()[loop.project]
    loop.accept(MORE)
    with seen(underpaint) as jobs:
        version = loop.retrain()
    assert version != first, "the gate refused it"
    training = [job for job in jobs if job.get("stage") == "train" and "step" in job]
    assert {(job["kind"], job["status"], job["project"]) for job in training} == {("retrain", "started", loop.project)}
    steps = [job["step"] for job in training]
    assert steps == sorted(steps)
    assert steps[0] < steps[-1] <= training[-1]["steps"]
    assert training[-1].keys() >= {"epoch", "epochs", "eta_seconds", "loss", "scores", "worker", "started"}
    run = training[-1]["run"]
    assert underpaint_says(underpaint, f"/jobs/{run}").json()["version"] == version
    assert version in underpaint_says(underpaint, f"/jobs/{run}/report").text
    assert loop.measure(UNSEEN[:-1]).miou == 0  # what the old one predicted counts no more
    # One task keeps the first champion's prediction, for the label stream to renew.
    retrieved = [task for task in loop.tasks if task != loop.tasks[STALE]]
    underpaint.label_studio.retrieve_predictions(loop.project_id, retrieved)
    after = loop.measure(UNSEEN[:-1])
    assert {loop.latest_prediction(task)["model_version"] for task in retrieved} == {version}
    assert after.miou > before.miou
    assert after.accuracy > before.accuracy


def test_the_label_stream_serves_the_new_version(
    loop: Demo, underpaint: UnderpaintServer, browser_page: Page, label_studio: LabelStudioServer, artefacts: Path
) -> None:
    """A task with the old champion's pre-label shows the new one's as soon as the stream offers it."""
    stale = loop.tasks[STALE]
    for task in loop.tasks:  # so that the stream has just this task to offer
        if task != stale and not underpaint.label_studio.get(f"/api/tasks/{task}/annotations/"):
            underpaint.label_studio.create_annotation(task, [], was_cancelled=True)
    before = loop.latest_prediction(stale)
    assert before["model_version"] != underpaint.serving()[loop.project]
    assert open_label_stream(browser_page, label_studio, loop.project_id) == stale
    after = loop.latest_prediction(stale)
    assert after["model_version"] == underpaint.serving()[loop.project]
    wait_for_regions(browser_page, len(after["result"]))
    screenshot(browser_page, artefacts / "label-stream.png")
    submit(browser_page)
    [annotation] = underpaint.label_studio.get(f"/api/tasks/{stale}/annotations/")
    assert {region["id"] for region in annotation["result"]} == {region["id"] for region in after["result"]}


def test_another_terminal_reaches_it_with_the_line_that_was_printed(
    loop: Demo, label_studio: LabelStudioServer, capsys: pytest.CaptureFixture[str]
) -> None:
    loop.say_where_to_look(label_studio)
    [line] = [line for line in capsys.readouterr().out.splitlines() if "export " in line]
    script = f"{line[line.index('export ') :]}; {sys.executable} -m underpaint.cli checkpoints {loop.project_id}"
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"}
    shown = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert loop.latest_prediction(loop.tasks[STALE])["model_version"] in shown.stdout


@pytest.mark.parametrize("broken", ["nothing there", "a label map is missing", "no Label Studio"])
def test_what_a_person_can_mend_is_one_line(tmp_path: Path, broken: str) -> None:
    data = tmp_path / "data"
    if broken != "nothing there":
        (data / "images").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(data / "images" / "painting.png")
    if broken == "a label map is missing":
        (data / "classes.json").write_text('{"classes": ["sky"]}')
    command = [sys.executable, "-m", "underpaint_workers.demo", "--label-studio", str(tmp_path / "label-studio")]
    demo = subprocess.run(
        [*command, "--folder", str(tmp_path / "demo"), "--data", str(data)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert demo.returncode == 1
    assert demo.stderr.startswith("error: ")
    assert demo.stderr.count("\n") == 1


def test_the_command_goes_round_and_stops_with_its_terminal(label_studio: LabelStudioServer, tmp_path: Path) -> None:
    """On a bare image, which a person has to accept, so that it stays up at once."""
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (60, 40), (120, 150, 200)).save(images / "painting.png")
    terminal = ["env", "--default-signal=HUP"]  # as nohup, which whoever runs the tests may use, leaves it ignored
    command = [
        *terminal,
        sys.executable,
        "-m",
        "underpaint_workers.demo",
        "--label-studio",
        str(label_studio.executable),
    ]
    command += ["--template", str(label_studio.template), "--folder", str(tmp_path / "demo"), "--data", str(images)]
    with running(command, tmp_path / "demo.log", os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}) as demo:
        eventually(lambda: demo.process.poll() is not None or "Ctrl-C stops" in demo.output(), "it stays up", 120)
        assert demo.process.poll() is None, demo.output()
        addresses = set(re.findall(r"http://127\.0\.0\.1:\d+", demo.output()))
        assert len(addresses) == 2
        demo.process.send_signal(signal.SIGHUP)
        assert demo.wait() == 0
        assert "for 1 of 1 paintings" in demo.output()
        assert "Traceback" not in demo.output()
    for address in addresses:
        with pytest.raises(httpx.ConnectError):
            httpx.get(address, trust_env=False)

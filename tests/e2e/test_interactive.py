"""In the real editor, a click or a rectangle with a smart tool becomes a brush region, which Submit keeps."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Response, expect
from rich.console import Console

from e2e.browser import open_task, screenshot, submit, wait_for_regions
from underpaint.labelstudio.label_config import parse
from underpaint.labelstudio.regions import rasterise
from underpaint_workers.demo.label_studio import LabelStudioServer
from underpaint_workers.demo.underpaint_server import UnderpaintServer

pytestmark = pytest.mark.e2e

WIDTH, HEIGHT = 640, 480
# Each a part of the picture in one paint: rows and columns.
MOUNTAIN = (slice(190, 400), slice(0, 330))
KITE = (slice(40, 130), slice(420, 560))
PAINTS = {"sky": (150, 190, 230), "mountain": (120, 100, 90), "meadow": (130, 150, 60), "kite": (200, 60, 50)}
# The net has no class for a kite.
LABEL_CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image">
    <Label value="Rock" background="#ff0000"/><Label value="Kite" background="#0000ff"/>
  </BrushLabels>
  <KeyPointLabels name="point" toName="image" smart="true">
    <Label value="Rock" background="#ff0000"/><Label value="Kite" background="#0000ff"/>
  </KeyPointLabels>
  <RectangleLabels name="rectangle" toName="image" smart="true">
    <Label value="Rock" background="#ff0000"/><Label value="Kite" background="#0000ff"/>
  </RectangleLabels>
</View>
"""


def painting() -> bytes:
    """A PNG file with brushwork in it."""
    pixels = np.empty((HEIGHT, WIDTH, 3))
    pixels[:] = PAINTS["sky"]
    pixels[300:] = PAINTS["meadow"]
    pixels[MOUNTAIN], pixels[KITE] = PAINTS["mountain"], PAINTS["kite"]
    pixels += np.random.default_rng(0).normal(0, 4, pixels.shape)
    stream = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def underpaint(label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnderpaintServer]:
    """Underpaint with the base that it ships."""
    console = Console(force_terminal=False, width=120)
    with UnderpaintServer(label_studio, tmp_path_factory.mktemp("underpaint"), console) as server:
        yield server


@pytest.fixture(scope="module")
def project(underpaint: UnderpaintServer) -> int:
    api = underpaint.label_studio
    project_id = int(api.post("/api/projects/", {"title": "Interactive", "label_config": LABEL_CONFIG})["id"])
    api.add_ml_backend(project_id, underpaint.url, "Underpaint", is_interactive=True)
    return project_id


@pytest.fixture
def task(underpaint: UnderpaintServer, project: int, tmp_path: Path) -> int:
    (tmp_path / "painting.png").write_bytes(painting())
    [task_id] = underpaint.label_studio.upload(project, tmp_path / "painting.png")["task_ids"]
    return int(task_id)


def start(page: Page, server: LabelStudioServer, project_id: int, task_id: int, *, accept: bool) -> None:
    """Open the task, with auto-annotation on and with suggestions accepted at once or when a person says so."""
    open_task(page, server, project_id, task_id)
    for name, on in (("auto-annotation", True), ("auto-accept", accept)):
        toggle = page.get_by_test_id(f"bottombar-{name}-toggle")
        for _ in range(5):  # kept from task to task, but a busy machine shows it off for a moment before it is as kept
            if toggle.is_checked() != on:
                toggle.click(force=True)
            page.wait_for_timeout(200)
        expect(toggle).to_be_checked(checked=on)


def choose(page: Page, tool: str, label: str) -> None:
    """Choose a label, and the smart tool that draws it."""
    row = {"key-point": 1, "rectangle": 2}[tool]  # of the labels, as in LABEL_CONFIG
    page.locator(".lsf-labels").nth(row).get_by_text(label).click()
    page.locator(".lsf-toolbar__group > .lsf-tool_smart").hover()
    page.locator(f".lsf-toolbar__smart [aria-label={tool}-tool]").click()


def at(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the painting is on the page."""
    box = page.locator(".lsf-image img").bounding_box()
    assert box is not None, "the editor shows no image"
    return box["x"] + box["width"] * x / WIDTH, box["y"] + box["height"] * y / HEIGHT


def is_answer(response: Response) -> bool:
    return "interactive-annotating" in response.url


def click(page: Page, x: float, y: float, modifiers: Sequence[Literal["Alt"]] = ()) -> dict[str, Any]:
    """Click on a pixel of the painting; the answer of Underpaint."""
    with page.expect_response(is_answer) as answer:
        for key in modifiers:
            page.keyboard.down(key)
        page.mouse.click(*at(page, x, y))
        for key in modifiers:
            page.keyboard.up(key)
    return answer.value.json()["data"]  # type: ignore[no-any-return]


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> dict[str, Any]:
    """Drag from one pixel of the painting to another; the answer of Underpaint."""
    with page.expect_response(is_answer) as answer:
        page.mouse.move(*at(page, *start))
        page.mouse.down()
        page.wait_for_timeout(100)  # or it is taken for a click
        page.mouse.move(*at(page, *end), steps=20)
        page.wait_for_timeout(100)
        page.mouse.up()
    return answer.value.json()["data"]  # type: ignore[no-any-return]


def overlap(result: list[dict[str, Any]], label: str, part: tuple[slice, slice]) -> float:
    config = parse(LABEL_CONFIG)
    class_map, problems = rasterise(result, config)
    assert problems == []
    found, true = class_map == config.class_names.index(label), np.zeros((HEIGHT, WIDTH), bool)
    true[part] = True
    return float((found & true).sum() / (found | true).sum())


def test_a_click_and_a_rectangle_become_brush_regions(
    browser_page: Page,
    label_studio: LabelStudioServer,
    underpaint: UnderpaintServer,
    project: int,
    task: int,
    artefacts: Path,
) -> None:
    start(browser_page, label_studio, project, task, accept=True)
    choose(browser_page, "key-point", "Kite")
    kite = click(browser_page, 490, 80)["result"]
    assert wait_for_regions(browser_page, 1) == ["Kite"]
    browser_page.wait_for_timeout(500)  # the editor ignores the mouse while it takes a suggestion in
    choose(browser_page, "rectangle", "Rock")
    rock = drag(browser_page, (345, 410), (5, 180))["result"]
    try:
        assert wait_for_regions(browser_page, 2) == ["Kite", "Rock"]
    finally:
        screenshot(browser_page, artefacts / "interactive.png")

    annotation = underpaint.label_studio.get(f"/api/annotations/{submit(browser_page)}/")
    result = annotation["result"]
    assert {region["type"] for region in result} == {"brushlabels"}
    assert {region["id"] for region in result} == {region["id"] for region in [*kite, *rock]}
    assert overlap(result, "Kite", KITE) > 0.9
    assert overlap(result, "Rock", MOUNTAIN) > 0.9


def test_negative_points_count_with_positive_ones_until_the_suggestion_is_accepted(
    browser_page: Page, label_studio: LabelStudioServer, underpaint: UnderpaintServer, project: int, task: int
) -> None:
    contexts: list[Any] = []
    browser_page.on("request", lambda r: contexts.append(r.post_data_json) if "interactive-annot" in r.url else None)
    start(browser_page, label_studio, project, task, accept=False)
    choose(browser_page, "key-point", "Rock")
    first = click(browser_page, 60, 300)["result"]
    browser_page.wait_for_timeout(500)
    choose(browser_page, "key-point", "Rock")  # the editor lets go of it after each point
    second = click(browser_page, 500, 450, ["Alt"])["result"]
    points = contexts[-1]["context"]["result"]
    assert [point["is_positive"] for point in points] == [True, False]
    assert overlap(first, "Rock", MOUNTAIN) > 0.75
    assert overlap(second, "Rock", MOUNTAIN) > 0.75
    browser_page.wait_for_timeout(500)
    browser_page.get_by_test_id("bottombar-accept-suggestions-button").click()
    assert wait_for_regions(browser_page, 1) == ["Rock"]
    annotation = underpaint.label_studio.get(f"/api/annotations/{submit(browser_page)}/")
    assert [region["id"] for region in annotation["result"]] == [region["id"] for region in second]

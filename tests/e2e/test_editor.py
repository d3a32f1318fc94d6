"""Label Studio's editor shows brush, polygon and rectangle predictions, and Submit accepts them unchanged."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from label_studio_sdk.converter.brush import mask2rle
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from playwright.sync_api import Page

from e2e.browser import (
    colours_at,
    open_label_stream,
    open_task,
    screenshot,
    submit,
    submit_in_label_stream,
    wait_for_regions,
    wait_until,
)
from underpaint.labelstudio import regions
from underpaint.labelstudio.label_config import parse
from underpaint.labelstudio.label_space import LabelSpace
from underpaint.taxonomy import UNLABELLED
from underpaint_workers.demo.label_studio import LabelStudioServer

pytestmark = pytest.mark.e2e

WIDTH, HEIGHT = 320, 240
PAINTS = {"Sky": (150, 190, 230), "Mountain": (120, 100, 90), "Water": (60, 120, 140), "Meadow": (130, 150, 60)}
LABEL_COLOURS = {"Sky": (255, 0, 0), "Mountain": (0, 255, 0), "Water": (0, 0, 255)}
# Points of each band, in percent: one that its region covers, and one beside the region. Meadow has none.
COVERED = {"Sky": (30.0, 15.0), "Mountain": (25.0, 60.0), "Water": (75.0, 60.0)}
BARE = {"Sky": (30.0, 37.0), "Mountain": (6.0, 50.0), "Water": (52.0, 60.0), "Meadow": (50.0, 92.0)}
LABEL_CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image"><Label value="Sky" background="#ff0000"/></BrushLabels>
  <PolygonLabels name="polygon" toName="image"><Label value="Mountain" background="#00ff00"/></PolygonLabels>
  <RectangleLabels name="rectangle" toName="image"><Label value="Water" background="#0000ff"/></RectangleLabels>
</View>
"""


def painted_landscape() -> NDArray[np.uint8]:
    """(HEIGHT, WIDTH, 3) uint8: a band of sky, mountain beside water, a meadow in front, each in one flat paint."""
    pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:] = PAINTS["Meadow"]
    pixels[:96] = PAINTS["Sky"]
    pixels[96:204, :160] = PAINTS["Mountain"]
    pixels[96:204, 160:] = PAINTS["Water"]
    return pixels


def written_by_hand() -> list[dict[str, Any]]:
    """One region of each type, within the band that it labels."""
    sky = np.zeros((HEIGHT, WIDTH), np.uint8)
    sky[:80] = 255
    values: dict[str, tuple[str, dict[str, Any]]] = {
        "brush": ("Sky", {"format": "rle", "rle": mask2rle(sky)}),  # type: ignore[no-untyped-call]
        "polygon": ("Mountain", {"points": [[2, 82], [25, 42], [48, 82]], "closed": True}),
        "rectangle": ("Water", {"x": 55, "y": 45, "width": 40, "height": 35, "rotation": 0}),
    }
    return [
        {
            "id": f"predicted-{tool}",
            "type": f"{tool}labels",
            "from_name": tool,
            "to_name": "image",
            "original_width": WIDTH,
            "original_height": HEIGHT,
            "image_rotation": 0,
            "value": {**value, f"{tool}labels": [label]},
            "score": 0.75,
        }
        for tool, (label, value) in values.items()
    ]


def encoded() -> list[dict[str, Any]]:
    """Much the same regions, as Underpaint makes them of a class map."""
    drawing = Image.new("L", (WIDTH, HEIGHT), UNLABELLED)
    draw = ImageDraw.Draw(drawing)
    draw.rectangle((0, 0, WIDTH, 79), fill=0)
    draw.polygon([(6, 197), (80, 101), (153, 197)], fill=1)
    draw.rectangle((176, 108, 303, 191), fill=2)
    space = LabelSpace.match(parse(LABEL_CONFIG), ("Sky", "Mountain", "Water"))
    result, _ = regions.encode(np.asarray(drawing), np.full((HEIGHT, WIDTH), 191, np.uint8), space)
    return result


def label_of(region: dict[str, Any]) -> str:
    return str(region["value"][region["type"]][0])


def make_project(api: httpx.Client, tasks: int, result: list[dict[str, Any]]) -> tuple[int, list[int]]:
    """A project with the landscape as an uploaded image and ``tasks`` tasks pre-labelled with it; its id and theirs."""
    project_id = api.post("/api/projects/", json={"title": "Editor", "label_config": LABEL_CONFIG}).json()["id"]
    png = io.BytesIO()
    Image.fromarray(painted_landscape()).save(png, "PNG")
    upload = api.post(
        f"/api/projects/{project_id}/import",
        params={"commit_to_project": "false"},
        files={"file": ("landscape.png", png.getvalue(), "image/png")},
    ).json()["file_upload_ids"][0]
    image = "/data/" + api.get(f"/api/import/file-upload/{upload}").json()["file"]
    prediction = {"model_version": "by-hand", "score": 0.75, "result": result}
    task_ids = api.post(
        f"/api/projects/{project_id}/import",
        params={"return_task_ids": "true"},
        json=[{"data": {"image": image}, "predictions": [prediction]}] * tasks,
    ).json()["task_ids"]
    return project_id, task_ids


def label_opacities(page: Page) -> dict[str, float]:
    """How much of its label's colour (0 to 1) lies over each band's paint; NaN for a mixture of anything else."""
    opacities = {}
    for name, colour in LABEL_COLOURS.items():
        paint = np.array(PAINTS[name], float)
        towards_label = np.array(colour, float) - paint
        (seen,) = colours_at(page, [COVERED[name]])
        opacity = float((seen - paint) @ towards_label / (towards_label @ towards_label))
        off = np.abs(paint + opacity * towards_label - seen).max()
        opacities[name] = opacity if off < 4 else float("nan")
    return opacities


@pytest.mark.parametrize("make_regions", [written_by_hand, encoded])
def test_editor_draws_predictions_and_submit_accepts_them(
    label_studio: LabelStudioServer,
    label_studio_api: httpx.Client,
    browser_page: Page,
    artefacts: Path,
    make_regions: Callable[[], list[dict[str, Any]]],
) -> None:
    predicted = make_regions()
    assert {region["type"] for region in predicted} == {"brushlabels", "polygonlabels", "rectanglelabels"}
    project_id, (task_id,) = make_project(label_studio_api, 1, predicted)

    open_task(browser_page, label_studio, project_id, task_id)
    assert wait_for_regions(browser_page, 3) == [label_of(region) for region in predicted]
    try:
        wait_until(
            browser_page,
            lambda: all(0.1 < opacity < 0.9 for opacity in label_opacities(browser_page).values()),
            "every region is drawn in its label's colour",
        )
    finally:
        screenshot(browser_page, artefacts / f"editor-{make_regions.__name__}.png")
    bare = colours_at(browser_page, list(BARE.values())).astype(int)
    assert np.abs(bare - [PAINTS[name] for name in BARE]).max() < 4

    annotation_id = submit(browser_page)

    annotation = label_studio_api.get(f"/api/annotations/{annotation_id}/").json()
    assert annotation["task"] == task_id
    assert annotation["parent_prediction"] is not None
    assert annotation["result"] == [region | {"origin": "prediction"} for region in predicted]


def test_label_stream_goes_on_to_the_next_task(
    label_studio: LabelStudioServer, label_studio_api: httpx.Client, browser_page: Page
) -> None:
    project_id, task_ids = make_project(label_studio_api, 2, written_by_hand())

    first = open_label_stream(browser_page, label_studio, project_id)
    wait_for_regions(browser_page, 3)
    first_annotation, second = submit_in_label_stream(browser_page)
    wait_for_regions(browser_page, 3)
    second_annotation, third = submit_in_label_stream(browser_page)

    assert {first, second} == set(task_ids)
    assert third is None
    for annotation_id, task_id in [(first_annotation, first), (second_annotation, second)]:
        assert label_studio_api.get(f"/api/annotations/{annotation_id}/").json()["task"] == task_id

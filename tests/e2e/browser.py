"""Label Studio 1.23.2 in a real Chromium: what an annotator sees and presses."""

import io
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, Response, expect, sync_playwright

from underpaint_workers.demo.label_studio import LabelStudioServer

TIMEOUT = 30.0  # seconds
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_IMAGE = ".lsf-image img"  # hidden under the canvases, with their very box
_REGION_TITLES = ".lsf-outliner-item__title"
_TASK_ID = ".lsf-current-task__task-id"
_SUBMIT = "[data-testid=bottombar-submit-button]"


@contextmanager
def chromium_page(executable: Path) -> Iterator[Page]:
    """A page of 1400×900 pixels in a headless Chromium with a profile of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(_FLAGS))
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(TIMEOUT * 1000)
        try:
            yield page
        finally:
            browser.close()


def sign_in(page: Page, server: LabelStudioServer) -> None:
    """Sign in as the server's user, through the login form."""
    page.goto(f"{server.url}/user/login/")
    page.fill("#email", server.username)
    page.fill("#password", server.password)
    page.click("#login-form button[type=submit]")
    page.wait_for_url(lambda url: "/user/login" not in url)


def open_task(page: Page, server: LabelStudioServer, project_id: int, task_id: int) -> None:
    """Open one task in the data manager's editor, which starts an annotation from the latest prediction."""
    page.goto(f"{server.url}/projects/{project_id}/data?task={task_id}")
    _wait_for_task(page, task_id)


def open_label_stream(page: Page, server: LabelStudioServer, project_id: int) -> int | None:
    """Open "Label All Tasks"; the id of the task that it shows, or None when no task is left."""
    with page.expect_response(_is_next_task) as response:
        page.goto(f"{server.url}/projects/{project_id}/data?labeling=1")
    return _wait_for_offered_task(page, response.value)


def submit(page: Page) -> int:
    """Press Submit; the id of the annotation that Label Studio stored."""
    with page.expect_response(_is_new_annotation) as response:
        page.click(_SUBMIT)
    return _stored_annotation(response.value)


def submit_in_label_stream(page: Page) -> tuple[int, int | None]:
    """Press Submit in the label stream; the annotation's id, and the next task's id or None when no task is left."""
    with page.expect_response(_is_next_task) as next_task, page.expect_response(_is_new_annotation) as annotation:
        page.click(_SUBMIT)
    return _stored_annotation(annotation.value), _wait_for_offered_task(page, next_task.value)


def wait_for_regions(page: Page, count: int) -> list[str]:
    """Wait until the outliner lists ``count`` regions; their labels from top to bottom."""
    titles = page.locator(_REGION_TITLES)
    expect(titles).to_have_count(count, timeout=TIMEOUT * 1000)
    return titles.all_inner_texts()


def colours_at(page: Page, points: Sequence[tuple[float, float]]) -> NDArray[np.uint8]:
    """What the annotator sees at points of the image.

    Args:
        points: (x, y) in percent of the image, as in region JSON. They must be in view and clear of the toolbar,
            which covers the image's upper right corner.

    Returns:
        (len(points), 3) uint8, RGB.
    """
    box = page.locator(_IMAGE).bounding_box()
    assert box is not None, "the editor shows no image"
    seen = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    columns = [int(box["x"] + box["width"] * x / 100) for x, _ in points]
    rows = [int(box["y"] + box["height"] * y / 100) for _, y in points]
    return seen[rows, columns]


def wait_until(page: Page, condition: Callable[[], bool], what: str) -> None:
    """Ask ``condition`` again and again, while the page goes on, until it holds; else fail saying ``what``."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"not within {TIMEOUT:.0f} s: {what}"
        page.wait_for_timeout(100)


def screenshot(page: Page, path: Path) -> None:
    """Keep what the page shows as a PNG file."""
    page.screenshot(path=path)


def _wait_for_task(page: Page, task_id: int) -> None:
    # In the label stream the task's id is followed by its place in the stream, in an element of its own.
    page.wait_for_function(
        """([idSelector, imageSelector, taskId]) => {
            const image = document.querySelector(imageSelector);
            const shownId = document.querySelector(idSelector)?.firstChild?.textContent;
            return shownId === taskId && image?.complete && image.naturalWidth > 0;
        }""",
        arg=[_TASK_ID, _IMAGE, str(task_id)],
    )


def _wait_for_offered_task(page: Page, next_task: Response) -> int | None:
    if next_task.status == 404:
        expect(page.get_by_text("No More Tasks Left in Queue")).to_be_visible(timeout=TIMEOUT * 1000)
        return None
    task_id = int(next_task.json()["id"])
    _wait_for_task(page, task_id)
    return task_id


def _is_next_task(response: Response) -> bool:
    return "/api/dm/actions?id=next_task" in response.url


def _is_new_annotation(response: Response) -> bool:
    return response.request.method == "POST" and bool(re.search(r"/api/tasks/\d+/annotations", response.url))


def _stored_annotation(response: Response) -> int:
    assert response.status == 201, f"Label Studio answered Submit with {response.status}: {response.text()}"
    return int(response.json()["id"])

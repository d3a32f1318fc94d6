"""The tab that shows contradicted labels, in a real Label Studio: as its API tells it and as a browser shows it."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

from underpaint.labelstudio.client import LabelStudio
from underpaint_workers.demo.label_studio import LabelStudioServer
from underpaint_workers.label_quality import TAB, show_tab

pytestmark = pytest.mark.e2e

LABEL_CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image"><Label value="Water"/><Label value="Sky"/></BrushLabels>
</View>
"""


@pytest.fixture
def project(client: LabelStudio) -> Iterator[tuple[int, list[int]]]:
    """A project's id, and those of its five tasks."""
    number = client.post("/api/projects/", {"title": "quality", "label_config": LABEL_CONFIG})["id"]
    tasks = [{"data": {"image": f"/static/icons/favicon.png?{index}"}} for index in range(5)]
    yield number, client.import_tasks(number, tasks)["task_ids"]
    client._request("DELETE", f"/api/projects/{number}/")


def shown(client: LabelStudio, number: int) -> dict[str, list[int]]:
    """The tasks that each tab shows, by its title."""
    tabs = client.get("/api/dm/views/", project=number)
    return {
        tab["data"]["title"]: [task["id"] for task in client.get("/api/tasks/", view=tab["id"])["tasks"]]
        for tab in tabs
    }


def untouched(client: LabelStudio, number: int) -> list[Any]:
    return [(task["id"], task["updated_at"], task["data"]) for task in client.tasks(number)]


def test_the_tab_shows_the_tasks_and_touches_none(client: LabelStudio, project: tuple[int, list[int]]) -> None:
    number, tasks = project
    before = untouched(client, number)
    show_tab(client, number, [])
    assert TAB not in shown(client, number)
    show_tab(client, number, [tasks[3], tasks[1]])
    assert shown(client, number)[TAB] == [tasks[1], tasks[3]]
    show_tab(client, number, [tasks[4]])
    assert shown(client, number)[TAB] == [tasks[4]]
    show_tab(client, number, [])
    assert shown(client, number)[TAB] == []
    assert untouched(client, number) == before


def test_a_person_finds_the_tab(
    client: LabelStudio,
    label_studio: LabelStudioServer,
    browser_page: Page,
    project: tuple[int, list[int]],
) -> None:
    number, tasks = project
    show_tab(client, number, tasks[:2])
    browser_page.goto(f"{label_studio.url}/projects/{number}/data")
    browser_page.get_by_text(TAB).first.click()
    browser_page.get_by_text("Tasks: 2 / 5").wait_for()
    [hidden] = [tab["data"]["hiddenColumns"] for tab in client.get("/api/dm/views/", project=number) if TAB in str(tab)]
    assert "tasks:inner_id" in hidden["explore"], "it hides what Label Studio's own tab does"
    assert not {"tasks:image", "tasks:id"} & {*hidden["explore"]}

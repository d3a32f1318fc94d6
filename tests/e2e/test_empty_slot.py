"""What Label Studio makes of a slot that a deadline left empty."""

import json

import pytest

from http_server import Answer, Request, serve
from underpaint.labelstudio.client import LabelStudio

pytestmark = pytest.mark.e2e

CONFIG = (
    '<View><Image name="image" value="$image"/>'
    '<BrushLabels name="label" toName="image"><Label value="sky"/></BrushLabels></View>'
)
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


def test_a_task_that_was_not_reached_is_asked_for_again(client: LabelStudio) -> None:
    """The answer that ``Predictor.predict`` gives for it, an empty list, stores nothing and hides nothing."""
    asked: list[list[int]] = []

    def backend(request: Request) -> Answer:
        answers: dict[str, object] = {"/health": {"status": "UP"}, "/setup": {"model_version": "v1"}}
        if request.path == "/predict":
            tasks = [task["id"] for task in json.loads(request.body)["tasks"]]
            asked.append(tasks)
            reached = {"result": [], "score": 0.5, "model_version": "v1"}
            answers["/predict"] = {"results": [reached, *([] for _ in tasks[1:])]}
        body = json.dumps(answers.get(request.path, {})).encode()
        return Answer(body, headers={"Content-Type": "application/json"})

    project = client.post("/api/projects/", {"title": "Deadline", "label_config": CONFIG})["id"]
    first, second, third = client.import_tasks(project, [{"data": {"image": PIXEL}}] * 3)["task_ids"]
    with serve(backend) as server:
        client.add_ml_backend(project, server.url, "Slow")
        client.retrieve_predictions(project)
        assert [len(client.predictions(task)) for task in (first, second, third)] == [1, 0, 0]
        client.retrieve_predictions(project)
        assert [len(client.predictions(task)) for task in (first, second, third)] == [1, 1, 0]
    assert asked == [[first, second, third], [second, third]]

"""A project in Label Studio, and what people and scripts do to its labels."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from underpaint.labelstudio.client import LabelStudio
from underpaint.project import key_of

HEIGHT, WIDTH = 24, 32
CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image">'
    '<Label value="Sky"/><Label value="Water"/></RectangleLabels></View>'
)
EVERYTHING = {"all": True, "excluded": []}


@dataclass(frozen=True)
class Project:
    client: LabelStudio
    id: int
    key: str
    settings: dict[str, Any]
    """As Label Studio serialises the project."""

    @classmethod
    def new(cls, client: LabelStudio) -> "Project":
        settings = client.post("/api/projects/", {"title": "Faults", "label_config": CONFIG})
        return cls(client, settings["id"], key_of(settings), settings)

    def add(self, count: int, **more: Any) -> list[int]:
        """Import paintings, each other than all before; ``more`` are fields of the tasks, such as ``annotations``."""
        tasks = [{"data": {"image": _painting()}, **more} for _ in range(count)]
        return [int(id_) for id_ in self.client.import_tasks(self.id, tasks)["task_ids"]]

    def accept(self, tasks: Sequence[int], label: str = "Sky") -> None:
        for task in tasks:
            self.client.create_annotation(task, regions(label))

    def act(self, action: str, tasks: Sequence[int] | None = None) -> None:
        """Do what the data manager's menu does to some tasks, or to all."""
        selected = EVERYTHING if tasks is None else {"all": False, "included": list(tasks)}
        self.client.post("/api/dm/actions/", {"ordering": [], "selectedItems": selected}, id=action, project=self.id)

    def labels(self) -> dict[int, int]:
        """By task, the annotation that counts, as Label Studio tells it one task after the other."""
        found = {}
        for task in self.client.task_ids(self.id):
            annotations = self.client.get(f"/api/tasks/{task}/annotations/")
            if annotations:
                found[task] = max(annotation["id"] for annotation in annotations)
        return found


def regions(label: str) -> list[dict[str, Any]]:
    value = {"x": 0, "y": 0, "width": 100, "height": 50, "rotation": 0, "rectanglelabels": [label]}
    region = {"id": "upper", "type": "rectanglelabels", "from_name": "box", "to_name": "image", "value": value}
    return [region | {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}]


_random = np.random.default_rng(0)


def _painting() -> str:
    """A small painting of noise as a data URI."""
    file = io.BytesIO()
    Image.fromarray(_random.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

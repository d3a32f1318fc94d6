"""What the project's label config does to what was learned, edited in a real Label Studio as an admin edits it."""

import base64
import io
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from underpaint.labelstudio import rle
from underpaint.labelstudio.client import LabelStudio, LabelStudioError
from underpaint.labelstudio.label_config import parse
from underpaint.project import key_of
from underpaint.serving.backend import Backend
from underpaint.serving.predictor import Call
from underpaint.settings import Settings
from underpaint.signals import Signals
from underpaint_workers.manifest import Manifest
from underpaint_workers.reconcile import Difference, difference
from underpaint_workers.retraining import Retraining
from underpaint_workers.snapshot import is_validation

pytestmark = pytest.mark.e2e

SIDE = 32
BRUSH = '<BrushLabels name="surface" toName="image">{}</BrushLabels>'
# Label Studio lets a control that has regions change its type only where the config keeps the old one elsewhere.
POLYGON = (
    '<PolygonLabels name="surface" toName="image">{}</PolygonLabels>'
    '<BrushLabels name="touch" toName="image"><Label value="Water"/></BrushLabels>'
)
SKY, WATER, BOAT = ('<Label value="Sky"/>', '<Label value="Water"/>', '<Label value="Boat"/>')
HEAVEN = '<Label value="Heaven" predicted_values="Sky"/>'


@dataclass
class Project:
    client: LabelStudio
    id: int
    key: str
    backend: Backend
    retraining: Retraining

    def configure(self, control: str, *labels: str) -> None:
        config = f'<View><Image name="image" value="$image"/>{control.format("".join(labels))}</View>'
        self.client.patch(f"/api/projects/{self.id}/", {"label_config": config})

    def retrain(self) -> dict[str, Any]:
        return self.retraining.run()

    def difference(self) -> Difference:
        seen = Manifest.read(self.retraining.store, self.key)
        return difference(self.client, self.id, seen, self.retraining.settings)

    def predict(self) -> tuple[set[tuple[str, str]], str]:
        """What is predicted on its tasks now, as (control, label), and why nothing is."""
        config = parse(self.client.project(self.id)["label_config"])
        self.backend.champions.refresh(self.key)
        tasks = [task for page in self.client.annotated_tasks(self.id) for task in page]
        slots, _ = self.backend.predict(Call(self.key, tasks, config, time.monotonic() + 60))
        found = set()
        for slot in slots:
            assert isinstance(slot, dict)
            for region in slot["result"]:
                found.add((region["from_name"], region["value"][region["type"]][0]))
        [reason] = {slot.get("reason", "") for slot in slots if isinstance(slot, dict)}
        return found, reason

    def row(self, name: str) -> torch.Tensor:
        """The champion's weights for one class."""
        promotion = self.retraining.store.champion(self.key)
        assert promotion is not None
        champion = self.retraining.store.get(promotion.version)
        weights: torch.Tensor = champion.module().state_dict()["segmentation_head.0.weight"]
        return weights[champion.card.classes.index(name)].flatten()


@pytest.fixture
def project(client: LabelStudio, settings: Settings, signals: Signals) -> Project:
    """A project with two accepted paintings: sky over water, as a brush has them."""
    quick = settings.model_copy(
        update={
            **{"label_studio_url": client.url, "label_studio_token": client.headers()["Authorization"].split()[1]},
            **{"base": "none", "image_size": 64, "train_epochs": 1, "train_min_steps": 1, "train_strategy": "head"},
        }
    )
    backend = Backend(quick)
    config = f'<View><Image name="image" value="$image"/>{BRUSH.format(SKY + WATER)}</View>'
    made = client.post("/api/projects/", {"title": "Label config", "label_config": config})
    key = key_of(made)
    upper, lower = np.zeros((2, SIDE, SIDE), bool)
    upper[: SIDE // 2] = lower[SIDE // 2 :] = True
    result = [
        {
            **{"id": label, "type": "brushlabels", "from_name": "surface", "to_name": "image", "image_rotation": 0},
            **{"original_width": SIDE, "original_height": SIDE},
            "value": {"format": "rle", "rle": rle.encode(mask), "brushlabels": [label]},
        }
        for label, mask in (("Sky", upper), ("Water", lower))
    ]
    files = [file for seed in range(9) if not is_validation(file := painting(seed, lower))][:2]
    tasks = [{"data": {"image": f"data:image/png;base64,{base64.b64encode(file).decode()}"}} for file in files]
    for task in client.import_tasks(made["id"], tasks)["task_ids"]:
        client.create_annotation(task, result)
    return Project(client, made["id"], key, backend, Retraining(key, quick, backend.store, signals))


def painting(seed: int, lower: Any) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 40, (SIDE, SIDE, 3))
    file = io.BytesIO()
    Image.fromarray((np.where(lower[..., None], 20, 200) + noise).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_what_was_learned_outlives_every_change_of_the_label_config(project: Project) -> None:
    assert project.retrain()["stage"] == "promoted"
    before = project.row("Sky")
    _, reason = project.predict()
    assert reason == ""

    # Another colour, another tool: nothing to learn.
    project.configure(BRUSH, SKY.replace("/>", ' background="#8ecae6"/>'), WATER)
    assert project.difference() == Difference()
    with pytest.raises(LabelStudioError, match="incompatible"):
        project.configure(BRUSH.replace("Brush", "Polygon"), SKY, WATER)
    project.configure(POLYGON, SKY, WATER)
    assert project.difference() == Difference()
    record = project.retrain()
    assert (record["stage"], record["training"], record["problems"]) == ("unchanged", 2, [])
    found, _ = project.predict()
    assert found <= {("surface", "Sky"), ("surface", "Water"), ("touch", "Water")}

    # One renamed, one added.
    project.configure(POLYGON, HEAVEN, WATER, BOAT)
    assert {label for _, label in project.predict()[0]} <= {"Heaven", "Water"}
    assert project.difference() == Difference(rules=True)
    record = project.retrain()
    assert (record["stage"], record["training"], record["new_labels"]) == ("promoted", 2, ["Boat"])
    [problem] = record["problems"]
    assert problem.endswith("Regions labelled 'Sky', which is no label any more, count as 'Heaven'.")
    assert project.difference() == Difference()
    # In one step, a weight moves by no more than the rate.
    assert torch.allclose(project.row("Heaven"), before, atol=2e-3)
    assert not torch.allclose(project.row("Boat"), before, atol=2e-3)
    assert project.predict()[1] == ""

    # One removed, from one control and from the other.
    project.configure(POLYGON, HEAVEN, BOAT)
    assert {label for _, label in project.predict()[0]} <= {"Heaven", "Water", "Boat"}
    project.configure(BRUSH, HEAVEN, BOAT)
    assert {label for _, label in project.predict()[0]} <= {"Heaven", "Boat"}
    record = project.retrain()
    assert (record["stage"], record["training"], record["unused_classes"]) == ("promoted", 2, ["Water"])
    assert "Regions labelled 'Water' are left out" in record["problems"][1]
    assert torch.allclose(project.row("Heaven"), before, atol=4e-3)

    # And back to where it began.
    project.configure(BRUSH, SKY, WATER)
    found, reason = project.predict()
    assert found == set()
    assert "Sky, Water. The model's classes: Heaven, Boat" in reason
    record = project.retrain()
    assert (record["stage"], record["new_labels"], record["problems"]) == ("promoted", ["Sky", "Water"], [])
    assert project.predict()[1] == ""
    assert project.retrain()["stage"] == "unchanged"

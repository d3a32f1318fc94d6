"""The peer: the base segmenter in a label-studio-ml model, written as label-studio-ml's own examples are.

One task after the other: ``get_local_path``, Pillow, a resize, a forward pass in float32, and label-studio-sdk's brush
encoder. ``label-studio-ml init`` copies this file, so it needs nothing beside it.
"""

from typing import Any
from uuid import uuid4

import numpy as np
import torch
from label_studio_ml.model import LabelStudioMLBase
from label_studio_sdk.converter import brush
from PIL import Image

from underpaint import base

STRIDE = 32  # the net takes sides that are multiples of it
IMAGE_SIZE = 320


class Peer(LabelStudioMLBase):  # type: ignore[misc]
    """Predicts a brush region for each class that it sees."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not self.parsed_label_config:  # 1.0.9 also makes one before Label Studio has said anything
            return
        self.from_name, control = next(iter(self.parsed_label_config.items()))
        self.to_name = control["to_name"][0]
        self.value = control["inputs"][0]["value"]
        checkpoint = base.load()
        assert checkpoint is not None
        self.card = checkpoint.card
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = checkpoint.module().to(self.device)

    def predict(self, tasks: list[dict[str, Any]], **kwargs: Any) -> list[dict[str, Any]]:
        return [self._predict_one(task) for task in tasks]

    def _predict_one(self, task: dict[str, Any]) -> dict[str, Any]:
        image = Image.open(self.get_local_path(task["data"][self.value])).convert("RGB")
        width, height = image.size
        scale = IMAGE_SIZE / max(width, height)
        small_width, small_height = (max(1, round(side * scale / STRIDE)) * STRIDE for side in (width, height))
        pixels = np.asarray(image.resize((small_width, small_height)), np.float32) / 255
        pixels = (pixels - np.array(self.card.mean, np.float32)) / np.array(self.card.std, np.float32)
        batch = torch.from_numpy(pixels.transpose(2, 0, 1)[None]).to(self.device)
        with torch.no_grad():
            logits = self.model(batch)
            logits = torch.nn.functional.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
            confidence, classes = (each.cpu().numpy() for each in logits[0].softmax(dim=0).max(dim=0))
        result = [
            self._region((classes == index), float(confidence[classes == index].mean()), name, width, height)
            for index, name in enumerate(self.card.classes)
            if (classes == index).any()
        ]
        return {"result": result, "score": float(confidence.mean())}

    def _region(self, mask: Any, score: float, label: str, width: int, height: int) -> dict[str, Any]:
        return {
            "id": uuid4().hex[:10],
            "from_name": self.from_name,
            "to_name": self.to_name,
            "type": "brushlabels",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {
                "format": "rle",
                "rle": brush.mask2rle(mask.astype(np.uint8) * 255),  # type: ignore[no-untyped-call]
                "brushlabels": [label],
            },
            "score": score,
        }

"""A region for what a person draws in the editor, there where the net's own answer isn't good enough."""

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from underpaint.labelstudio import regions
from underpaint.labelstudio.decoding import Picture
from underpaint.labelstudio.geometry import Mask
from underpaint.labelstudio.label_space import LabelSpace, Target
from underpaint.labelstudio.prompt import Prompt
from underpaint.segmenter.channels import Image
from underpaint.segmenter.segmenter import Segmenter, fit, resize
from underpaint.serving.cutout import refine_region
from underpaint.taxonomy import UNLABELLED

Prediction = dict[str, Any]

_KEPT_SIDE = 640  # pixels on the longer side of what is kept of an image
_KEPT_BYTES = 128_000_000  # some sixty images at 320 pixels
_KNOWN_SECONDS = 600.0  # for which an address is taken to lead to the same file
_KNOWN_ADDRESSES = 4096


@dataclass(frozen=True, eq=False)
class _Scene:
    """What is kept of an image that a person works on."""

    pixels: NDArray[np.uint8]
    """(h, w, 3) RGB."""
    probabilities: NDArray[np.float16]
    """(classes, h, w), 0–1."""
    shape: tuple[int, int]
    """The image's natural size (H, W)."""

    @property
    def bytes(self) -> int:
        return self.pixels.nbytes + self.probabilities.nbytes


class Interactive:
    """Answers what is drawn in the editor. Images seen lately cost neither a download nor a pass; thread-safe."""

    def __init__(self, max_bytes: int = _KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._scenes: OrderedDict[tuple[str, str], _Scene] = OrderedDict()
        self._digests: OrderedDict[tuple[str, Hashable], tuple[str, float]] = OrderedDict()
        self._lock = threading.Lock()

    def answer(
        self,
        prompt: Prompt,
        address: tuple[str, Hashable],
        space: LabelSpace,
        segmenter: Segmenter,
        fetch: Callable[[], bytes],
        decode: Callable[[bytes], Picture],
        look: Callable[[Image], NDArray[np.float32]],
    ) -> Prediction:
        """A prediction: one region of the prompt's label, by the prompt's control; several where that has no holes.

        Args:
            prompt: what was drawn.
            address: URL of the image, and the task's id: for some minutes, the file is taken to be the same.
            space: which of the segmenter's classes are the label; it need not know the label at all.
            segmenter: who looks.
            fetch: gets the image's file; whatever it raises comes through.
            decode: makes a picture of the file; likewise.
            look: gives the segmenter's probabilities (classes, h, w) of a prepared image; likewise.
        """
        scene = self._scene(address, segmenter, fetch, decode, look)
        class_ids = next(
            (
                tuple(sorted(target.class_ids))
                for target in space.targets
                if (target.control.name, target.label.value) == (prompt.control.name, prompt.label)
            ),
            (),
        )
        probabilities = scene.probabilities.astype(np.float32)
        mask = refine_region(probabilities, scene.pixels, class_ids, prompt)
        score = float(probabilities[list(class_ids)].sum(axis=0)[mask].mean()) if mask.any() else 0.0
        result = _encode(_enlarge(mask, scene.shape), score, prompt, space)
        return {"result": result, "score": score, "model_version": segmenter.version}

    def _scene(
        self,
        address: tuple[str, Hashable],
        segmenter: Segmenter,
        fetch: Callable[[], bytes],
        decode: Callable[[bytes], Picture],
        look: Callable[[Image], NDArray[np.float32]],
    ) -> _Scene:
        file = None
        with self._lock:
            digest, since = self._digests.get(address, ("", -math.inf))
            known = time.monotonic() - since < _KNOWN_SECONDS
        if not known:
            file = fetch()
            digest = hashlib.blake2b(file).hexdigest()
        with self._lock:
            if not known:
                self._digests[address] = digest, time.monotonic()
                while len(self._digests) > _KNOWN_ADDRESSES:
                    self._digests.popitem(last=False)
            scene = self._scenes.get((digest, segmenter.version))
            if scene is not None:
                self._scenes.move_to_end((digest, segmenter.version))
                return scene
        picture = decode(fetch() if file is None else file)
        scene = _scene_of(picture, look(segmenter.prepare(picture.pixels, picture.shape)))
        with self._lock:
            self._scenes[digest, segmenter.version] = scene
            while len(self._scenes) > 1 and sum(each.bytes for each in self._scenes.values()) > self._max_bytes:
                self._scenes.popitem(last=False)
        return scene


def _scene_of(picture: Picture, probabilities: NDArray[np.float32]) -> _Scene:
    pixels = fit(picture.pixels, min(_KEPT_SIDE, max(probabilities.shape[1:])))
    # The net sees it stretched to multiples of its stride; what people draw on is not.
    small = resize(probabilities.transpose(1, 2, 0), pixels.shape[0], pixels.shape[1])
    return _Scene(np.asarray(pixels, np.uint8), small.transpose(2, 0, 1).astype(np.float16), picture.shape)


def _enlarge(mask: Mask, shape: tuple[int, int]) -> Mask:
    """`mask` at the size `shape` (H, W), its steps smoothed away."""
    soft = cv2.GaussianBlur(mask.astype(np.uint8) * np.uint8(255), (0, 0), 0.8)
    enlarged: Mask = cv2.resize(soft, shape[::-1], interpolation=cv2.INTER_LINEAR) > 127
    if enlarged.any() or not mask.any():
        return enlarged
    return np.asarray(cv2.resize(mask.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST) > 0)


def _encode(mask: Mask, score: float, prompt: Prompt, space: LabelSpace) -> list[regions.Region]:
    """`mask` as regions of the prompt's label, however unsure the net is; specks only where there is nothing else."""
    label = next(label for label in prompt.control.labels if label.value == prompt.label)
    class_map = np.where(mask, np.uint8(0), np.uint8(UNLABELLED))
    confidence = np.full(mask.shape, round(255 * score), np.uint8)
    for min_area in (prompt.control.options.min_area, 0.0):
        options = replace(prompt.control.options, score_threshold=0.0, min_area=min_area)
        target = Target(replace(prompt.control, options=options), label, frozenset({0}))
        asked = replace(space, classes=(prompt.label,), targets=(target,))
        result, _ = regions.encode(class_map, confidence, asked, prompt.control.image_key)
        if result:
            return result
    return []

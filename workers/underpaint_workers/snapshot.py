"""Accepted annotations, pulled from Label Studio, as a fixed and fingerprinted training set."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from underpaint.labelstudio.client import LabelStudio
from underpaint.labelstudio.images import ImageError, ImageFetcher, decode
from underpaint.labelstudio.label_config import LabelConfig, parse
from underpaint.labelstudio.regions import rasterise
from underpaint.settings import Settings
from underpaint.taxonomy import UNLABELLED
from underpaint_workers import dataset
from underpaint_workers.augmentation import SCALES, shrink
from underpaint_workers.manifest import BACKGROUND as BACKGROUND
from underpaint_workers.manifest import Entry, Manifest, accepted, classes_of, rules_of

log = logging.getLogger(__name__)

VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class Painting:
    """One painting of a snapshot: its name in the data set, and a hash of its file and its class map."""

    name: str
    digest: str
    is_validation: bool


@dataclass(frozen=True)
class Snapshot:
    """The exact labels that one retrain sees: a data set folder, and who is kept back for validation."""

    folder: Path
    classes: tuple[str, ...]
    paintings: tuple[Painting, ...]
    problems: tuple[str, ...]
    manifest: Manifest = field(default_factory=Manifest)
    """What Label Studio held, labels that can't be read included."""

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change with any label, painting or class."""
        parts = [*self.classes, *sorted(painting.digest for painting in self.paintings)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]

    def names(self, *, validation: bool) -> list[str]:
        return [painting.name for painting in self.paintings if painting.is_validation == validation]


def is_validation(image: bytes) -> bool:
    """Whether a painting is kept back for validation: decided by a hash of its file, so that it never moves.

    Not even when the same painting is imported again under another task id.
    """
    return hashlib.sha256(image).digest()[0] < 256 * VALIDATION_SHARE


def take(
    label_studio: LabelStudio,
    project_id: int,
    folder: Path,
    settings: Settings,
    check: Callable[[], None] = lambda: None,
) -> Snapshot:
    """Pull a project's accepted labels into ``folder`` as a data set.

    A painting that can't be fetched or whose regions can't be read is left out and named in ``problems``; it loses
    nothing in Label Studio. ``check`` is called for every task; what it raises ends the pulling. Raises
    ``LabelConfigError`` or ``LabelStudioError``.
    """
    config = parse(label_studio.project(project_id)["label_config"])
    classes = classes_of(config, settings)
    latest = label_studio.latest_change(project_id)  # before the labels, so that none is made between the two
    maker = _Maker(config, ImageFetcher(settings, label_studio), folder, classes, settings, check)
    made: list[tuple[list[Painting], list[str]]] = []
    entries: dict[int, Entry] = {}
    with ThreadPoolExecutor(settings.fetch_concurrency) as pool:
        for page in label_studio.annotated_tasks(project_id):
            entries |= {task["id"]: Entry.of(task, config, settings) for task in page}
            made += pool.map(maker.make, page)
    paintings = sorted((painting for found, _ in made for painting in found), key=lambda painting: painting.name)
    problems = [problem for _, found in made for problem in found]
    for problem in problems:
        log.warning(problem)
    dataset.write_classes(folder, classes)
    manifest = Manifest(latest, rules_of(config, settings), entries)
    return Snapshot(folder, classes, tuple(paintings), tuple(problems), manifest)


@dataclass(frozen=True)
class _Maker:
    """Turns one annotated task into paintings of the data set."""

    config: LabelConfig
    fetcher: ImageFetcher
    folder: Path
    classes: tuple[str, ...]
    settings: Settings
    check: Callable[[], None]

    def make(self, task: Mapping[str, Any]) -> tuple[list[Painting], list[str]]:
        self.check()
        annotation = accepted(task, self.settings.ground_truth_only)
        if annotation is None:
            return [], []
        paintings, problems = [], []
        for key in self.config.image_keys:
            try:
                painting, found = self._paint(task, annotation, key)
            except ImageError as error:
                problems.append(str(error))  # which names the task
                continue
            paintings += [painting] if painting else []
            problems += [f"task {task['id']}: {problem}" for problem in found]
        return paintings, problems

    def _paint(
        self, task: Mapping[str, Any], annotation: Mapping[str, Any], key: str
    ) -> tuple[Painting | None, Iterable[str]]:
        file = self.fetcher.fetch_bytes(str(task["data"].get(key) or ""), task["id"])
        image = decode(file, self.settings.max_image_pixels, f"task {task['id']}")
        class_map, problems = rasterise(annotation["result"], self.config, (image.shape[0], image.shape[1]), key)
        if self.settings.unlabelled_is_background:
            class_map[class_map == UNLABELLED] = self.classes.index(BACKGROUND)
        if np.all(class_map == UNLABELLED):
            return None, problems
        name = f"task-{task['id']}-{key}"
        # Training makes no use of finer detail, and a project's scans at their natural size may fill a disk.
        limit = round(self.settings.image_size * SCALES[1])
        dataset.write_item(self.folder, name, *shrink((image, class_map), limit))
        digest = hashlib.sha256(file)
        digest.update(class_map.tobytes())
        return Painting(name, digest.hexdigest(), is_validation(file)), problems

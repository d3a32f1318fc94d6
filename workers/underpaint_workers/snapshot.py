"""Accepted annotations, pulled from Label Studio, as a fixed and fingerprinted training set."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from underpaint.labelstudio.client import LabelStudio
from underpaint.labelstudio.images import ImageError, ImageFetcher, decode
from underpaint.labelstudio.label_config import Label, LabelConfig, parse
from underpaint.labelstudio.regions import rasterise
from underpaint.settings import Settings
from underpaint.taxonomy import UNLABELLED
from underpaint_workers import dataset
from underpaint_workers.augmentation import SCALES, shrink
from underpaint_workers.manifest import BACKGROUND as BACKGROUND
from underpaint_workers.manifest import Entry, Manifest, accepted, labels_of, rules_of

log = logging.getLogger(__name__)

VALIDATION_SHARE = 0.2
NAMED_TASKS = 10
"""Tasks that are named where more have the same problem."""

_Problem = tuple[int | None, str]
"""A task's id, and what is wrong with it in a sentence; without an id where the sentence names it."""


@dataclass(frozen=True)
class Painting:
    """One painting of a snapshot."""

    name: str
    """Its name in the data set."""
    digest: str
    """Changes with its file, and with what is labelled where on it; not with labels that it doesn't have."""
    is_validation: bool


@dataclass(frozen=True)
class Snapshot:
    """The exact labels that one retrain sees: a data set folder, and who is kept back for validation."""

    folder: Path
    labels: tuple[Label, ...]
    """The project's; a label's position is its class id."""
    paintings: tuple[Painting, ...]
    problems: tuple[str, ...]
    """A sentence on each label that was left out, or read otherwise, and the tasks."""
    manifest: Manifest = field(default_factory=Manifest)
    """What Label Studio held, labels that can't be read included."""

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(label.value for label in self.labels)

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change with any label, painting or class, and not with the order of any."""
        parts = [*sorted(self.classes), *sorted(painting.digest for painting in self.paintings)]
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
    labels = labels_of(config, settings)
    classes = tuple(label.value for label in labels)
    latest = label_studio.latest_change(project_id)  # before the labels, so that none is made between the two
    maker = _Maker(config, ImageFetcher(settings, label_studio), folder, classes, settings, check)
    made: list[tuple[list[Painting], list[_Problem]]] = []
    entries: dict[int, Entry] = {}
    with ThreadPoolExecutor(settings.fetch_concurrency) as pool:
        for page in label_studio.annotated_tasks(project_id):
            entries |= {task["id"]: Entry.of(task, config, settings) for task in page}
            made += pool.map(maker.make, page)
    paintings = sorted((painting for found, _ in made for painting in found), key=lambda painting: painting.name)
    problems = _sentences(problem for _, found in made for problem in found)
    for problem in problems:
        log.warning(problem)
    dataset.write_classes(folder, classes)
    manifest = Manifest(latest, rules_of(config, settings), entries)
    return Snapshot(folder, labels, tuple(paintings), tuple(problems), manifest)


def _sentences(problems: Iterable[_Problem]) -> list[str]:
    """The problems with their tasks; what is the same for many is said once."""
    found: dict[str, list[int]] = {}
    for task, problem in problems:
        found.setdefault(problem, []).extend([] if task is None else [task])
    return [f"{_named(tasks)}: {problem}" if tasks else problem for problem, tasks in found.items()]


def _named(tasks: Sequence[int]) -> str:
    if len(tasks) == 1:
        return f"task {tasks[0]}"
    more = f" and {len(tasks) - NAMED_TASKS} more" if len(tasks) > NAMED_TASKS else ""
    return f"tasks {', '.join(map(str, tasks[:NAMED_TASKS]))}{more}"


@dataclass(frozen=True)
class _Maker:
    """Turns one annotated task into paintings of the data set."""

    config: LabelConfig
    fetcher: ImageFetcher
    folder: Path
    classes: tuple[str, ...]
    settings: Settings
    check: Callable[[], None]

    def make(self, task: Mapping[str, Any]) -> tuple[list[Painting], list[_Problem]]:
        self.check()
        annotation = accepted(task, self.settings.ground_truth_only)
        if annotation is None:
            return [], []
        paintings: list[Painting] = []
        problems: list[_Problem] = []
        for key in self.config.image_keys:
            try:
                painting, found = self._paint(task, annotation, key)
            except ImageError as error:
                problems.append((None, str(error)))  # which names the task
                continue
            paintings += [painting] if painting else []
            problems += [(task["id"], problem) for problem in found]
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
        return Painting(name, _digest(file, class_map, self.classes), is_validation(file)), problems


def _digest(file: bytes, class_map: NDArray[np.uint8], classes: Sequence[str]) -> str:
    """A hash of a painting and its labels that other labels of the project, and the order of all, don't change."""
    present = sorted((classes[class_id], class_id) for class_id in np.unique(class_map) if class_id != UNLABELLED)
    ids = np.full(256, UNLABELLED, np.uint8)
    for position, (_, class_id) in enumerate(present):
        ids[class_id] = position
    digest = hashlib.sha256(file)
    digest.update(json.dumps([name for name, _ in present]).encode())
    digest.update(ids[class_map].tobytes())
    return digest.hexdigest()

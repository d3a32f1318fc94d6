"""What a snapshot saw in Label Studio, task by task, so that it can be told what is new since."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from underpaint.checkpoints.store import Store
from underpaint.labelstudio.label_config import Label, LabelConfig
from underpaint.settings import Settings

log = logging.getLogger(__name__)

NAME = "manifest.json"
BACKGROUND = "background"


@dataclass(frozen=True)
class Entry:
    """One task's label, as a snapshot sees it."""

    digest: str
    """Changes with the regions and the image; empty where the task has no label to learn from."""
    annotation: int | None
    """Id of the annotation that is learned from."""
    updated_at: str
    annotations: int
    """The task's annotations that are not cancelled."""

    @classmethod
    def of(cls, task: Mapping[str, Any], config: LabelConfig, settings: Settings) -> "Entry":
        """The entry of a task as Label Studio exports it."""
        annotation = accepted(task, settings.ground_truth_only)
        count = sum(not each.get("was_cancelled") for each in task.get("annotations", []))
        if annotation is None:
            return cls("", None, "", count)
        learned = [[task["data"].get(key) for key in config.image_keys], annotation["result"]]
        digest = hashlib.sha256(json.dumps(learned, sort_keys=True).encode()).hexdigest()[:16]
        return cls(digest, annotation["id"], str(annotation.get("updated_at")), count)


@dataclass(frozen=True)
class Manifest:
    """What one retrain's snapshot held, and what was learned last."""

    latest: str = ""
    """When anything in the project had last changed before the snapshot, by Label Studio's clock (ISO 8601)."""
    rules: tuple[str, ...] = ()
    """The labels, and the settings that decide what is learned from an annotation; see `rules_of`."""
    tasks: Mapping[int, Entry] = field(default_factory=dict)
    """By task id, every task with an annotation."""
    fingerprint: str = ""
    """Of the snapshot that was last trained on, which is this one unless nothing could be learned from it."""
    settings: str = ""
    """Fingerprint of how it was trained."""
    mapping: str = ""
    """Fingerprint of which classes of the first of ``versions`` were which labels then."""
    versions: tuple[str, ...] = ()
    """What served the project before that training and after it: the parent, and the challenger if it was promoted."""

    def write(self, store: Store, project: str) -> None:
        """Keep it as the project's manifest, in place of the one before.

        Raises:
            StoreError: the store can't be written.
        """
        values = asdict(self) | {"tasks": {str(id_): list(asdict(entry).values()) for id_, entry in self.tasks.items()}}
        store.write_file(project, NAME, json.dumps(values, sort_keys=True).encode())

    @classmethod
    def read(cls, store: Store, project: str) -> "Manifest":
        """The project's manifest; an empty one before its first retrain.

        Raises:
            StoreError: the store can't be read.
        """
        data = store.read_file(project, NAME)
        if data is None:
            return cls()
        try:
            values = json.loads(data)
            tasks = {int(id_): Entry(*entry) for id_, entry in values["tasks"].items()}
            lists = {name: tuple(values[name]) for name in ("rules", "versions")}
            return cls(**values | lists | {"tasks": tasks})
        except (ValueError, KeyError, TypeError) as error:
            # Then all labels count as new, and the next retrain writes another.
            log.warning("project %s: its %s in the store can't be read (%s); it is written anew", project, NAME, error)
            return cls()


def labels_of(config: LabelConfig, settings: Settings) -> tuple[Label, ...]:
    """The labels that a project learns, which are its classes."""
    if settings.unlabelled_is_background and BACKGROUND not in config.class_names:
        return (*config.labels, Label(BACKGROUND))
    return config.labels


def rules_of(config: LabelConfig, settings: Settings) -> tuple[str, ...]:
    """What decides, beside the annotations, which labels a snapshot holds, and what a retrain makes of them."""
    labels = (" = ".join((label.value, *label.predicted_values)) for label in labels_of(config, settings))
    ground_truth = ("ground truth only",) if settings.ground_truth_only else ()
    background = ("unlabelled is background",) if settings.unlabelled_is_background else ()
    return (*sorted(labels), *ground_truth, *background)


def accepted(task: Mapping[str, Any], ground_truth_only: bool) -> Mapping[str, Any] | None:
    """The annotation to learn from: submitted and not cancelled; ground truth first, then the latest."""
    candidates = [annotation for annotation in task.get("annotations", []) if not annotation.get("was_cancelled")]
    if ground_truth_only:
        candidates = [annotation for annotation in candidates if annotation.get("ground_truth")]
    return max(candidates, key=_precedence, default=None)


def _precedence(annotation: Mapping[str, Any]) -> tuple[bool, str, int]:
    return bool(annotation.get("ground_truth")), str(annotation.get("updated_at")), annotation["id"]

"""What Label Studio's annotations have that no retrain has seen: webhooks are hints, and may never arrive.

What changed since the last snapshot is asked for by time, so that a look costs a few requests where nothing did. Where
Label Studio then counts other annotations than that explains, everything is looked at.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from underpaint.admin import Admin
from underpaint.checkpoints.store import Store, StoreError
from underpaint.labelstudio.client import LabelStudio, LabelStudioError
from underpaint.labelstudio.label_config import LabelConfig, LabelConfigError, parse
from underpaint.project import ProjectError, project_id
from underpaint.settings import Settings, get_settings
from underpaint.signals import Signals
from underpaint_workers.connection import WrongProject, project_on
from underpaint_workers.manifest import Entry, Manifest, rules_of

log = logging.getLogger(__name__)

# Label Studio dates a change when it begins to write it, and bulk actions take a while until they can be seen.
MARGIN = timedelta(minutes=2)

Entries = Mapping[int, Entry]


@dataclass(frozen=True)
class Difference:
    """Ids of the tasks whose labels no retrain has seen as they are now."""

    created: tuple[int, ...] = ()
    changed: tuple[int, ...] = ()
    deleted: tuple[int, ...] = ()
    rules: bool = False
    """Whether the classes, or the settings that decide what a label says, are others."""

    @property
    def labels(self) -> int:
        """How many new labels that counts as."""
        return len(self.created) + len(self.changed) + len(self.deleted) or int(self.rules)

    def __str__(self) -> str:
        counts = {"created": self.created, "changed": self.changed, "deleted": self.deleted}
        said = [f"{len(tasks)} {what}" for what, tasks in counts.items() if tasks]
        said += ["the label config or its settings changed"] if self.rules else []
        return ", ".join(said) or "nothing new"


def compare(before: Entries, now: Entries, tasks: Iterable[int], rules: bool = False) -> Difference:
    """What differs in the labels of ``tasks``; those without an entry have none."""
    found: dict[str, list[int]] = {"created": [], "changed": [], "deleted": []}
    for task in sorted(tasks):
        old, new = (entries[task].digest if task in entries else "" for entries in (before, now))
        if old != new:
            found["deleted" if not new else "changed" if old else "created"].append(task)
    return Difference(**{what: tuple(tasks) for what, tasks in found.items()}, rules=rules)


def difference(label_studio: LabelStudio, project: int, manifest: Manifest, settings: Settings) -> Difference:
    """What project ``project`` (Label Studio's id) has that ``manifest`` has not.

    Raises:
        LabelStudioError: it can't be asked.
        LabelConfigError: the label config can't be read.
    """
    config = parse(label_studio.project(project)["label_config"])
    same_rules = rules_of(config, settings) == manifest.rules
    if same_rules and manifest.latest:
        counted = label_studio.count_annotations(project)
        touched = set(label_studio.task_ids(project, since=_a_little_before(manifest.latest)))
        now = _entries(label_studio.export(project, sorted(touched)), config, settings)
        explained = sum(entry.annotations for task, entry in manifest.tasks.items() if task not in touched)
        if explained + sum(entry.annotations for entry in now.values()) == counted:
            return compare(manifest.tasks, now, touched)
    everything = _entries(label_studio.annotated_tasks(project), config, settings)
    rules_changed = bool(manifest.rules) and not same_rules
    return compare(manifest.tasks, everything, {*manifest.tasks, *everything}, rules_changed)


def reconcile(project: str, settings: Settings, store: Store, signals: Signals) -> Difference:
    """Count what no retrain of the project with this key has seen as labels that wait for one.

    Nothing is looked at while a retrain is queued or runs, for it is about to see it.

    Raises:
        LabelStudioError, LabelConfigError, ProjectError, WrongProject: Label Studio can't be asked.
        StoreError, redis.RedisError: the store or Redis can't be reached.
    """
    if signals.is_retraining(project):
        return Difference()
    manifest = Manifest.read(store, project)
    label_studio = project_on(project, settings, signals)
    try:
        found = difference(label_studio, project_id(project), manifest, settings)
    finally:
        label_studio.close()
    if found.labels:
        log.info("project %s: %s since the last retrain", project, found)
        signals.note_total(project, found.labels)
    return found


def reconcile_all(settings: Settings, store: Store, signals: Signals) -> dict[str, Difference]:
    """``reconcile`` every project that the store knows or whose /setup came; the log tells of those that can't be."""
    found = {}
    for project in sorted({*store.projects(), *signals.connected()}):
        try:
            found[project] = reconcile(project, settings, store, signals)
        except (LabelStudioError, LabelConfigError, ProjectError, WrongProject, StoreError) as error:
            log.warning("project %s can't be reconciled: %s", project, error)
    return found


def job() -> dict[str, str]:
    """What RQ calls: ``reconcile_all``. It is here, not among the other jobs, because those take seconds to import."""
    settings = get_settings()
    found = reconcile_all(settings, Store(settings.store), Signals(settings.redis_url, settings.queue))
    return {project: str(difference) for project, difference in found.items()}


def command(
    project: Annotated[str, typer.Argument(help="Label Studio's project id, such as 3, or a full key, 3.1795344327.")],
) -> None:
    """Look at once for labels of a project that no retrain has seen, and count them."""
    settings = get_settings()
    key, signals = Admin(settings).key(project), Signals(settings.redis_url, settings.queue)
    if signals.is_retraining(key):
        typer.echo(f"project {project}: a retrain is under way, and sees all there is")
        return
    typer.echo(f"project {project}: {reconcile(key, settings, Store(settings.store), signals)}")


def _entries(pages: Iterable[Iterable[Mapping[str, Any]]], config: LabelConfig, settings: Settings) -> dict[int, Entry]:
    return {task["id"]: Entry.of(task, config, settings) for page in pages for task in page}


def _a_little_before(when: str) -> str:
    return (datetime.fromisoformat(when.replace("Z", "+00:00")) - MARGIN).isoformat().replace("+00:00", "Z")

"""What RQ calls, by name: the backend only knows these functions' paths."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rq import get_current_job

from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store
from underpaint.labelstudio.client import LabelStudio
from underpaint.project import project_id
from underpaint.segmenter.segmenter import Segmenter
from underpaint.settings import Settings, get_settings
from underpaint.signals import Signals
from underpaint.taxonomy import corresponding
from underpaint_workers import snapshot
from underpaint_workers.dataset import Dataset
from underpaint_workers.evaluation import Metrics, evaluate
from underpaint_workers.gate import decide
from underpaint_workers.prelabel import into_dataset, into_label_studio
from underpaint_workers.runs import Run
from underpaint_workers.training import Progress, TrainSettings, train


class NothingToLearn(ValueError):
    """A retrain found no labels; its message says what to do."""


def retrain(project: str) -> dict[str, Any]:
    """Snapshot, train, evaluate, gate, promote: one retrain of the project with this key.

    Returns the run's record, which the store keeps under ``projects/<key>/runs``. Raises what stopped it, after
    recording that; the champion is untouched then.
    """
    settings = get_settings()
    store = Store(settings.store)
    signals = Signals(settings.redis_url, settings.queue)
    # From here on a new label is news again: it arrived after the snapshot's pull, or at worst is counted twice.
    signals.take(project)
    with Run(store, project) as run, tempfile.TemporaryDirectory(prefix="underpaint-") as folder:
        run.stage("snapshot")
        taken = snapshot.take(label_studio_of(project, settings, signals), project_id(project), Path(folder), settings)
        _retrain_on(taken, project, settings, store, signals, run)
    return run.record


def _retrain_on(
    taken: snapshot.Snapshot, project: str, settings: Settings, store: Store, signals: Signals, run: Run
) -> None:
    training, validation = taken.names(validation=False), taken.names(validation=True)
    facts = {"snapshot": taken.fingerprint, "problems": list(taken.problems)}
    run.stage("train", training=len(training), validation=len(validation), **facts)
    if not training:
        raise NothingToLearn(
            f"{len(validation)} accepted paintings, all kept back for validation: accept more labels, then train again"
            if validation
            else "no accepted labels: submit some annotations that contain regions, then train again"
        )
    data = Dataset.open(taken.folder)
    champion = store.champion(project)
    parent = store.get(champion.version) if champion else None
    known = parent.card.classes if parent else ()
    challenger = train(
        map(data.load, training),
        taken.classes,
        parent,
        TrainSettings.of(settings),
        snapshot=taken.fingerprint,
        progress=lambda progress: _show(run, progress),
    )
    run.stage("evaluate")
    before = _measure(parent, data, validation, taken.classes, settings)
    after = _measure(challenger, data, validation, taken.classes, settings)
    version = store.put(challenger)
    decision = decide(before, after, new_classes=None in corresponding(taken.classes, known))
    if decision.promote:
        store.promote(project, version, "retrain", decision.reason, asdict(after) if after else {})
        signals.announce(project)
    run.stage(
        "promoted" if decision.promote else "refused",
        version=version,
        parent=champion.version if champion else None,
        reason=decision.reason,
        champion_miou=before.miou if before else None,
        challenger_miou=after.miou if after else None,
    )


def label_studio_of(project: str, settings: Settings, signals: Signals) -> LabelStudio:
    """The client for a project: the settings' Label Studio, else the one that the project's /setup named."""
    if settings.label_studio_url and settings.label_studio_token:
        return LabelStudio(settings.label_studio_url, settings.label_studio_token)
    if (connection := signals.connection(project)) is not None:
        return LabelStudio(*connection)
    raise ValueError(
        f"nobody said where project {project} lives: set UNDERPAINT_LABEL_STUDIO_URL and UNDERPAINT_LABEL_STUDIO_TOKEN"
    )


def _show(run: Run, progress: Progress) -> None:
    run.show(**asdict(progress))


def _measure(
    checkpoint: Checkpoint | None, data: Dataset, names: list[str], classes: tuple[str, ...], settings: Settings
) -> Metrics | None:
    if checkpoint is None or not names:
        return None
    return evaluate(Segmenter(checkpoint, settings.device), map(data.load, names), classes)


def prelabel(folder: str, project: str | None, to: str | None, version: str) -> dict[str, Any]:
    """Pre-label a folder with checkpoint ``version``: into the project with this key, or into the folder ``to``.

    Progress and problems are in the job's meta: ``done``, ``total``, ``problems``. Raises ``PrelabelError``.
    """
    settings = get_settings()
    job = get_current_job()
    facts: dict[str, Any] = {"version": version}

    def report(done: int, total: int, problems: list[str]) -> None:
        facts.update(done=done, total=total, problems=problems)
        if job is not None:
            job.meta.update(facts)
            job.save_meta()  # type: ignore[no-untyped-call]

    segmenter = Segmenter(Store(settings.store).get(version), settings.device)
    if to is not None:
        into_dataset(Path(folder), segmenter, Path(to), settings, report)
    elif project is not None:
        label_studio = label_studio_of(project, settings, Signals(settings.redis_url, settings.queue))
        into_label_studio(Path(folder), segmenter, label_studio, project_id(project), settings, report)
    return facts

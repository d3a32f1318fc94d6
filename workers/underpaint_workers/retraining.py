"""One retrain of a project: snapshot, train, evaluate, gate, promote."""

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import redis

from underpaint import base
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store
from underpaint.labelstudio.client import LabelStudio
from underpaint.project import key_of, project_id
from underpaint.segmenter.segmenter import Segmenter
from underpaint.settings import Settings
from underpaint.signals import Signals
from underpaint.taxonomy import corresponding
from underpaint_workers import snapshot
from underpaint_workers.dataset import Dataset
from underpaint_workers.evaluation import Metrics, evaluate
from underpaint_workers.folds import train_by_folds
from underpaint_workers.gate import ENOUGH_PAINTINGS, decide
from underpaint_workers.runs import Run
from underpaint_workers.training import TrainSettings


class NothingToLearn(ValueError):
    """A retrain found no labels; its message says what to do."""


class WrongProject(ValueError):
    """Label Studio's project of this id is another one, or nobody said where to find it."""


@dataclass(frozen=True)
class Retraining:
    """A project's key, and what its retrain works with."""

    project: str
    settings: Settings
    store: Store
    signals: Signals

    def run(self) -> dict[str, Any]:
        """Retrain once; returns the run's record, which the store keeps.

        Raises what stopped it, after recording that. The champion is untouched then, and the labels count as new again.
        """
        pending = self.signals.take(self.project)
        try:
            with Run(self.store, self.project) as run, tempfile.TemporaryDirectory(prefix="underpaint-") as folder:
                run.stage("snapshot")
                taken = snapshot.take(self._label_studio(), project_id(self.project), Path(folder), self.settings)
                self._learn(taken, run)
        except NothingToLearn:
            raise
        except BaseException:
            with contextlib.suppress(redis.RedisError):
                self.signals.give_back(self.project, pending)
            raise
        return run.record

    def _learn(self, taken: snapshot.Snapshot, run: Run) -> None:
        training, validation = taken.names(validation=False), taken.names(validation=True)
        facts = {"snapshot": taken.fingerprint, "problems": list(taken.problems)}
        run.stage("train", training=len(training), validation=len(validation), **facts)
        if not training:
            raise NothingToLearn(
                f"all {len(validation)} accepted paintings are kept back for validation: accept more, then train again"
                if validation
                else "no accepted labels: submit some annotations that contain regions, then train again"
            )
        data = Dataset.open(taken.folder)
        challenger = train_by_folds(
            [data.load(name) for name in training],
            taken.classes,
            self._serving(taken.classes),
            TrainSettings.of(self.settings),
            validation=[data.load(name) for name in validation] if len(validation) >= ENOUGH_PAINTINGS else (),
            snapshot=taken.fingerprint,
            progress=lambda progress: run.show(**asdict(progress)),
        )
        run.stage("evaluate")
        # Read again: while this trained, somebody may have rolled back.
        champion = self._serving(taken.classes)
        before = self._measure(champion, data, validation)
        after = self._measure(challenger, data, validation)
        if after:
            challenger = replace(challenger, card=replace(challenger.card, metrics=asdict(after)))
        version = self.store.put(challenger)
        decision = decide(before, after, new_classes=_has_new(taken.classes, champion))
        if decision.promote:
            self.store.promote(self.project, version, "retrain", decision.reason, challenger.card.metrics)
            with contextlib.suppress(redis.RedisError):  # the backends' poll of the store finds it too
                self.signals.announce(self.project)
        run.stage(
            "promoted" if decision.promote else "refused",
            version=version,
            champion=champion.version if champion else None,
            reason=decision.reason,
            champion_miou=before.miou if before else None,
            challenger_miou=after.miou if after else None,
        )

    def _serving(self, classes: Sequence[str]) -> Checkpoint | None:
        """What serves the project: its champion; before the first, the base if that can name some of ``classes``.

        It is in the store, where whoever reads a challenger's card will look for its parent.
        """
        if promotion := self.store.champion(self.project):
            return self.store.get(promotion.version)
        first = base.load(self.settings.base)
        if first is None or not any(match is not None for match in corresponding(classes, first.card.classes)):
            return None
        self.store.put(first)
        return first

    def _measure(self, checkpoint: Checkpoint | None, data: Dataset, names: Sequence[str]) -> Metrics | None:
        if checkpoint is None or not names:
            return None
        return evaluate(Segmenter(checkpoint, self.settings.device), map(data.load, names), data.classes)

    def _label_studio(self) -> LabelStudio:
        label_studio = label_studio_of(self.project, self.settings, self.signals)
        found = key_of(label_studio.project(project_id(self.project)))
        if found != self.project:
            raise WrongProject(
                f"{label_studio.url} has project {found}, not {self.project}: Label Studio was set up anew, or "
                "UNDERPAINT_LABEL_STUDIO_URL names another one"
            )
        return label_studio


def label_studio_of(project: str, settings: Settings, signals: Signals) -> LabelStudio:
    """The client for a project: the settings' Label Studio, else the one that the project's /setup named.

    Raises WrongProject when neither is known.
    """
    if (connection := settings.label_studio or signals.connection(project)) is not None:
        return LabelStudio(*connection)
    raise WrongProject(
        f"nobody said where project {project} lives: set UNDERPAINT_LABEL_STUDIO_URL and UNDERPAINT_LABEL_STUDIO_TOKEN"
    )


def _has_new(classes: Sequence[str], champion: Checkpoint | None) -> bool:
    """Whether some class has none of the champion's to itself: Cloud beside Sky is new to one that knows Sky alone."""
    matches = corresponding(classes, champion.card.classes if champion else ())
    return None in matches or len(set(matches)) < len(matches)

"""One retrain of a project: snapshot, train, evaluate, gate, promote, report."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import redis

from underpaint import base
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.pruning import prune
from underpaint.checkpoints.store import Store, StoreError
from underpaint.labelstudio.class_mapping import ClassMapping
from underpaint.labelstudio.client import LabelStudio
from underpaint.labelstudio.label_config import Label
from underpaint.project import project_id
from underpaint.segmenter.segmenter import Segmenter
from underpaint.settings import Settings
from underpaint.signals import Signals
from underpaint_workers import snapshot
from underpaint_workers.connection import project_on
from underpaint_workers.contact_sheet import SIZE
from underpaint_workers.curves import Curves
from underpaint_workers.dataset import Dataset, Item
from underpaint_workers.evaluation import examine
from underpaint_workers.gate import ENOUGH_PAINTINGS, decide
from underpaint_workers.label_quality import as_record, look_again, show_tab
from underpaint_workers.lease import Cancelled
from underpaint_workers.manifest import Manifest
from underpaint_workers.outcome import Outcome
from underpaint_workers.parallel import train_in_parallel
from underpaint_workers.resume import Keeper, fingerprint
from underpaint_workers.run_report import RunReport
from underpaint_workers.runs import Run
from underpaint_workers.scratch import scratch
from underpaint_workers.train_settings import TrainSettings
from underpaint_workers.training import Progress

log = logging.getLogger(__name__)

CONTRADICTIONS = 100
"""Contradicted labels that a run's record holds at most."""


class NothingToLearn(ValueError):
    """A retrain found no labels; its message says what to do."""


@dataclass(frozen=True)
class Retraining:
    """A project's key, and what its retrain works with."""

    project: str
    settings: Settings
    store: Store
    signals: Signals
    check: Callable[[], None] = lambda: None
    """Called at every step; raises what shall end the retrain, such as `Cancelled`."""

    def run(self) -> dict[str, Any]:
        """Retrain once; returns the run's record, which the store keeps. It trains nothing where nothing changed.

        Raises what stopped it, after recording that. The champion is untouched then, and the labels count as new again.
        """
        pending = self.signals.take(self.project)
        try:
            with Run(self.store, self.project) as run, scratch() as folder:
                run.stage("snapshot")
                label_studio = self._label_studio()
                taken = snapshot.take(label_studio, project_id(self.project), folder, self.settings, self.check)
                try:
                    self._learn(taken, label_studio, run)
                except (Cancelled, NothingToLearn):
                    self._settle(taken)  # these labels don't ask for a retrain again
                    raise
        except (Cancelled, NothingToLearn):
            raise
        except BaseException:
            with contextlib.suppress(redis.RedisError):
                self.signals.give_back(self.project, pending)
            raise
        self._prune()
        return run.record

    def _learn(self, taken: snapshot.Snapshot, label_studio: LabelStudio, run: Run) -> None:
        training, validation = taken.names(validation=False), taken.names(validation=True)
        facts = {"snapshot": taken.fingerprint, "problems": list(taken.problems)}
        if self._has_learned(taken):
            self._settle(taken)
            reason = "nothing changed since the last retrain: accept or correct some labels, then train again"
            run.stage("unchanged", training=len(training), validation=len(validation), reason=reason, **facts)
            return
        run.stage("train", training=len(training), validation=len(validation), **facts)
        if not training:
            raise NothingToLearn(
                f"all {len(validation)} accepted paintings are kept back for validation: accept more, then train again"
                if validation
                else "no accepted labels: submit some annotations that contain regions, then train again"
            )
        data = Dataset.open(taken.folder)
        curves, parent, settings = Curves(), self._serving(taken.labels), TrainSettings.of(self.settings)

        def show(progress: Progress) -> None:
            self.check()
            curves.note(progress)
            run.show(**asdict(progress), validation_miou=progress.validation_miou)

        challenger = train_in_parallel(
            [data.load(name) for name in training],
            taken.classes,
            parent,
            settings,
            mapping=_mapping(taken, parent),
            validation=[data.load(name) for name in validation] if len(validation) >= ENOUGH_PAINTINGS else (),
            snapshot=taken.fingerprint,
            progress=show,
            keeper=Keeper.of(self.store, self.project, taken.fingerprint, taken.labels, settings),
        )
        run.stage("evaluate")

        def load(name: str) -> Item:
            self.check()
            return data.load(name)

        # Read again: while this trained, somebody may have rolled back.
        champion = self._serving(taken.labels)
        mapping = _mapping(taken, champion)
        serving = Segmenter(champion, self.settings.device) if champion else None
        learned = Segmenter(challenger, self.settings.device)
        before, after = (
            examine(each, map(load, validation), data.classes, SIZE, of) if each and validation else None
            for each, of in ((serving, mapping), (learned, None))
        )
        if after:
            challenger = replace(challenger, card=replace(challenger.card, metrics=asdict(after.metrics)))
        version = self.store.put(challenger)
        decision = decide(
            before.confusions if before else None,
            after.confusions if after else None,
            taken.classes,
            new_classes=mapping.new_labels,
            class_margin=self.settings.gate_class_margin,
            seed=taken.fingerprint,
        )
        if decision.promote:
            self.store.promote(self.project, version, "retrain", decision.reason, challenger.card.metrics)
            with contextlib.suppress(redis.RedisError):  # the backends' poll of the store finds it too
                self.signals.announce(self.project)
        self._settle(taken, mapping, champion.version if champion else "", version)
        run.stage(
            "report",
            version=version,
            champion=champion.version if champion else None,
            new_labels=list(mapping.new_labels),
            unused_classes=list(mapping.unused_classes),
            champion_miou=before.metrics.miou if before else None,
            challenger_miou=after.metrics.miou if after else None,
            **{name: value for name, value in asdict(decision).items() if name != "promote"},
        )
        outcome = Outcome(taken, data, serving, learned, before, after, decision, curves)
        run.stage("promoted" if decision.promote else "refused", **self._report(outcome, label_studio, run))

    def _prune(self) -> None:
        """Remove checkpoints that nobody needs any more, of all projects; what can't be removed now may be later."""
        try:
            pruned = prune(self.store, self.settings.keep_checkpoints, self.settings.keep_days)
        except StoreError as error:
            log.warning("old checkpoints were not pruned: %s", error)
        else:
            if pruned:
                log.info("pruned, as no project served them lately: %s", ", ".join(pruned))

    def _has_learned(self, taken: snapshot.Snapshot) -> bool:
        """Whether these very labels were learned last, in the same way, from what serves or for what serves."""
        last = Manifest.read(self.store, self.project)
        if (last.fingerprint, last.settings) != (taken.fingerprint, fingerprint(TrainSettings.of(self.settings))):
            return False
        champion = self._serving(taken.labels)
        version = champion.version if champion else ""
        # A challenger has the labels for classes; what it was held against may by now have others of theirs.
        return version in last.versions[1:] or (
            version in last.versions and _mapping(taken, champion).fingerprint == last.mapping
        )

    def _settle(self, taken: snapshot.Snapshot, mapping: ClassMapping | None = None, *versions: str) -> None:
        """Note what Label Studio held: what differs from it later is new. Nothing is left to go on with.

        With the ``versions`` that were compared, and the ``mapping`` of the first one's classes, it was learned; else
        what was learned before remains that.
        """
        learned = Manifest.read(self.store, self.project)
        if mapping:
            how = fingerprint(TrainSettings.of(self.settings))
            learned = Manifest(
                fingerprint=taken.fingerprint, settings=how, mapping=mapping.fingerprint, versions=versions
            )
        seen = taken.manifest
        manifest = replace(learned, latest=seen.latest, rules=seen.rules, tasks=seen.tasks)
        manifest.write(self.store, self.project)
        Keeper.forget(self.store, self.project)

    def _serving(self, labels: Sequence[Label]) -> Checkpoint | None:
        """What serves the project: its champion; before the first, the base if that can name some of ``labels``.

        It is in the store, where whoever reads a challenger's card will look for its parent.
        """
        if promotion := self.store.champion(self.project):
            return self.store.get(promotion.version)
        first = base.load(self.settings.base)
        if first is None or not any(ClassMapping.of(labels, first.card.classes).class_ids):
            return None
        self.store.put(first)
        return first

    def _report(self, outcome: Outcome, label_studio: LabelStudio, run: Run) -> dict[str, Any]:
        """Look at the labels again and write the report; returns what the run's record says of both.

        What goes wrong here is told, and undoes nothing of what the gate decided.
        """
        name = f"runs/{run.id}.html"
        try:
            found = look_again(self.store, self.project, outcome)
            strongest = [as_record(each, label_studio.url, self.project) for each in found[:CONTRADICTIONS]]
            if self.settings.tag_contradicted_labels:
                show_tab(label_studio, project_id(self.project), {each["task"] for each in strongest})
            html = RunReport(run.record, run.seconds, outcome, found, label_studio.url).to_html()
            self.store.write_file(self.project, name, html.encode())
        except Exception as error:
            log.exception("project %s: no report of the retrain", self.project)
            return {"report_error": f"{type(error).__name__}: {error}"}
        return {"report": name, "contradicted": strongest}

    def _label_studio(self) -> LabelStudio:
        return project_on(self.project, self.settings, self.signals)


def _mapping(taken: snapshot.Snapshot, checkpoint: Checkpoint | None) -> ClassMapping:
    return ClassMapping.of(taken.labels, checkpoint.card.classes if checkpoint else ())

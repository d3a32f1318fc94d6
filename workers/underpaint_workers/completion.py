"""What a /predict call had no time for: a worker predicts it, and brings it to Label Studio through its API."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from underpaint.labelstudio.client import LabelStudio, LabelStudioError
from underpaint.labelstudio.label_config import parse
from underpaint.project import key_of, project_id
from underpaint.serving.backend import Backend
from underpaint.serving.champions import UNTRAINED
from underpaint.serving.predictor import Call, Slot
from underpaint_workers.connection import WrongProject

log = logging.getLogger(__name__)

# Tasks between two looks at who serves the project and at who else waits for the worker; and the predictions that
# travel in one request, which may be some megabytes each.
CHUNK = 32
# Far more than a chunk takes; a file that can't be had is given up sooner, after fetch_timeout.
CHUNK_SECONDS = 900.0
# Sentences on tasks that were left out; the log has all of them.
PROBLEMS = 20


@dataclass
class Completion:
    """One project's waiting tasks, by the same predictor that serves /predict.

    They are predicted by whatever serves the project when their turn comes. That is the version that the /predict call
    was answered with, unless the champion moved since: then Label Studio asks for the new version anyway, and another
    prediction by the old one would be of no use to anybody.

    A task leaves the set of those that wait only once Label Studio has its prediction, or when it can't have one. So
    a worker that is killed loses nothing, and the next asks Label Studio which of them have a prediction already.
    """

    project: str
    backend: Backend
    label_studio: LabelStudio
    report: Callable[["Completion"], None] = lambda _: None
    """Called after each chunk."""
    done: int = 0
    """Predictions that Label Studio has taken."""
    left: int = 0
    """Tasks that still wait."""
    version: str = UNTRAINED
    """Of the checkpoint that predicted last."""
    problems: list[str] = field(default_factory=list)
    """Why some tasks were left out. They have no prediction then, not even an empty one: Label Studio asks again."""

    def run(self, give_way: Callable[[], bool]) -> bool:
        """Complete until nothing waits any more, or ``give_way()`` after a chunk; whether nothing waits.

        Raises:
            LabelStudioError: Label Studio is down, or refuses the token; what waits stays.
            WrongProject: the project is gone, and with it what waited.
            StoreError: the project's champion can't be loaded; what waits stays.
        """
        while tasks := self.backend.signals.completions.first(self.project, CHUNK):
            self._complete(tasks)
            self.report(self)
            if self.left and give_way():
                return False
        return True

    def _complete(self, waiting: Sequence[int]) -> None:
        config = parse(self._label_config())
        self.backend.champions.refresh(self.project)
        segmenter = self.backend.champions.serving(self.project, config)
        self.version = segmenter.version if segmenter else UNTRAINED
        tasks = self.label_studio.tasks_without(project_id(self.project), self.version, waiting)
        call = Call(self.project, tasks, config, time.monotonic() + CHUNK_SECONDS)
        slots = self.backend.predictor.predict(call, segmenter, self.backend.fetcher(self.project)) if tasks else []
        found = [self._prediction(task["id"], slot) for task, slot in zip(tasks, slots, strict=True)]
        predictions = [prediction for prediction in found if prediction is not None]
        predicted = [each["task"] for each in predictions]
        held = set(self.backend.signals.completions.hold(self.project, self.version, predicted))
        self._store([each for each in predictions if each["task"] in held])
        # A /predict call may have claimed some, and left them to a worker again: those wait anew.
        ended = set(waiting) - (set(predicted) - held)
        self.left = self.backend.signals.completions.remove(self.project, ended)

    def _label_config(self) -> str:
        try:
            found = self.label_studio.project(project_id(self.project))
        except LabelStudioError as error:
            if error.status != 404:
                raise
            found = None
        if found is None or key_of(found) != self.project:
            self.backend.signals.completions.clear(self.project)
            raise WrongProject(
                f"{self.label_studio.url} has no project {self.project} any more, so its waiting tasks are forgotten: "
                "it was deleted, or UNDERPAINT_LABEL_STUDIO_URL names another Label Studio"
            )
        return str(found["label_config"])

    def _prediction(self, task: int, slot: Slot) -> dict[str, Any] | None:
        """What Label Studio stores; None for a painting that failed, which gets no empty prediction to hide it."""
        if isinstance(slot, dict) and "reason" not in slot:
            return {"task": task, **slot}
        self._leave_out(task, slot["reason"] if isinstance(slot, dict) else "not reached in time")
        return None

    def _store(self, predictions: list[dict[str, Any]]) -> None:
        """Bring predictions to Label Studio, which takes all of a request or none."""
        if not predictions:
            return
        project = project_id(self.project)
        try:
            self.label_studio.import_predictions(project, predictions)
            self.done += len(predictions)
        except LabelStudioError as error:
            if error.status != 400:
                raise
            if len(predictions) == 1:
                self._leave_out(predictions[0]["task"], str(error))
                return
            for prediction in predictions:  # a task that was deleted meanwhile keeps only its own out
                self._store([prediction])

    def _leave_out(self, task: int, why: str) -> None:
        log.warning("project %s: task %s is left out: %s", self.project, task, why)
        if len(self.problems) < PROBLEMS:
            self.problems.append(f"task {task}: {why}")

"""One backend process, put together: the parts that the HTTP app and the plugin class share."""

import contextlib
import gc
import logging
import threading
from collections.abc import Sequence, Set
from dataclasses import replace
from functools import lru_cache

import redis

from underpaint.checkpoints.store import Store
from underpaint.labelstudio.client import LabelStudio
from underpaint.labelstudio.images import ImageFetcher
from underpaint.policy import Policy
from underpaint.serving.batcher import Batcher
from underpaint.serving.cache import PredictionCache
from underpaint.serving.champions import UNTRAINED, Champions
from underpaint.serving.jobs import Jobs
from underpaint.serving.memory import give_back_at_rest
from underpaint.serving.predictor import Call, Predictor, Slot, Task
from underpaint.serving.retrains import Retrains
from underpaint.settings import Settings
from underpaint.signals import Signals

log = logging.getLogger(__name__)


class Backend:
    """Settings made into objects; :meth:`start` and :meth:`stop` run its threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings.store)
        self.signals = Signals(settings.redis_url, settings.queue)
        self.champions = Champions(settings, self.store, self.signals)
        self.retrains = Retrains(settings, self.signals)
        self.jobs = Jobs(self.signals, self.store)
        self.batcher = Batcher(settings.batch_size, settings.batch_wait / 1000)
        self.cache = PredictionCache(settings.cache_folder, settings.cache_bytes)
        self.predictor = Predictor(settings, self.batcher, self.cache)
        self._lock = threading.Lock()
        self._handed_over = 0
        self._fetcher = lru_cache(maxsize=64)(self._new_fetcher)
        self._connections: dict[str, tuple[str, str]] = {}
        self._stopping = threading.Event()

    def start(self) -> None:
        # What was imported stays, and looking through all of it for garbage would stop every thread for 0.2 s.
        gc.freeze()
        threading.Thread(target=give_back_at_rest, args=(self._stopping,), name="memory", daemon=True).start()
        self.champions.start()
        self.retrains.start()

    def stop(self) -> None:
        self._stopping.set()
        self.predictor.stop()
        self.batcher.stop()
        self.cache.close()
        self.champions.stop()
        self.retrains.stop()

    def predict(self, call: Call) -> tuple[list[Slot], str]:
        """A slot for each of a call's tasks, as `Predictor.predict` gives them, and the version that all carry.

        What was not reached before the deadline is left to a worker, which brings it to Label Studio. Raises
        ``StoreError`` where what serves the project can't be loaded.
        """
        segmenter = self.champions.serving(call.project, call.config)  # one, whatever is promoted meanwhile
        fetcher = self.fetcher(call.project)
        if segmenter is None:
            return self.predictor.predict(call, None, fetcher), UNTRAINED
        brought = self._claim(call, segmenter.version)
        asked = replace(call, tasks=[task for task in call.tasks if task.get("id") not in brought])
        predicted = self.predictor.predict(asked, segmenter, fetcher)
        if left := [task for task, slot in zip(asked.tasks, predicted, strict=True) if slot == []]:
            self._leave(call, left, segmenter.version)
        slots = iter(predicted)
        return [[] if task.get("id") in brought else next(slots) for task in call.tasks], segmenter.version

    def metrics(self) -> dict[str, float]:
        """Counts since the start; see README."""
        return {**self.batcher.metrics(), **self.predictor.metrics(), "handed_over": self._handed_over}

    def _claim(self, call: Call, version: str) -> Set[int]:
        """Take the call's tasks back from the worker, should an earlier call have left them to it.

        Returns those of which it is bringing predictions at this moment: Label Studio would store a second one.
        """
        if call.context is not None:  # the answer goes to the editor, and is stored nowhere
            return frozenset()
        try:
            return self.signals.completions.claim(call.project, version, _ids(call.tasks))
        except redis.RedisError:  # then no worker knows of any
            return frozenset()

    def _leave(self, call: Call, tasks: Sequence[Task], version: str) -> None:
        """Leave ``tasks`` to a worker, unless nobody wants them any more."""
        if call.gone():
            log.info("project %s: who asked for %d tasks has hung up", call.project, len(call.tasks))
            return
        seconds, saved = self.settings.predict_deadline, [] if call.context is not None else _ids(tasks)
        told = f"project {call.project}: {len(tasks)} of {len(call.tasks)} tasks were not reached in {seconds:g} s"
        try:
            if saved:
                self.signals.enqueue_completion(call.project, saved, version)
                with self._lock:
                    self._handed_over += len(saved)
                log.warning("%s: a worker brings the predictions of %d to Label Studio", told, len(saved))
                return
        except redis.RedisError as error:
            told = f"{told}, and Redis can't be reached to leave them to a worker ({error})"
        log.warning("%s: retrieve again, select fewer tasks, or raise UNDERPAINT_PREDICT_DEADLINE", told)

    def connect(self, project: str, url: str, token: str, policy: Policy | None = None) -> None:
        """Remember the Label Studio that a /setup came from, which serves where the settings name none.

        With it the project's ``policy``; None where nobody said, so that what was said before holds.

        Raises ``LabelStudioError`` when ``url`` is no address.
        """
        if not (url and token):
            return
        self._fetcher(url, token)  # kept for the /predict that follows; a wrong address fails here
        self._connections[project] = (url, token)
        self.retrains.introduce(project, url, token, policy)  # each time, for Redis may have been wiped

    def fetcher(self, project: str) -> ImageFetcher:
        """What fetches a project's images: with the settings' Label Studio, else the one its /setup named."""
        if self.settings.label_studio:
            return self._fetcher(*self.settings.label_studio)
        if project not in self._connections:  # Label Studio sends no /setup before it asks interactively
            with contextlib.suppress(redis.RedisError):
                if known := self.signals.connection(project):
                    self._connections[project] = known
        return self._fetcher(*self._connections.get(project, ("", "")))

    def _new_fetcher(self, url: str, token: str) -> ImageFetcher:
        return ImageFetcher(self.settings, LabelStudio(url, token) if url and token else None)


def _ids(tasks: Sequence[Task]) -> list[int]:
    """What Label Studio calls them; what isn't saved there has no number."""
    return [id_ for task in tasks if isinstance(id_ := task.get("id"), int)]

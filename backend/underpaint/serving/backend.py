"""One backend process, put together: the parts that the HTTP app and the plugin class share."""

import contextlib
from functools import lru_cache

import redis

from underpaint.checkpoints.store import Store
from underpaint.labelstudio.client import LabelStudio
from underpaint.labelstudio.images import ImageFetcher
from underpaint.serving.champions import Champions
from underpaint.serving.predictor import Predictor
from underpaint.serving.retrains import Retrains
from underpaint.settings import Settings
from underpaint.signals import Signals


class Backend:
    """Settings made into objects; :meth:`start` and :meth:`stop` run its threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings.store)
        self.signals = Signals(settings.redis_url, settings.queue)
        self.champions = Champions(settings, self.store, self.signals)
        self.retrains = Retrains(settings, self.signals)
        self.predictor = Predictor(settings)
        self._fetcher = lru_cache(maxsize=64)(self._new_fetcher)
        self._connections: dict[str, tuple[str, str]] = {}

    def start(self) -> None:
        self.champions.start()
        self.retrains.start()

    def stop(self) -> None:
        self.champions.stop()
        self.retrains.stop()

    def connect(self, project: str, url: str, token: str) -> None:
        """Remember the Label Studio that a /setup came from, which serves where the settings name none.

        Raises ``LabelStudioError`` when ``url`` is no address.
        """
        if not (url and token):
            return
        self._fetcher(url, token)  # kept for the /predict that follows; a wrong address fails here
        self._connections[project] = (url, token)
        self.retrains.introduce(project, url, token)  # each time, for Redis may have been wiped

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

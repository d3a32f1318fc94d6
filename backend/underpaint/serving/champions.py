"""What serves each project, its champion or the base: loaded on demand, swapped while it serves, evicted in turn."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field

import redis

from underpaint import base
from underpaint.checkpoints.store import Store, StoreError
from underpaint.labelstudio.label_config import LabelConfig
from underpaint.labelstudio.label_space import LabelSpace
from underpaint.segmenter.segmenter import Segmenter, resolve_device
from underpaint.serving.memory import give_back
from underpaint.settings import Settings
from underpaint.signals import Signals

log = logging.getLogger(__name__)

# What /setup and /predict answer for a project that nothing can serve: Label Studio needs a non-empty version.
UNTRAINED = "untrained"


class Unusable(StoreError):
    """The checkpoint is as it was stored, and no segmenter can be made of it here."""


@dataclass
class _Seat:
    """One project's place: the version it serves, and the segmenter once somebody needed it."""

    champion: str | None
    base: str | None = None
    """The base's version, where it could name some label when the project last showed its label config."""
    segmenter: Segmenter | None = None
    refused: str | None = None
    """The version that should serve and can't."""
    hopeless: bool = False
    """Whether that is the checkpoint's own fault, so that trying again would only take time from requests."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def version(self) -> str:
        return self.champion or self.base or UNTRAINED


class Champions:
    """Which checkpoint serves which project, in this process: its champion, and before the first one the base, if that
    can name at least one of the project's labels.

    A promotion reaches it through Redis within milliseconds, and through a look at the store every
    ``poll_seconds`` if the message is lost. The new champion is loaded, checked and warmed beside the old one; only
    then does :meth:`version` change. The old one's memory is free again once the last request that holds it is done.
    """

    def __init__(self, settings: Settings, store: Store, signals: Signals) -> None:
        resolve_device(settings.device)  # a device that isn't there should stop the start, not each prediction
        self._settings = settings
        self._base = base.load(settings.base)
        self._store = store
        self._signals = signals
        self._seats: OrderedDict[str, _Seat] = OrderedDict()
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self._stopping = threading.Event()
        self._let_go = threading.Event()
        self._threads = [
            threading.Thread(target=self._listen, name="promotions", daemon=True),
            threading.Thread(target=self._poll, name="store-poll", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def version(self, project: str, config: LabelConfig) -> str:
        """The version that the project's next prediction will carry; :data:`UNTRAINED` if nothing can make one.

        Loads no net, and never waits for one.
        """
        return self._version(self._seat(project), config) or UNTRAINED

    def versions(self) -> dict[str, str]:
        """Version by project, for the projects that this process has met."""
        with self._lock:
            return {project: seat.version for project, seat in self._seats.items()}

    def serving(self, project: str, config: LabelConfig) -> Segmenter | None:
        """The segmenter that serves ``project`` now, loaded if need be; None if nothing does.

        Hold on to it for a whole response, so that no response is made by two. Raises ``StoreError`` when it can't be
        loaded.
        """
        seat = self._seat(project)
        with seat.lock:
            version = self._version(seat, config)
            if version is None:
                return None
            segmenter = seat.segmenter
            if segmenter is None or segmenter.version != version:
                segmenter = seat.segmenter = self._load(version)
        self._evict(keep=project)
        return segmenter

    def refresh(self, project: str) -> None:
        """Look at the store, and swap if the project's champion moved."""
        with self._refreshing:  # a message and a poll at once must not load one checkpoint twice
            self._refresh(project)

    def _refresh(self, project: str) -> None:
        seat = self._seat(project)
        version = self._promoted(project)
        if version is None and seat.champion is not None:  # promotions are kept for ever
            raise StoreError("it has lost the project's promotions: restore them from a backup, or promote again")
        if version == seat.champion or (seat.hopeless and version == seat.refused):
            return
        try:
            # Nobody waits for a project that isn't in memory: its next request loads the new champion itself.
            old = seat.segmenter
            challenger = self._load(version, old.shapes) if version and old else None
        except Exception as error:
            if seat.refused != version:  # every poll tries again, but says so once
                log.error("project %s: not %s, but %s goes on serving: %s", project, version, seat.version, error)
            seat.refused, seat.hopeless = version, isinstance(error, Unusable)
            return
        with seat.lock:
            seat.champion, seat.segmenter, seat.refused, seat.hopeless = version, challenger, None, False
        self._let_go.set()
        log.info("project %s: now serves %s", project, seat.version)

    def _seat(self, project: str) -> _Seat:
        with self._lock:
            if project in self._seats:
                return self._seats[project]
        promoted = self._promoted(project)
        with self._lock:
            return self._seats.setdefault(project, _Seat(promoted))

    def _promoted(self, project: str) -> str | None:
        return next(iter(self._store.served(project)), None)

    def _version(self, seat: _Seat, config: LabelConfig) -> str | None:
        if seat.champion is not None or self._base is None:
            return seat.champion
        named = not LabelSpace.match(config, self._base.card.classes).empty
        seat.base = version = self._base.version if named else None
        return version

    def _load(self, version: str, shapes: Collection[tuple[int, int]] = ()) -> Segmenter:
        """A segmenter that answers sensibly, and at once for images of the padded ``shapes`` (h, w)."""
        with self._lock:  # projects may share a checkpoint, and then share its memory
            for seat in self._seats.values():
                if seat.segmenter is not None and seat.segmenter.version == version:
                    return seat.segmenter
        started = time.monotonic()
        try:
            checkpoint = self._base if self._base and self._base.version == version else self._store.get(version)
            segmenter = Segmenter(checkpoint, self._settings.device, runtime=self._settings.runtime)
            # With shapes to get ready for, there is a champion that serves meanwhile; else somebody waits for this one.
            segmenter.warm(shapes, aside=bool(shapes))
            segmenter.check()
        except ValueError as error:
            raise Unusable(f"checkpoint {version} can't be used here: {error}") from error
        log.info("checkpoint %s loaded and warm in %.1f s", version, time.monotonic() - started)
        return segmenter

    def _evict(self, keep: str) -> None:
        with self._lock:
            self._seats.move_to_end(keep)
            loaded = [seat for seat in self._seats.values() if seat.segmenter is not None]
            for seat in loaded[: -self._settings.max_loaded]:
                # Requests that hold the segmenter finish with it; the seat only lets go.
                seat.segmenter = None
                self._let_go.set()

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                for project in self._signals.promoted(self._stopping):
                    self._refresh_safely(project)
            except redis.RedisError:
                self._stopping.wait(1.0)

    def _poll(self) -> None:
        while not self._stopping.wait(self._settings.poll_seconds):
            if self._let_go.is_set():  # some seconds ago, as a rule, so that the last request that held it is done
                self._let_go.clear()
                give_back()
            for project in list(self.versions()):
                self._refresh_safely(project)

    def _refresh_safely(self, project: str) -> None:
        try:
            self.refresh(project)
        except Exception as error:
            log.error("project %s: the store can't be read, the champion in memory goes on: %s", project, error)

"""The state of a training, kept in the store: where one process was killed, another goes on, on any machine."""

import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from underpaint.checkpoints.checkpoint import Card, Checkpoint
from underpaint.checkpoints.store import Store, StoreError
from underpaint.labelstudio.label_config import Label
from underpaint_workers.sampling import Sampler
from underpaint_workers.stopping import EarlyStopping
from underpaint_workers.train_settings import TrainSettings

log = logging.getLogger(__name__)

FOLDER = "training"
"""Where a project's files hold the state of the training that runs; there is one at a time."""
EVERY_SECONDS = 5.0
SHARE = 0.01  # of a training's time that may go into keeping its state


@dataclass
class State:
    """All that changes while a training runs."""

    module: nn.Module
    average: nn.Module
    """Its weights' moving average."""
    optimizer: torch.optim.Optimizer
    sampler: Sampler
    scenes: Sampler | None
    """Draws crops of painted scenes, where they are learned from too."""
    stopping: EarlyStopping
    step: int = 0
    done: float = 0.0
    """Share (0–1) of the run."""
    seconds: float = 0.0
    loss: float = 0.0
    parts: int = 1
    """Parts in which a batch goes through the device, for want of memory."""

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def to_bytes(self) -> bytes:
        """The state as ``torch.save`` writes it, of types that ``torch.load`` reads with ``weights_only``."""
        best = self.stopping.best
        values = {
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sampler": self.sampler.state(),
            "scenes": self.scenes and self.scenes.state(),
            "scores": self.stopping.scores,
            "best": best and {"card": best.card.to_json(), "weights": _tensor(best.weights)},
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "counts": [self.step, self.done, self.seconds, self.loss, self.parts],
        }
        buffer = io.BytesIO()
        torch.save(values, buffer)
        return buffer.getvalue()

    def restore(self, data: bytes) -> None:
        """Become the state that ``to_bytes`` made ``data`` of, on whatever device this one is.

        Raises:
            Exception: of many types, where ``data`` is no such state, or one of another net.
        """
        values: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        self.module.load_state_dict(values["module"])
        self.average.load_state_dict(values["average"])
        self.optimizer.load_state_dict(values["optimizer"])
        self.sampler.restore(values["sampler"])
        if self.scenes:
            self.scenes.restore(values["scenes"])
        self.stopping.scores = values["scores"]
        if best := values["best"]:
            self.stopping.best = Checkpoint(Card.from_json(best["card"]), best["weights"].numpy().tobytes())
        torch.set_rng_state(values["random"])
        if values["random_cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(values["random_cuda"], self.device)
        self.step, self.done, self.seconds, self.loss, self.parts = values["counts"]


class Keeper:
    """Keeps the state of one training among its project's files, as often as costs next to nothing."""

    def __init__(
        self, store: Store, project: str, key: str, clock: Callable[[], float] = time.monotonic, *, writes: bool = True
    ) -> None:
        """``key`` tells trainings apart: the state of another one is of no use."""
        self._store, self._project, self._key, self._clock, self._writes = store, project, key, clock, writes
        self._name = f"{FOLDER}/{key}.pt"
        self._next = clock() + EVERY_SECONDS

    @classmethod
    def of(
        cls, store: Store, project: str, snapshot: str, labels: Sequence[Label | str], settings: TrainSettings
    ) -> "Keeper":
        """For the training of ``labels`` on the snapshot with this fingerprint.

        It is the same training on another device, or on several; and from another parent, for a champion that moved
        while it ran is no reason to begin again.
        """
        facts = [snapshot, *map(repr, labels), fingerprint(settings), version("underpaint"), torch.__version__]
        return cls(store, project, hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12])

    def part(self, name: str) -> "Keeper":
        """For one of the trainings that this one consists of."""
        return Keeper(self._store, self._project, f"{self._key}-{name}", self._clock, writes=self._writes)

    def reading(self) -> "Keeper":
        """It without its writing, for processes that train beside the one that keeps the state."""
        return Keeper(self._store, self._project, self._key, self._clock, writes=False)

    def restore(self, state: State) -> bool:
        """Bring ``state`` to where the training was when its state was last kept; False if it never was.

        Raises:
            StoreError: the store can't be read.
            ValueError: what was kept doesn't fit; it is forgotten, so that the next attempt begins anew.
        """
        data = self._store.read_file(self._project, self._name)
        if data is None:
            return False
        try:
            state.restore(data)
        except Exception as error:  # torch has no type of its own for what it can't load
            if self._writes:
                self.forget(self._store, self._project)
            raise ValueError(
                f"The kept state of project {self._project}'s training can't be used ({error}), and was removed: "
                "train again, from the beginning."
            ) from error
        log.info("project %s: training goes on after step %d", self._project, state.step)
        return True

    def keep(self, state: State, *, now: bool = False) -> None:
        """Keep ``state`` if the last time is long enough ago, or ``now``.

        A store that can't be written is a warning: it may be well again before the training ends.
        """
        started = self._clock()
        if not self._writes or (not now and started < self._next):
            return
        try:
            self._store.write_file(self._project, self._name, state.to_bytes())
        except StoreError as error:
            log.warning("the state of project %s's training was not kept: %s", self._project, error)
        ended = self._clock()
        self._next = ended + max(EVERY_SECONDS, (ended - started) / SHARE)

    @staticmethod
    def forget(store: Store, project: str) -> None:
        """Remove every kept state of the project.

        Raises:
            StoreError: the store can't be written.
        """
        store.remove_files(project, FOLDER)


def fingerprint(settings: TrainSettings) -> str:
    """12 hex digits that change with what decides on the result of a training; what it runs on doesn't."""
    values = asdict(settings) | {"device": "", "threads": None, "processes": 0, "gpu_memory": 1.0}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)

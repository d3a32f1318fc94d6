"""Where checkpoints, promotions and runs live: a folder, or any other place that fsspec reaches.

::

    checkpoints/<version>/model.safetensors
    checkpoints/<version>/card.json                      written last: a checkpoint without it does not exist
    checkpoints/<version>/pruned.json                    the card of one whose weights were pruned, or are about to be
    projects/<project>/promotions/<time>-<version>.json  the champion is the one whose name sorts last
    projects/<project>/runs/<run id>.json, .html         what a retrain came to, and its report
    projects/<project>/snapshots/<fingerprint>.json      the labels that the challenger of that snapshot learned from
    projects/<project>/manifest.json                     what Label Studio held when a retrain looked last
    projects/<project>/setup.json                        where Label Studio is; it makes the project known
    projects/<project>/training/<key>.pt                 the state of the training that runs

The log of promotions *is* the champion pointer: one atomic write moves it, and nothing has to be kept in step.
"""

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from underpaint.checkpoints.checkpoint import Card, CardError, Checkpoint
from underpaint.checkpoints.files import Files, read_all
from underpaint.checkpoints.files import StoreError as StoreError

CARD = "card.json"
WEIGHTS = "model.safetensors"
PRUNED = "pruned.json"
_KEY = re.compile(r"[A-Za-z0-9._-]+")
_RECORD = re.compile(r"(\d{20})-([0-9a-f]{12})\.json")
_VERSION = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class Promotion:
    """One move of a project's champion."""

    version: str
    """The checkpoint that became champion."""
    when: str
    """ISO 8601, UTC."""
    who: str
    why: str
    metrics: dict[str, Any]


class Store(Files):
    """Checkpoints and what each project serves. Safe to use from many threads, processes and machines at once."""

    def __init__(self, url: str, clock: Callable[[], int] = time.time_ns) -> None:
        """`url` is a folder or an fsspec URL such as ``s3://bucket/underpaint``; `clock` gives nanoseconds."""
        super().__init__(url)
        self._clock = clock

    def put(self, checkpoint: Checkpoint) -> str:
        """Keep `checkpoint` and return its version. One that is there already is left as it is."""
        folder = f"checkpoints/{checkpoint.version}"
        if self._read(f"{folder}/{CARD}") is None or self._is_doomed(checkpoint.version):
            self._write(f"{folder}/{WEIGHTS}", checkpoint.weights)
            self._write(f"{folder}/{CARD}", checkpoint.card.to_json().encode())
            self.spare(checkpoint.version)
        return checkpoint.version

    def get(self, version: str) -> Checkpoint:
        """The checkpoint `version`, its content checked against its hash.

        Raises:
            StoreError: there is none, or its files were changed.
        """
        folder = f"checkpoints/{version}"
        card = self.card(version)
        weights = self._read(f"{folder}/{WEIGHTS}")
        if weights is None:
            raise StoreError(
                f"{self.url}/{folder}/{WEIGHTS} is missing: restore it from a backup, or promote another version."
            )
        checkpoint = Checkpoint(card, weights)
        if checkpoint.version != version:
            raise StoreError(
                f"{self.url}/{folder}/{WEIGHTS} or {CARD} is corrupt (its content hashes to "
                f"{checkpoint.version}): restore that folder from a backup, or promote another version."
            )
        return checkpoint

    def card(self, version: str) -> Card:
        """The card of checkpoint `version`, without loading the weights.

        Raises:
            StoreError: there is no such checkpoint, or its card cannot be read.
        """
        path = f"checkpoints/{_checked(version, 'version')}/{CARD}"
        text = self._read(path)
        if text is None:
            if self._is_doomed(version):
                raise StoreError(
                    f"Checkpoint {version} was pruned, for it was none of the last that its projects served "
                    "(UNDERPAINT_KEEP_CHECKPOINTS): choose one that `underpaint checkpoints` shows as kept, or restore "
                    f"{self.url}/checkpoints/{version} from a backup and remove {PRUNED} there."
                )
            raise StoreError(f"{self.url} has no checkpoint {version}: check the version and UNDERPAINT_STORE.")
        try:
            return Card.from_json(text.decode())
        except (CardError, UnicodeDecodeError) as error:
            raise StoreError(f"{self.url}/{path} cannot be read. {error}") from error

    def champion(self, project: str) -> Promotion | None:
        """The promotion that made `project`'s champion, or None before the first."""
        names = self._records(project)
        return self._promotion(project, names[-1]) if names else None

    def promote(self, project: str, version: str, who: str, why: str, metrics: dict[str, Any]) -> Promotion:
        """Make checkpoint `version` the champion of `project`; going back to an older one is the same move.

        Raises:
            StoreError: there is no such checkpoint, or it is being pruned.
        """
        self.card(version)
        names = self._records(project)
        # A clock that stands still, goes back or lags behind another machine's must not lose the move.
        nanoseconds = max(self._clock(), int(names[-1][:20]) + 1 if names else 0)
        when = datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat(timespec="milliseconds")
        promotion = Promotion(version, when, who, why, metrics)
        path = f"projects/{project}/promotions/{nanoseconds:020d}-{version}.json"
        self._write_json(path, asdict(promotion))
        if self._is_doomed(version):  # who prunes looks at the promotions only after this mark, so one of both sees it
            self._remove(path)
            raise StoreError(
                f"Checkpoint {version} is being pruned by another process: choose another one, or, if `underpaint "
                "checkpoints` shows it as kept, try again in an hour."
            )
        return promotion

    def promotions(self, project: str) -> list[Promotion]:
        """Every move of `project`'s champion, oldest first."""
        return read_all(lambda name: self._promotion(project, name), self._records(project))

    def served(self, project: str) -> list[str]:
        """The checkpoints that were `project`'s champion, each once, the one that is it now first."""
        return list(dict.fromkeys(name[21:33] for name in reversed(self._records(project))))

    def checkpoints(self) -> dict[str, dict[str, float]]:
        """By version, the files that are there of a checkpoint, and when each was written (Unix seconds)."""
        found: dict[str, dict[str, float]] = {}
        for path, when in self._written("checkpoints").items():
            version, _, name = path.partition("/")
            if _VERSION.fullmatch(version):
                found.setdefault(version, {})[name] = when
        return found

    def doom(self, version: str) -> None:
        """Say that checkpoint `version` is about to be pruned: from now on, nobody can promote it."""
        if (card := self._read(f"checkpoints/{version}/{CARD}")) is not None:
            self._write(f"checkpoints/{version}/{PRUNED}", card)

    def spare(self, version: str) -> None:
        """Take `doom` back."""
        self._remove(f"checkpoints/{version}/{PRUNED}")

    def prune(self, version: str) -> None:
        """Remove what `doom` was said of. Killed half-way, it leaves no checkpoint that seems to be whole."""
        folder = f"checkpoints/{version}"
        self._remove(f"{folder}/{CARD}")
        for name in self._written(folder):
            if name != PRUNED:
                self._remove(f"{folder}/{name}")

    def _is_doomed(self, version: str) -> bool:
        return self._read(f"checkpoints/{version}/{PRUNED}") is not None

    def projects(self) -> list[str]:
        """Keys of all projects that the store knows, sorted."""
        return self._names("projects")

    def write_run(self, project: str, run_id: str, values: dict[str, Any]) -> None:
        """Keep the record of one training run; a later call with the same `run_id` replaces it."""
        self._write_json(f"projects/{_checked(project, 'project')}/runs/{_checked(run_id, 'run')}.json", values)

    def runs(self, project: str, last: int | None = None) -> list[dict[str, Any]]:
        """The records of `project`'s training runs, or of the `last` ones (at least 1), sorted by run id."""
        folder = f"projects/{_checked(project, 'project')}/runs"
        names = [name for name in self._names(folder) if name.endswith(".json")]
        wanted = names[-last if last else None :]
        records = read_all(lambda name: self._read_json(f"{folder}/{name}"), wanted)
        return [record for record in records if record is not None]

    def run(self, project: str, run_id: str) -> dict[str, Any] | None:
        """The record of one of `project`'s training runs, or None."""
        return self._read_json(f"projects/{_checked(project, 'project')}/runs/{_checked(run_id, 'run')}.json")

    def write_file(self, project: str, name: str, data: bytes) -> None:
        """Keep `data` under `name` (such as ``training/state.pt``) among `project`'s files, whole or not at all."""
        self._write(_file(project, name), data)

    def read_file(self, project: str, name: str) -> bytes | None:
        """What `write_file` kept, or None."""
        return self._read(_file(project, name))

    def address(self, project: str, name: str) -> str:
        """Where a person finds what `write_file` kept under `name`: a path, or a URL where the store is no folder."""
        return self._address(_file(project, name))

    def remove_files(self, project: str, folder: str) -> None:
        """Forget all that `write_file` kept in `folder`, half-written files of killed processes included."""
        self._remove_folder(_file(project, folder))

    def _records(self, project: str) -> list[str]:
        names = self._names(f"projects/{_checked(project, 'project')}/promotions")
        return [name for name in names if _RECORD.fullmatch(name)]

    def _promotion(self, project: str, name: str) -> Promotion:
        path = f"projects/{project}/promotions/{name}"
        try:
            return Promotion(**self._read_json(path) or {})
        except TypeError as error:
            raise StoreError(f"{self.url}/{path} is no promotion: restore it from a backup, or delete it.") from error


def _file(project: str, name: str) -> str:
    return "/".join(["projects", _checked(project, "project"), *(_checked(part, "file") for part in name.split("/"))])


def _checked(key: str, noun: str) -> str:
    if not _KEY.fullmatch(key) or key in (".", ".."):
        raise StoreError(f"{key!r} cannot name a {noun}: use letters, digits, '.', '_' and '-' only.")
    return key

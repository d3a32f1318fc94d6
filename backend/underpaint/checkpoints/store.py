"""Where checkpoints, promotions and runs live: a folder, or any other place that fsspec reaches.

::

    checkpoints/<version>/model.safetensors
    checkpoints/<version>/card.json                      written last: a checkpoint without it does not exist
    projects/<project>/promotions/<time>-<version>.json  the champion is the one whose name sorts last
    projects/<project>/runs/<run id>.json, .html         what a retrain came to, and its report
    projects/<project>/snapshots/<fingerprint>.json      the labels that the challenger of that snapshot learned from
    projects/<project>/manifest.json                     what Label Studio held when a retrain looked last
    projects/<project>/setup.json                        where Label Studio is; it makes the project known
    projects/<project>/training/<key>.pt                 the state of the training that runs

The log of promotions *is* the champion pointer: one atomic write moves it, and nothing has to be kept in step.
"""

import contextlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from underpaint.checkpoints.checkpoint import Card, CardError, Checkpoint

_KEY = re.compile(r"[A-Za-z0-9._-]+")
_RECORD = re.compile(r"(\d{20})-([0-9a-f]{12})\.json")


class StoreError(RuntimeError):
    """The store cannot be read or written, or holds something broken; the message says what to do."""


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


class Store:
    """Checkpoints and what each project serves. Safe to use from many threads, processes and machines at once."""

    def __init__(self, url: str, clock: Callable[[], int] = time.time_ns) -> None:
        """`url` is a folder or an fsspec URL such as ``s3://bucket/underpaint``; `clock` gives nanoseconds."""
        self.url = url
        try:
            # Listings must be fresh: other processes and machines write here too.
            self._fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise StoreError(
                f"The store {url} cannot be opened ({error}): set UNDERPAINT_STORE to a folder or an fsspec URL; "
                "for s3:// install `underpaint[s3]`."
            ) from error
        self._root = root.rstrip("/")
        self._clock = clock

    def check(self) -> None:
        """Write, read and remove a small file.

        Raises:
            StoreError: the store is missing, read-only or out of reach.
        """
        path, probe = f"write-check-{uuid.uuid4().hex}", b"Underpaint can write here."
        self._write(path, probe)
        with self._reached():
            written = self._fs.cat_file(f"{self._root}/{path}")
            self._fs.rm_file(f"{self._root}/{path}")
        if written != probe:
            raise StoreError(f"The store {self.url} gave back other bytes than were written: check its disk.")

    def put(self, checkpoint: Checkpoint) -> str:
        """Keep `checkpoint` and return its version. One that is there already is left as it is."""
        folder = f"checkpoints/{checkpoint.version}"
        if self._read(f"{folder}/card.json") is None:
            self._write(f"{folder}/model.safetensors", checkpoint.weights)
            self._write(f"{folder}/card.json", checkpoint.card.to_json().encode())
        return checkpoint.version

    def get(self, version: str) -> Checkpoint:
        """The checkpoint `version`, its content checked against its hash.

        Raises:
            StoreError: there is none, or its files were changed.
        """
        folder = f"checkpoints/{version}"
        card = self.card(version)
        weights = self._read(f"{folder}/model.safetensors")
        if weights is None:
            raise StoreError(
                f"{self.url}/{folder}/model.safetensors is missing: "
                "restore it from a backup, or promote another version."
            )
        checkpoint = Checkpoint(card, weights)
        if checkpoint.version != version:
            raise StoreError(
                f"{self.url}/{folder}/model.safetensors or card.json is corrupt (its content hashes to "
                f"{checkpoint.version}): restore that folder from a backup, or promote another version."
            )
        return checkpoint

    def card(self, version: str) -> Card:
        """The card of checkpoint `version`, without loading the weights.

        Raises:
            StoreError: there is no such checkpoint, or its card cannot be read.
        """
        path = f"checkpoints/{_checked(version, 'version')}/card.json"
        text = self._read(path)
        if text is None:
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
            StoreError: there is no such checkpoint.
        """
        self.card(version)
        names = self._records(project)
        # A clock that stands still, goes back or lags behind another machine's must not lose the move.
        nanoseconds = max(self._clock(), int(names[-1][:20]) + 1 if names else 0)
        when = datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat(timespec="milliseconds")
        promotion = Promotion(version, when, who, why, metrics)
        self._write_json(f"projects/{project}/promotions/{nanoseconds:020d}-{version}.json", asdict(promotion))
        return promotion

    def promotions(self, project: str) -> list[Promotion]:
        """Every move of `project`'s champion, oldest first."""
        return [self._promotion(project, name) for name in self._records(project)]

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
        records = [self._read_json(f"{folder}/{name}") for name in names[-last if last else None :]]
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
        path = f"{self._root}/{_file(project, name)}"
        return str(Path(path).resolve()) if isinstance(self._fs, LocalFileSystem) else self._fs.unstrip_protocol(path)

    def remove_files(self, project: str, folder: str) -> None:
        """Forget all that `write_file` kept in `folder`, half-written files of killed processes included."""
        with self._reached(), contextlib.suppress(FileNotFoundError):
            self._fs.rm(f"{self._root}/{_file(project, folder)}", recursive=True)

    def _records(self, project: str) -> list[str]:
        names = self._names(f"projects/{_checked(project, 'project')}/promotions")
        return [name for name in names if _RECORD.fullmatch(name)]

    def _promotion(self, project: str, name: str) -> Promotion:
        path = f"projects/{project}/promotions/{name}"
        try:
            return Promotion(**self._read_json(path) or {})
        except TypeError as error:
            raise StoreError(f"{self.url}/{path} is no promotion: restore it from a backup, or delete it.") from error

    def _names(self, folder: str) -> list[str]:
        with self._reached():
            try:
                paths = self._fs.ls(f"{self._root}/{folder}", detail=False)
            except FileNotFoundError:
                return []
        names = [path.rstrip("/").rsplit("/", 1)[-1] for path in paths]
        return sorted(name for name in names if not name.startswith("."))

    def _read(self, path: str) -> bytes | None:
        with self._reached():
            try:
                data: bytes = self._fs.cat_file(f"{self._root}/{path}")
            except FileNotFoundError:
                return None
        return data

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # every file system fails in its own way
            raise StoreError(
                f"The store {self.url} cannot be used ({type(error).__name__}: {error}): check that its disk has room "
                "and this user may read and write there, or that bucket, endpoint and credentials are right; else set "
                "UNDERPAINT_STORE elsewhere."
            ) from error

    def _read_json(self, path: str) -> dict[str, Any] | None:
        data = self._read(path)
        if data is None:
            return None
        try:
            values = json.loads(data)
        except ValueError as error:
            raise StoreError(f"{self.url}/{path} is not JSON: restore it from a backup, or delete it.") from error
        if not isinstance(values, dict):
            raise StoreError(f"{self.url}/{path} is not a JSON object: restore it from a backup, or delete it.")
        return values

    def _write_json(self, path: str, values: dict[str, Any]) -> None:
        self._write(path, json.dumps(values, sort_keys=True, ensure_ascii=False, allow_nan=False).encode())

    def _write(self, path: str, data: bytes) -> None:
        with self._reached():
            if isinstance(self._fs, LocalFileSystem):
                _write_file(Path(self._root, path), data)
            else:
                self._fs.pipe_file(f"{self._root}/{path}", data)  # an object store shows an object whole or not at all


def _write_file(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _file(project: str, name: str) -> str:
    return "/".join(["projects", _checked(project, "project"), *(_checked(part, "file") for part in name.split("/"))])


def _checked(key: str, noun: str) -> str:
    if not _KEY.fullmatch(key) or key in (".", ".."):
        raise StoreError(f"{key!r} cannot name a {noun}: use letters, digits, '.', '_' and '-' only.")
    return key

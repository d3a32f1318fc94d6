"""Files on any place that fsspec reaches: each is there whole or not at all, for every process and machine at once."""

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

READERS = 16  # at the same time, as an object store takes its time for each
Result = TypeVar("Result")
_WRITTEN = ("mtime", "LastModified", "last_modified", "updated", "created")  # as the file systems call it


class StoreError(RuntimeError):
    """The store cannot be read or written, or holds something broken; the message says what to do."""


class Files:
    """Files by their path below a root. What every method raises is ``StoreError``."""

    def __init__(self, url: str) -> None:
        """`url` is a folder or an fsspec URL such as ``s3://bucket/underpaint``."""
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
        if hasattr(self._fs, "max_concurrency"):
            # Else s3fs asks for each file twice, and reads large ones in parts, which may be of two versions.
            self._fs.max_concurrency = 1

    def check(self) -> None:
        """Write, read and remove a small file.

        Raises:
            StoreError: the store is missing, read-only or out of reach.
        """
        path, probe = f"write-check-{uuid.uuid4().hex}", b"Underpaint can write here."
        self._write(path, probe)
        written = self._read(path)
        self._remove(path)
        if written != probe:
            raise StoreError(f"The store {self.url} gave back other bytes than were written: check its disk.")

    def _names(self, folder: str) -> list[str]:
        """Names of what is in ``folder``, sorted, without half-written files; none if it is missing."""
        with self._reached():
            try:
                paths = self._fs.ls(f"{self._root}/{folder}", detail=False)
            except FileNotFoundError:
                return []
        names = [path.rstrip("/").rsplit("/", 1)[-1] for path in paths]
        return sorted(name for name in names if not name.startswith("."))

    def _written(self, folder: str) -> dict[str, float]:
        """When each file at any depth below ``folder``, by its path there, was written (Unix seconds).

        Half-written files of killed processes count too.
        """
        top = f"{self._root}/{folder}/"
        with self._reached():
            found = self._fs.find(top, detail=True)
            return {path.removeprefix(top): self._time(path, info) for path, info in found.items()}

    def _time(self, path: str, info: Mapping[str, Any]) -> float:
        when = next((info[name] for name in _WRITTEN if info.get(name)), None) or self._fs.modified(path)
        if isinstance(when, str):
            when = datetime.fromisoformat(when)
        return when.timestamp() if isinstance(when, datetime) else float(when)

    def _read(self, path: str) -> bytes | None:
        with self._reached():
            try:
                data: bytes = self._fs.cat_file(f"{self._root}/{path}")
            except FileNotFoundError:
                return None
        return data

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

    def _write(self, path: str, data: bytes) -> None:
        with self._reached():
            if isinstance(self._fs, LocalFileSystem):
                _write_file(Path(self._root, path), data)
            else:
                self._fs.pipe_file(f"{self._root}/{path}", data)  # an object store shows an object whole or not at all

    def _write_json(self, path: str, values: dict[str, Any]) -> None:
        self._write(path, json.dumps(values, sort_keys=True, ensure_ascii=False, allow_nan=False).encode())

    def _remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        with self._reached(), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{path}")

    def _remove_folder(self, folder: str) -> None:
        """Remove a folder, if it is there, half-written files included."""
        with self._reached(), contextlib.suppress(FileNotFoundError):
            self._fs.rm(f"{self._root}/{folder}", recursive=True)

    def _address(self, path: str) -> str:
        """Where a person finds a file: its path, or its URL where the store is no folder."""
        place = f"{self._root}/{path}"
        return str(Path(place).resolve()) if isinstance(self._fs, LocalFileSystem) else self._fs.unstrip_protocol(place)

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


def read_all(read: Callable[[str], Result], names: Sequence[str]) -> list[Result]:
    """``read`` each of ``names``, many at the same time; the results are in their order."""
    if len(names) < 2:
        return [read(name) for name in names]
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read, names))


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

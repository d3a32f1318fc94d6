"""Predictions that were made before, on disk, so that Label Studio's repeated calls cost no forward pass."""

import json
import logging
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from hashlib import blake2b
from importlib.metadata import version as version_of
from pathlib import Path
from struct import Struct
from typing import Any, TypeVar

from pydantic_core import from_json, to_json

from underpaint.labelstudio.label_space import LabelSpace

log = logging.getLogger(__name__)

Prediction = dict[str, Any]
Result = TypeVar("Result")

FILE_NAME = "predictions.sqlite"
# Seconds to wait while another process writes: for the file itself when it is opened, and little for one prediction,
# which is made again if it isn't kept, that is all.
OPEN_SECONDS = 5.0
BUSY_SECONDS = 0.1
RETRY_SECONDS = 0.01
# What is thrown out at once when the cache is full, so that not every put has to.
EVICTED_SHARE = 0.1
# Uses that are noted in memory before they are written, for a write costs more than a read.
NOTED_USES = 256
# Bytes that a row takes beside its value.
ROW_BYTES = 120

# Regions may be made otherwise by another release.
_UNDERPAINT = version_of("underpaint")
_LENGTH = Struct("<I")

# The total is kept by triggers, so that it is right whichever process writes. The value comes last, for SQLite reads a
# row from its front; the index alone answers what was used least recently and how large that is.
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
PRAGMA journal_size_limit = 4000000;
CREATE TABLE IF NOT EXISTS predictions (key TEXT PRIMARY KEY, used INTEGER NOT NULL, size INTEGER NOT NULL, value BLOB);
CREATE INDEX IF NOT EXISTS by_use ON predictions (used, size);
CREATE TABLE IF NOT EXISTS total (size INTEGER NOT NULL);
INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT * FROM total);
CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON predictions BEGIN UPDATE total SET size = size + new.size; END;
CREATE TRIGGER IF NOT EXISTS removed AFTER DELETE ON predictions BEGIN UPDATE total SET size = size - old.size; END;
"""
_EVICT = """
DELETE FROM predictions WHERE key IN (
    SELECT key FROM (SELECT key, sum(size) OVER (ORDER BY used, key) - size AS before FROM predictions)
    WHERE before < ?
)
"""


def key(digest: str, version: str, space: LabelSpace, image_key: str, quality: str) -> str:
    """What a prediction depends on, as one hexadecimal hash of 32 characters.

    Args:
        digest: hash of the image file's bytes.
        version: the checkpoint's.
        space: which classes are which labels, and the options of every control.
        image_key: which of a task's images this is.
        quality: as `Segmenter.predict` takes it.
    """
    facts = json.dumps([digest, version, _fingerprint(space), image_key, quality, _UNDERPAINT])
    return blake2b(facts.encode(), digest_size=16).hexdigest()


class PredictionCache:
    """Predictions, ``{"result": [regions], "score": float}``, by `key`, with the least recently used thrown out first.

    Any number of threads and of processes on one machine may share a folder. Nothing that happens to the file is an
    error for who asks: a damaged one is thrown away and made anew, and where none can be written there is no cache;
    the log says so once.

    Args:
        folder: made when absent; on a local disk, since SQLite's write-ahead log needs shared memory.
        max_bytes: of all predictions together; the file may be a few megabytes larger.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._path = folder / FILE_NAME
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._used: dict[str, int] = {}
        self._complained = False
        self._db: sqlite3.Connection | None = None
        self._guarded(self._open)

    def get(self, key: str) -> Prediction | None:
        """The prediction kept under ``key``, equal to what was put, or None."""
        with self._lock:
            row = self._guarded(self._find, key)
        try:
            return _decode(row) if row is not None else None
        except ValueError as error:
            with self._lock:
                self._start_anew(error)
            return None

    def put(self, key: str, prediction: Prediction) -> None:
        """Keep a prediction, unless it is larger than all that may be kept; one that is there already is replaced."""
        value = _encode(prediction)
        if len(value) + ROW_BYTES <= self._max_bytes:
            with self._lock:
                self._guarded(self._keep, key, value)

    def close(self) -> None:
        """Close the file; gets find nothing from now on."""
        with self._lock:
            if self._db is not None:
                self._guarded(self._write_uses)
                self._db.close()
            self._db = None

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        give_up = time.monotonic() + OPEN_SECONDS
        while self._db is None:
            db = sqlite3.connect(self._path, timeout=OPEN_SECONDS, check_same_thread=False, isolation_level=None)
            try:
                db.executescript(_SCHEMA)
                db.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
            except BaseException as error:
                db.close()
                # SQLite doesn't wait where two make the same new file a write-ahead one: either could wait for ever.
                if not _busy(error) or time.monotonic() > give_up:
                    raise
                time.sleep(RETRY_SECONDS)
            else:
                self._db = db

    def _find(self, key: str) -> bytes | None:
        row = self._db.execute("SELECT value FROM predictions WHERE key = ?", (key,)).fetchone() if self._db else None
        if row is None:
            return None
        self._used[key] = time.time_ns()
        if len(self._used) >= NOTED_USES:
            self._write_uses()
        return bytes(row[0])

    def _keep(self, key: str, value: bytes) -> None:
        if self._db is None:
            return
        self._write_uses()
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("DELETE FROM predictions WHERE key = ?", (key,))
            row = (key, time.time_ns(), len(value) + ROW_BYTES, value)
            self._db.execute("INSERT INTO predictions VALUES (?, ?, ?, ?)", row)
            [total] = self._db.execute("SELECT size FROM total").fetchone()
            if total > self._max_bytes:
                self._db.execute(_EVICT, (total - int(self._max_bytes * (1 - EVICTED_SHARE)),))

    def _write_uses(self) -> None:
        used, self._used = self._used, {}
        if self._db is None or not used:
            return
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "UPDATE predictions SET used = ? WHERE key = ?", [(when, key) for key, when in used.items()]
            )

    def _guarded(self, work: Callable[..., Result], *arguments: Any) -> Result | None:
        """What ``work`` returns, or None where the file or the disk doesn't allow it."""
        try:
            return work(*arguments)
        except sqlite3.OperationalError as error:
            if self._db is None or not _busy(error):
                self._complain(error)
        except sqlite3.DatabaseError as error:
            self._start_anew(error)
        except OSError as error:
            self._complain(error)
        return None

    def _start_anew(self, error: Exception) -> None:
        log.warning("the cache of predictions %s is damaged (%s): starting it anew", self._path, error)
        if self._db is not None:
            self._db.close()
            self._db = None
        try:
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(FILE_NAME + suffix).unlink(missing_ok=True)
            self._open()
        except (sqlite3.Error, OSError) as another:
            self._complain(another)

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            log.warning("predictions can't be kept in %s (%s): each is made anew where it is needed", self._path, error)
        self._complained = True


def _busy(error: BaseException) -> bool:
    # The lower byte is the code, and what is above says more of it.
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


@lru_cache(maxsize=256)
def _fingerprint(space: LabelSpace) -> str:
    # Sets are written in order: which comes first in one depends on its history.
    return blake2b(json.dumps(asdict(space), default=sorted).encode(), digest_size=16).hexdigest()


def _encode(prediction: Prediction) -> bytes:
    """A prediction as JSON, with the RLE of its regions, which is nearly all of it, as plain bytes behind.

    As a list of numbers in JSON, RLE takes three times the space and five times the time; that it can be compressed
    by another tenth or two isn't worth the milliseconds.
    """
    rles: list[bytes] = []
    regions = []
    for region in prediction["result"]:
        value = region.get("value")
        if isinstance(value, dict) and isinstance(value.get("rle"), list):
            rles.append(bytes(value["rle"]))
            region = region | {"value": value | {"rle": len(rles[-1])}}
        regions.append(region)
    head = to_json(prediction | {"result": regions})
    content = b"".join([_LENGTH.pack(len(head)), head, *rles])
    return _LENGTH.pack(zlib.crc32(content)) + content


def _decode(value: bytes) -> Prediction:
    """The inverse of `_encode`; raises ValueError where the value is not what was kept."""
    content = memoryview(value)[_LENGTH.size :]
    if len(value) < 2 * _LENGTH.size or zlib.crc32(content) != _LENGTH.unpack_from(value)[0]:
        raise ValueError("a value is not what was written")
    start = _LENGTH.size
    end = start + _LENGTH.unpack_from(content)[0]
    prediction: Prediction = from_json(bytes(content[start:end]))
    for region in prediction["result"]:
        fields = region.get("value")
        if isinstance(fields, dict) and isinstance(fields.get("rle"), int):
            start, end = end, end + fields["rle"]
            fields["rle"] = list(content[start:end])
    return prediction

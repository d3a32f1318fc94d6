"""The cache of predictions, on real files; what is damaged or full here is so on the disk, too."""

import logging
import multiprocessing
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underpaint.labelstudio import rle
from underpaint.labelstudio.label_config import parse
from underpaint.labelstudio.label_space import LabelSpace
from underpaint.serving import cache as cache_module
from underpaint.serving.cache import FILE_NAME, PredictionCache, key

CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="label" toName="image"{}>'
    '<Label value="Sky"/><Label value="Water"/></BrushLabels></View>'
)
SPACE = LabelSpace.match(parse(CONFIG.format("")), ("sky", "water"))


def region(content: list[int] | None = None) -> dict[str, Any]:
    return {
        "id": "1a",
        "type": "brushlabels",
        "value": {"format": "rle", "rle": content if content is not None else [0, 0, 1, 255], "brushlabels": ["Sky"]},
        "score": 0.25,
    }


def prediction(size: int = 4) -> dict[str, Any]:
    """A prediction whose RLE takes ``size`` bytes."""
    return {"result": [region(np.random.default_rng(size).integers(0, 256, size).tolist())], "score": 0.75}


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[PredictionCache]:
    with closing(PredictionCache(tmp_path, 1_000_000)) as cache:
        yield cache


@settings(max_examples=30)
@given(
    rles=st.lists(st.binary(max_size=40), max_size=4),
    label=st.text(st.characters(exclude_categories=["Cs"])),
    score=st.floats(0, 1),
)
def test_what_was_put_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rles: list[bytes], label: str, score: float
) -> None:
    polygon = {"id": "2", "type": "polygonlabels", "value": {"points": [[0.1, 99.9]], "polygonlabels": [label]}}
    kept = {"result": [polygon, *(region(list(content)) for content in rles), polygon], "score": score}
    with closing(PredictionCache(tmp_path_factory.mktemp("cache"), 1_000_000)) as cache:
        cache.put("a", kept)
        assert cache.get("a") == kept
        assert cache.get("b") is None


def test_a_later_put_replaces_an_earlier_one(cache: PredictionCache) -> None:
    cache.put("a", prediction(5))
    cache.put("a", prediction(6))
    assert cache.get("a") == prediction(6)


def test_a_put_changes_nothing_of_what_it_is_given(cache: PredictionCache) -> None:
    mine = prediction(9)
    cache.put("a", mine)
    assert mine == prediction(9)


def test_the_least_recently_used_leaves_first(tmp_path: Path) -> None:
    with closing(PredictionCache(tmp_path, 10_000)) as cache:
        for name in "abcdefg":
            cache.put(name, prediction(1000))
        assert cache.get("a")
        for name in "hijk":
            cache.put(name, prediction(1000))
        left = {name for name in "abcdefghijk" if cache.get(name)}
    assert "a" in left, "a use counts as much as a put"
    assert set("hijk") <= left
    assert not set("bcd") & left
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        [stored] = db.execute("SELECT sum(size) FROM predictions").fetchone()
        assert db.execute("SELECT size FROM total").fetchone() == (stored,)
    assert stored <= 10_000


def test_what_is_larger_than_all_that_may_be_kept_is_not(tmp_path: Path) -> None:
    with closing(PredictionCache(tmp_path, 2000)) as cache:
        cache.put("small", prediction(500))
        cache.put("large", prediction(3000))
        assert cache.get("large") is None
        assert cache.get("small") == prediction(500)


def test_the_file_stays_about_as_small_as_what_is_in_it(tmp_path: Path) -> None:
    with closing(PredictionCache(tmp_path, 1_000_000)) as cache:
        content = prediction(50_000)
        for number in range(200):
            cache.put(str(number), content)
        size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size < 7_000_000, "a write-ahead log of 4 MB is the most there is beside"


def test_another_process_of_the_same_folder_finds_it(cache: PredictionCache, tmp_path: Path) -> None:
    cache.put("a", prediction())
    with closing(PredictionCache(tmp_path, 1_000_000)) as another:
        assert another.get("a") == prediction()
        another.put("b", prediction(7))
    assert cache.get("b") == prediction(7)


def test_a_process_that_makes_the_file_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None, check_same_thread=False)
    with closing(other):
        other.execute("BEGIN IMMEDIATE")  # before it is a write-ahead log, SQLite waits for nobody
        other.execute("CREATE TABLE anything (name TEXT)")
        release = threading.Timer(0.3, other.commit)
        release.start()
        with closing(PredictionCache(tmp_path, 1_000_000)) as cache:
            cache.put("a", prediction())
            assert cache.get("a") == prediction()
        release.join()
    assert caplog.records == []


def _put_and_get(folder: Path, name: str, ready: Any, lost: Any) -> None:
    ready.wait()  # all make the file at once
    with closing(PredictionCache(folder, 10_000_000)) as cache:
        for number in range(30):
            cache.put(f"{name}{number}", prediction(1000 + number))
        for number in range(30):
            found = cache.get(f"{name}{number}")
            lost.value += found is None
            assert found in (None, prediction(1000 + number))


def test_many_processes_and_threads_share_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = multiprocessing.get_context("fork")
    ready, lost = context.Barrier(4), context.Value("i", 0)
    processes = [context.Process(target=_put_and_get, args=(tmp_path, name, ready, lost)) for name in "abcd"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 4
    assert lost.value <= 12, "few puts meet another that takes longer than they wait"

    with closing(PredictionCache(tmp_path, 10_000_000)) as cache:
        assert sum(cache.get(f"{name}{number}") is not None for name in "abcd" for number in range(30)) >= 108
        threads = [threading.Thread(target=cache.put, args=(f"thread {n}", prediction(n))) for n in range(1, 17)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(cache.get(f"thread {n}") == prediction(n) for n in range(1, 17))
    assert caplog.records == []


@pytest.mark.parametrize("damage", ["no database", "header", "pages", "empty"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    path = tmp_path / FILE_NAME
    with closing(PredictionCache(tmp_path, 1_000_000)) as cache:
        for number in range(40):
            cache.put(str(number), prediction(4000))
    content = bytearray(path.read_bytes())
    if damage == "no database":
        content[:] = b"these are not the bytes of a database" * 1000
    elif damage == "header":
        content[:50] = bytes(50)
    elif damage == "pages":
        content[4096:] = b"\xa5" * (len(content) - 4096)
    else:
        content.clear()
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING), closing(PredictionCache(tmp_path, 1_000_000)) as cache:
        for number in range(40):
            assert cache.get(str(number)) in (None, prediction(4000))
        cache.put("new", prediction())
        assert cache.get("new") == prediction()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (0 if damage == "empty" else 1), "an empty file is as good as none"
    assert all("damaged" in message and str(path) in message for message in messages)


def test_a_value_that_is_not_what_was_written_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(PredictionCache(tmp_path, 1_000_000)) as cache:
        cache.put("a", prediction(100))
        cache.put("b", prediction(100))
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db, db:
        [value] = db.execute("SELECT value FROM predictions WHERE key = 'a'").fetchone()
        db.execute("UPDATE predictions SET value = ? WHERE key = 'a'", (value[:-1] + bytes([value[-1] ^ 1]),))
        db.execute("UPDATE predictions SET value = x'00' WHERE key = 'b'")
    with closing(PredictionCache(tmp_path, 1_000_000)) as cache:
        assert cache.get("a") is None
        assert cache.get("b") is None
        cache.put("a", prediction())
        assert cache.get("a") == prediction()
    assert len(caplog.records) == 1


def test_where_nothing_can_be_written_there_is_no_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    cache = PredictionCache(in_the_way, 1_000_000)
    cache.put("a", prediction())
    cache.put("b", prediction())
    assert cache.get("a") is None
    [record] = caplog.records
    assert "can't be kept" in record.getMessage()


def test_a_full_disk_keeps_what_is_there(
    cache: PredictionCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.put("a", prediction())
    assert cache._db is not None
    [pages] = cache._db.execute("PRAGMA page_count").fetchone()
    cache._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to meet a full disk
    for name in "bcd":
        cache.put(name, prediction(100_000))
    assert cache.get("b") is None
    assert cache.get("a") == prediction()
    [record] = caplog.records
    assert "full" in record.getMessage()


def test_a_put_does_not_wait_for_a_writer_that_takes_long(cache: PredictionCache, tmp_path: Path) -> None:
    cache.put("a", prediction())
    with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as another:
        another.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        cache.put("b", prediction())
        assert cache.get("a") == prediction()
        assert time.monotonic() - started < 1
        another.execute("ROLLBACK")
    cache.put("c", prediction())
    assert [bool(cache.get(name)) for name in "abc"] == [True, False, True]


def test_uses_are_written_after_many_of_them(cache: PredictionCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "NOTED_USES", 2)
    for name in "abc":
        cache.put(name, prediction())
    for used, name in enumerate("abc"):
        assert len(cache._used) == used % 2
        assert cache.get(name)


def test_an_ordinary_prediction_takes_well_under_a_millisecond(cache: PredictionCache) -> None:
    rows, columns = np.mgrid[:768, :1024]
    masks = [rows // 40 % 3 == part for part in range(3)] + [np.hypot(rows - 400, columns - 500) < 300 + columns % 9]
    ordinary = {"result": [region(rle.encode(mask)) for mask in masks], "score": 0.5}

    def fastest(work: Any) -> float:
        durations = []
        for _ in range(50):
            started = time.perf_counter()
            work()
            durations.append(time.perf_counter() - started)
        return min(durations)

    assert fastest(lambda: cache.put("a", ordinary)) < 0.001
    assert fastest(lambda: cache.get("a")) < 0.001


def test_a_key_is_of_all_that_a_prediction_depends_on() -> None:
    first = key("digest", "version", SPACE, "image", "fast")
    assert first == key("digest", "version", SPACE, "image", "fast")
    other_space = LabelSpace.match(parse(CONFIG.format("").replace("Sky", "Air")), ("sky", "water"))
    threshold = LabelSpace.match(parse(CONFIG.format(' model_score_threshold="0.5"')), ("sky", "water"))
    swapped = LabelSpace.match(parse(CONFIG.format("")), ("water", "sky"))
    others = [
        key("another", "version", SPACE, "image", "fast"),
        key("digest", "another", SPACE, "image", "fast"),
        key("digest", "version", SPACE, "another", "fast"),
        key("digest", "version", SPACE, "image", "best"),
        *(key("digest", "version", space, "image", "fast") for space in (other_space, threshold, swapped)),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_a_key_does_not_depend_on_how_a_set_of_classes_came_about() -> None:
    # In a table of eight places, 0 and 8 want the same one: the first to come has it, and comes first ever after.
    upward, downward = (
        replace(SPACE, targets=(replace(SPACE.targets[0], class_ids=frozenset(ids)),)) for ids in ([0, 8], [8, 0])
    )
    assert list(upward.targets[0].class_ids) != list(downward.targets[0].class_ids)
    cache_module._fingerprint.cache_clear()
    first = key("digest", "version", upward, "image", "fast")
    cache_module._fingerprint.cache_clear()
    assert key("digest", "version", downward, "image", "fast") == first

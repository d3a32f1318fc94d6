import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from object_store import ObjectStore
from underpaint.checkpoints import Card, Checkpoint, Promotion, Store, StoreError

CARD = Card(
    architecture="FPN",
    encoder="tu-tf_efficientnet_lite0",
    classes=("sky", "sea"),
    image_size=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
FIRST = Checkpoint(CARD, b"the first weights")
SECOND = Checkpoint(replace(CARD, parent=FIRST.version), b"the second weights")


def test_what_is_put_comes_back(url: str) -> None:
    Store(url).check()
    version = Store(url).put(FIRST)
    assert version == FIRST.version
    assert Store(url).put(FIRST) == version
    assert Store(url).get(version) == FIRST
    assert Store(url).card(version) == CARD


def test_the_last_promotion_is_the_champion(url: str) -> None:
    store, reader = Store(url), Store(url)
    assert reader.champion("1.100") is None
    assert reader.projects() == []
    first, second = store.put(FIRST), store.put(SECOND)
    moves = [
        store.promote("1.100", first, "retrain", "the first", {"miou": 0.4}),
        store.promote("1.100", second, "retrain", "better", {"miou": 0.5}),
        store.promote("1.100", first, "ada", "rollback", {}),
    ]
    assert reader.champion("1.100") == moves[-1]
    assert reader.promotions("1.100") == moves
    assert reader.champion("2.100") is None
    assert reader.projects() == ["1.100"]


@pytest.mark.parametrize("ticks", [[5, 5, 5], [5, 4, 3], [0, 0, 0], [2 * 10**18, 0, 1]])
def test_promotions_keep_their_order_whatever_the_clock_does(tmp_path: Path, ticks: list[int]) -> None:
    clock = iter(ticks)
    store = Store(str(tmp_path), clock=lambda: next(clock))
    versions = [store.put(FIRST), store.put(SECOND), store.put(FIRST)]
    for version in versions:
        store.promote("1.100", version, "ada", "", {})
        champion = store.champion("1.100")
        assert champion is not None
        assert champion.version == version
    assert [move.version for move in store.promotions("1.100")] == versions


def test_a_version_that_is_not_there_is_not_promoted(url: str) -> None:
    store = Store(url)
    with pytest.raises(StoreError, match="has no checkpoint 0123456789ab"):
        store.promote("1.100", "0123456789ab", "ada", "", {})
    assert store.projects() == []
    with pytest.raises(StoreError, match="has no checkpoint 0123456789ab"):
        store.get("0123456789ab")


def test_run_records_are_replaced_whole(url: str) -> None:
    store = Store(url)
    assert store.runs("1.100") == []
    store.write_run("1.100", "20250102", {"status": "started", "long": "x" * 999})
    store.write_run("1.100", "20250101", {"status": "finished"})
    store.write_run("1.100", "20250102", {"status": "failed"})
    assert Store(url).runs("1.100") == [{"status": "finished"}, {"status": "failed"}]


@pytest.mark.parametrize("key", ["", ".", "..", "a/b", "../x", "a\\b", "é", "a b", "a\n"])
def test_keys_cannot_leave_their_folder(tmp_path: Path, key: str) -> None:
    store = Store(str(tmp_path / "store"))
    version = store.put(FIRST)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match="cannot name a project"):
        store.promote(key, version, "ada", "", {})
    with pytest.raises(StoreError, match="cannot name a project"):
        store.write_run(key, "20250101", {})
    with pytest.raises(StoreError, match="cannot name a run"):
        store.write_run("1.100", key, {})
    with pytest.raises(StoreError, match="cannot name a version"):
        store.get(key)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["model.safetensors", "card.json"])
def test_changed_files_are_found_out(tmp_path: Path, name: str) -> None:
    store = Store(str(tmp_path))
    path = tmp_path / "checkpoints" / store.put(FIRST) / name
    path.write_bytes(path.read_bytes().replace(b"s", b"z", 1))
    with pytest.raises(StoreError, match=rf"{name}.*backup") as caught:
        store.get(FIRST.version)
    assert str(tmp_path) in str(caught.value)
    path.unlink()
    with pytest.raises(StoreError, match=r"is missing|has no checkpoint"):
        store.get(FIRST.version)


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.promote("1.100", store.put(FIRST), "ada", "", {})
    record = next((tmp_path / "projects/1.100/promotions").iterdir())
    for text in ("", "[]", '{"version": 1}'):
        record.write_text(text)
        with pytest.raises(StoreError, match=record.name):
            store.champion("1.100")


KILLED_WHILE_WRITING = """
import os, signal, sys
from underpaint.checkpoints import Card, Checkpoint, Store
url, kill_at, card, weights = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
calls = 0
def die(_):
    global calls
    calls += 1
    if calls == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = die
Store(url).put(Checkpoint(Card.from_json(card), weights.encode()))
"""


@pytest.mark.parametrize("kill_at", [1, 2])
def test_a_writer_that_is_killed_leaves_no_torn_checkpoint(tmp_path: Path, kill_at: int) -> None:
    arguments = [str(tmp_path), str(kill_at), CARD.to_json(), FIRST.weights.decode()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, *arguments], env=environment, check=False)
    assert child.returncode == -signal.SIGKILL
    folder = tmp_path / "checkpoints" / FIRST.version
    visible = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    assert visible == ["model.safetensors"][: kill_at - 1]
    store = Store(str(tmp_path))
    with pytest.raises(StoreError, match="has no checkpoint"):
        store.get(FIRST.version)
    store.put(FIRST)
    assert store.get(FIRST.version) == FIRST


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    store.write_run("1.100", "20250101", {"status": "old"})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left"):
            store.write_run("1.100", "20250101", {"status": "new"})
    assert store.runs("1.100") == [{"status": "old"}]
    assert [path.name for path in (tmp_path / "projects/1.100/runs").iterdir()] == ["20250101.json"]


def test_readers_beside_writers_see_whole_records_only(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    versions = [store.put(FIRST), store.put(SECOND)]
    store.promote("1.100", versions[0], "ada", "", {})
    seen: list[Promotion | None] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(store.champion("1.100"))

    reader = threading.Thread(target=read)
    reader.start()
    for index in range(50):
        store.promote("1.100", versions[index % 2], "ada", "w" * 5000, {})
    done.set()
    reader.join()
    assert len(store.promotions("1.100")) == 51
    assert seen
    assert all(move is not None and move.version in versions for move in seen)


def test_a_large_file_that_is_replaced_is_read_whole(object_store: ObjectStore) -> None:
    store = Store(f"{object_store.url}/replaced")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store._fs, "default_block_size", 2**16)  # from where on s3fs takes a file for large
        contents = [bytes([letter]) * 2**20 for letter in b"ab"]
        store.write_file("1.100", "training/state.pt", contents[0])
        done = threading.Event()

        def replace_it() -> None:
            while not done.is_set():
                for content in contents:
                    store.write_file("1.100", "training/state.pt", content)

        def read_it() -> bytes | None:
            while True:
                try:
                    return store.read_file("1.100", "training/state.pt")
                except StoreError as error:
                    # Unlike S3, moto breaks off where a file is replaced while it reads it.
                    if "Internal Server Error" not in str(error):
                        raise

        writer = threading.Thread(target=replace_it)
        writer.start()
        seen = [read_it() for _ in range(20)]
        done.set()
        writer.join()
    assert all(content in contents for content in seen)


def test_two_machines_that_promote_at_once_both_stay_in_the_log_and_all_see_one_champion(url: str) -> None:
    stores = [Store(url, clock=lambda: 10**18), Store(url, clock=lambda: 10**18)]
    versions = [stores[0].put(FIRST), stores[0].put(SECOND)]
    both = threading.Barrier(2)

    def promote(number: int) -> None:
        both.wait()
        stores[number].promote("1.100", versions[number], "ada", "", {})

    threads = [threading.Thread(target=promote, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = stores[0].promotions("1.100")
    assert {move.version for move in log} == set(versions)
    assert [store.champion("1.100") for store in stores] == [log[-1]] * 2
    assert stores[1].served("1.100") == [move.version for move in reversed(log)]


def test_check_says_what_to_do_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot be used .* UNDERPAINT_STORE"):
        Store(str(tmp_path / "file" / "store")).check()


def test_check_says_what_to_do_where_the_bucket_is_missing(object_store: ObjectStore) -> None:
    with pytest.raises(StoreError, match=r"cannot be used .*bucket"):
        Store(f"{object_store.url}-missing/store").check()


def test_check_leaves_nothing_behind(tmp_path: Path) -> None:
    Store(str(tmp_path)).check()
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_of_url_is_explained() -> None:
    with pytest.raises(StoreError, match="UNDERPAINT_STORE"):
        Store("nosuch://place")


def test_a_file_has_an_address_that_leads_to_it(url: str) -> None:
    import fsspec

    store = Store(url)
    store.write_file("1.100", "runs/20250101.html", b"<html>")
    address = store.address("1.100", "runs/20250101.html")
    assert address.endswith("/projects/1.100/runs/20250101.html")
    with fsspec.open(address) as file:
        assert file.read() == b"<html>"
    assert ("://" in address) == ("://" in url and not url.startswith("file"))
    assert store.runs("1.100") == []

"""What the ``underpaint`` command says, on a real store and a real Redis, and when one of them is missing."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from rq.job import Job

from underpaint.checkpoints.store import Store
from underpaint.cli import main
from underpaint.settings import get_settings
from underpaint.signals import Signals, job_id

PROJECT = "3.1795344327"
Command = Callable[..., tuple[int, str]]

pytestmark = pytest.mark.usefixtures("settings")


@pytest.fixture
def underpaint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``underpaint(*arguments)``: the command's exit status and everything that it printed."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["underpaint", *arguments])
        get_settings.cache_clear()
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out + printed.err

    return run


@pytest.fixture
def no_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in which every row of a table fits on one line."""
    monkeypatch.setattr("underpaint.cli.console", Console(width=200))


@pytest.fixture
def promoted(store: Store, sky: str, water: str) -> tuple[str, str]:
    """The versions of a project's first and second champion."""
    store.promote(PROJECT, sky, "retrain", "the first", {"miou": 0.25})
    store.promote(PROJECT, water, "retrain", "0.500 is not below 0.250", {"miou": 0.5})
    return sky, water


def test_status_shows_champions_what_waits_and_how_the_last_retrain_ended(
    underpaint: Command, wide: None, store: Store, signals: Signals, promoted: tuple[str, str]
) -> None:
    store.write_run(PROJECT, "1", {"id": "1", "status": "finished", "stage": "promoted", "reason": "better"})
    failed = {"id": "2", "status": "failed", "stage": "train", "error": "NothingToLearn: no accepted labels"}
    store.write_run(PROJECT, "2", failed | {"started": "2026-11-22T10:45:27+00:00"})
    store.write_run("4.1795344328", "1", {"id": "1", "status": "started", "stage": "snapshot"})
    signals.note(PROJECT, 7)
    signals.note("5.1795344329", 2)
    status, said = underpaint("status")
    assert status == 0
    lines = {line.split()[1]: line for line in said.splitlines() if line.startswith("│")}
    assert "7" in lines[PROJECT].split()
    assert promoted[1] in lines[PROJECT]
    assert "2026-11-22 10:45" in lines[PROJECT]
    assert "NothingToLearn: no accepted labels" in lines[PROJECT]
    assert "none yet" in lines["4.1795344328"]
    assert "snapshot" in lines["4.1795344328"]
    assert "2" in lines["5.1795344329"].split()


def test_status_fits_a_terminal_of_80_columns_and_says_how_far_a_retrain_is(
    underpaint: Command, monkeypatch: pytest.MonkeyPatch, store: Store, signals: Signals, promoted: tuple[str, str]
) -> None:
    monkeypatch.setattr("underpaint.cli.console", Console(width=80))
    reason = "Not promoted: boat falls by 0.213 in IoU, which is more than 0.1"
    store.write_run(PROJECT, "1", {"id": "1", "status": "finished", "started": "2026-11-22T10:45", "reason": reason})
    signals.enqueue_retrain("12.1795344328", timeout=60)
    signals.note("12.1795344328", 2)
    job = Job.fetch(job_id("12.1795344328"), connection=signals.redis)
    job.meta.update(stage="train", epoch=3, epochs=20, loss=0.5123, eta_seconds=42.4)
    job.save_meta()  # type: ignore[no-untyped-call]
    _, said = underpaint("status")
    assert max(map(len, said.splitlines())) <= 80
    cells = " ".join(line.split("│")[4].strip() for line in said.splitlines() if line.startswith("│"))
    assert f"2026-11-22 10:45 {reason}" in cells
    assert cells.endswith("train: epoch 3 of 20, loss 0.512, 42 s left"), "projects go by their numbers"


def test_status_works_without_redis_and_says_what_it_can_not_know(
    underpaint: Command, no_redis: None, promoted: tuple[str, str]
) -> None:
    status, said = underpaint("status")
    assert status == 0
    assert promoted[1] in said
    assert "unknown" in said


def test_status_of_an_empty_store(underpaint: Command) -> None:
    assert underpaint("status")[0] == 0


def test_retrain_without_a_worker_names_the_command_that_starts_one(
    underpaint: Command, signals: Signals, promoted: tuple[str, str]
) -> None:
    assert_one_line(underpaint("retrain", "3"), "underpaint work")
    assert signals.job(job_id(PROJECT)) is None


def test_checkpoints_lists_every_promotion_in_order(underpaint: Command, wide: None, promoted: tuple[str, str]) -> None:
    status, said = underpaint("checkpoints", "3")
    assert status == 0
    first, second = (next(line for line in said.splitlines() if version in line) for version in promoted)
    assert said.index(first) < said.index(second)
    assert "0.250" in first
    assert "retrain" in first
    assert "0.500 is not below 0.250" in second


def test_rollback_goes_to_the_previous_champion_and_is_a_move_itself(
    underpaint: Command, store: Store, promoted: tuple[str, str]
) -> None:
    first, second = promoted
    status, said = underpaint("rollback", "3")
    assert status == 0
    assert f"now serves {first}" in said
    move = store.promotions(PROJECT)[-1]
    assert (move.version, move.who, move.metrics) == (first, "admin", {"miou": 0.25})
    assert second in move.why
    assert len(store.promotions(PROJECT)) == 3


def test_rollback_goes_to_a_named_checkpoint_without_redis_too(
    underpaint: Command, store: Store, no_redis: None, promoted: tuple[str, str]
) -> None:
    assert underpaint("rollback", PROJECT, promoted[0])[0] == 0
    champion = store.champion(PROJECT)
    assert champion is not None
    assert champion.version == promoted[0]


def test_what_was_pruned_is_shown_as_gone_and_can_not_be_served(
    underpaint: Command, wide: None, store: Store, promoted: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = promoted
    monkeypatch.setenv("UNDERPAINT_KEEP_CHECKPOINTS", "1")
    for path in Path(store.url, "checkpoints").glob("*/*"):
        os.utime(path, (1e9, 1e9))
    for arguments, what in ((("--dry-run",), "would be"), ((), "were")):
        status, said = underpaint("prune", *arguments)
        assert (status, said.split()) == (0, [first, "1", "checkpoints", *what.split(), "removed"])
    shown = [line.split("│")[1:3] for line in underpaint("checkpoints", "3")[1].splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in shown] == [[first, "no"], [second, "yes"]]
    for arguments in ((), (first,)):
        assert_one_line(underpaint("rollback", "3", *arguments), f"{first} was pruned", "UNDERPAINT_KEEP_CHECKPOINTS")
    assert len(store.promotions(PROJECT)) == 2


def test_rollback_with_nothing_to_go_back_to(underpaint: Command, store: Store, sky: str) -> None:
    assert_one_line(underpaint("rollback", PROJECT), "no champion yet")
    store.promote(PROJECT, sky, "test", "first", {})
    assert_one_line(underpaint("rollback", "3"), "one champion only", sky)
    assert_one_line(underpaint("rollback", "3", "0123456789ab"), "no checkpoint 0123456789ab")
    assert len(store.promotions(PROJECT)) == 1


def test_a_project_without_champion_has_the_base_and_may_go_back_to_it(
    underpaint: Command, wide: None, store: Store, base: str, water: str
) -> None:
    store.write_run(PROJECT, "1", {"id": "1", "status": "started", "stage": "snapshot"})
    assert "none yet (base)" in underpaint("status")[1]
    store.promote(PROJECT, water, "test", "first", {})
    assert_one_line(underpaint("rollback", "3"), "one champion only", water, f"name {base} to go back to the base")
    status, said = underpaint("rollback", "3", base)
    assert status == 0
    assert f"now serves {base}" in said
    assert store.get(base).version == base


def test_a_base_that_is_not_there_is_one_line(
    underpaint: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNDERPAINT_BASE", str(tmp_path))
    assert_one_line(underpaint("status"), str(tmp_path), "UNDERPAINT_BASE")


@pytest.mark.parametrize(
    ("command", "project"),
    [
        (("checkpoints",), "99"),
        (("rollback",), "99"),
        (("retrain",), "harbour"),
        (("prelabel", ".", "--project"), "[3]"),
        (("checkpoints",), "../3"),
    ],
)
def test_an_unknown_project_is_named_beside_the_known_ones(
    underpaint: Command, promoted: tuple[str, str], command: tuple[str, ...], project: str
) -> None:
    assert_one_line(underpaint(*command, project), f"no project '{project}'", PROJECT, "UNDERPAINT_STORE")


def test_with_redis_down_a_retrain_says_so(underpaint: Command, no_redis: None, promoted: tuple[str, str]) -> None:
    assert_one_line(underpaint("retrain", "3"), "Redis", "REDIS_URL")


def test_a_store_that_is_no_folder_is_one_line(
    underpaint: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNDERPAINT_STORE", "gopher://somewhere")
    assert_one_line(underpaint("status"), "gopher://somewhere", "`underpaint[s3]`")


def test_a_setting_that_is_out_of_range_is_named(underpaint: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERPAINT_IMAGE_SIZE", "1")
    assert_one_line(underpaint("status"), "UNDERPAINT_IMAGE_SIZE", "64")


def assert_one_line(ended: tuple[int, str], *said: str) -> None:
    status, printed = ended
    assert status == 1
    assert len(printed.strip().splitlines()) == 1, printed
    assert printed.startswith("error: ")
    for part in said:
        assert part in printed

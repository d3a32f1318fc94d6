"""The soak's books: each check fails when it should, for what sees nothing finds nothing wrong."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from http_server import Answer, serve
from soak.books import (
    Check,
    Stage,
    differences,
    doubled,
    left_keys,
    overlaps,
    stages_of,
    stray_promotions,
    unknown_ends,
)
from soak.exchanges import REDIS, Exchange, Ledger
from soak.gate import Gate
from soak.journal import Journal, Outages
from soak.resources import Sample, growth, sample
from underpaint.checkpoints.store import Promotion

PROJECT = "3.1795344327"


def run(minute: int, seconds: float | None = 30.0, status: str = "finished", **facts: Any) -> dict[str, Any]:
    """A run that began at this minute."""
    record = {"id": f"20260102T03{minute:02}00000000", "project": PROJECT, "status": status, **facts}
    return record if seconds is None else record | {"seconds": seconds}


def trained(minute: int, snapshot: str, champion: str, version: str, **facts: Any) -> dict[str, Any]:
    return run(minute, snapshot=snapshot, champion=champion, version=version, **facts)


def move(minute: int, version: str, who: str = "retrain") -> Promotion:
    when = datetime(2026, 1, 2, 3, minute, 20, tzinfo=UTC).isoformat(timespec="milliseconds")
    return Promotion(version, when, who, "why", {})


def stage(minute: int, second: int, log: str, name: str) -> Stage:
    return Stage(datetime(2026, 1, 2, 3, minute, second, tzinfo=UTC).timestamp(), log, PROJECT, name)


def test_labels_that_differ_are_told() -> None:
    assert differences({1: "a", 2: "b"}, {1: "a", 2: "b"}) == []
    assert len(differences({1: "a", 2: "b", 3: "c"}, {1: "a", 2: "other", 4: "d"})) == 3


def test_a_run_must_end_in_a_known_way() -> None:
    assert unknown_ends([run(0), run(1, status="failed", error="StoreError: full"), run(2, None, "interrupted")]) == []
    assert len(unknown_ends([run(0, None, "started")])) == 1
    assert len(unknown_ends([run(0, status="failed", error="KeyError: 'x'")])) == 1
    assert len(unknown_ends([run(0, report_error="ValueError: no")])) == 1


def test_runs_that_overlap_are_told() -> None:
    assert overlaps([run(0, 60.0), run(1)], []) == []
    assert len(overlaps([run(0, 61.0), run(1)], [])) == 1


def test_a_killed_run_that_went_on_is_told_by_its_workers_log() -> None:
    runs = [run(0, None, "interrupted"), run(1)]
    before = [stage(0, 0, "1.log", "snapshot"), stage(0, 9, "1.log", "train"), stage(1, 0, "2.log", "snapshot")]
    assert overlaps(runs, before) == []
    assert overlaps(runs, [*before, stage(1, 5, "2.log", "train"), stage(1, 9, "1.log", "snapshot")]) == []
    assert len(overlaps(runs, [*before, stage(1, 5, "1.log", "evaluate")])) == 1


def test_a_workers_log_tells_its_stages() -> None:
    text = "2026-01-02 03:04:05,678 INFO underpaint_workers.runs: project 3.1795344327: train {'training': 8}\nother\n"
    [found] = stages_of("1.log", text)
    assert (found.project, found.name, round(found.when % 60, 3)) == (PROJECT, "train", 5.678)


def test_the_same_labels_are_learned_once() -> None:
    first, again = trained(0, "s", "p", "c"), trained(2, "s", "c", "d")
    assert doubled([first, trained(2, "t", "c", "d")], []) == []
    assert doubled([first, run(2, snapshot="s", stage="unchanged")], []) == []
    assert len(doubled([first, again], [move(0, "c")])) == 1
    assert len(doubled([first, again], [])) == 1  # refused, so the parent still serves
    assert doubled([first, again], [move(0, "c"), move(1, "older", "admin")]) == []  # from another parent


def test_each_promotion_belongs_to_one_run() -> None:
    runs, snapshots = [trained(0, "s", "p", "c"), trained(2, "t", "c", "d")], {"c": "s", "d": "t", "e": "s"}
    assert stray_promotions(runs, [move(0, "c"), move(1, "p", "admin"), move(2, "d")], snapshots) == []
    assert len(stray_promotions(runs, [move(0, "c"), move(1, "c")], snapshots)) == 1
    assert len(stray_promotions(runs, [move(0, "e")], snapshots)) == 1
    assert len(stray_promotions(runs[1:], [move(0, "c")], snapshots)) == 1
    killed = run(0, None, "interrupted", snapshot="s")
    assert stray_promotions([killed], [move(0, "c")], snapshots) == []
    assert len(stray_promotions([killed | {"snapshot": "t"}], [move(0, "c")], snapshots)) == 1


def test_keys_of_jobs_are_left_over() -> None:
    assert left_keys(["rq:workers", "rq:worker:1", "underpaint:connection:3.1", "underpaint:reconciled"]) == []
    left = ["rq:job:retrain-3-1", "rq:executions:reconcile", "underpaint:pending", "underpaint:retraining:3.1"]
    assert left_keys(left) == sorted(left)


def test_a_check_with_a_problem_is_not_met() -> None:
    assert Check("x", "0", "0").met
    assert not Check("x", "1", "0", ("so",)).met


def exchange(path: str = "/predict", answer: object = None, **fields: Any) -> Exchange:
    request = {"tasks": [{"id": 1}, {"id": 2}]} if path == "/predict" else {}
    body = json.dumps(request).encode()
    values: dict[str, Any] = {"began": 0.0, "ended": 0.5, "status": 200, "request": body} | fields
    return Exchange("backend 1", path, answer=json.dumps(answer).encode(), **values)


def answer(*slots: Mapping[str, Any] | list[Any], version: str = "v") -> dict[str, Any]:
    return {"results": list(slots), "model_version": version}


GOOD = {"result": [], "score": 0.5, "model_version": "v"}


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (exchange(answer=answer(GOOD, GOOD)), ""),
        (exchange(answer=answer(GOOD)), "1 results for 2 tasks"),
        (exchange(answer=answer(GOOD, GOOD | {"model_version": "w"})), "versions"),
        (exchange(answer=answer(GOOD, [])), "not reached"),
        (exchange(answer=answer(GOOD, GOOD | {"reason": "no such file"})), "no such file"),
        (exchange(answer="nonsense"), "can't be read"),
        (exchange("/health", status=500), "500"),
        (exchange("/setup", status=None), "no answer"),
    ],
)
def test_an_answer_is_judged_as_label_studio_would(given: Exchange, fault: str) -> None:
    assert fault in given.fault()
    assert bool(given.fault()) == bool(fault)


def test_an_answer_after_label_studio_hung_up_is_late() -> None:
    assert exchange("/health", ended=1.2).late
    assert not exchange("/setup", ended=1.2).late
    assert not exchange("/webhook", ended=1.2, request=b'{"action": "START_TRAINING"}').late
    assert exchange("/webhook", ended=1.2, request=b'{"action": "ANNOTATION_CREATED"}').late


def test_only_what_was_taken_down_on_purpose_is_excused(tmp_path: Path) -> None:
    outages = Outages()
    with outages.of("backend 1"):
        pass
    later = time.monotonic() + 60
    during: dict[str, Any] = {"began": 0.0, "ended": later}
    assert exchange(status=None, **during).excused(outages)
    assert not exchange(status=None, began=later, ended=later + 1).excused(outages)
    assert not exchange(status=500, **during).excused(outages)  # it did answer
    training: dict[str, Any] = {"status": 503, "request": b'{"action":"START_TRAINING"}', **during}
    assert not exchange("/webhook", **training).excused(outages)
    with outages.of(REDIS):
        assert exchange("/webhook", **training).excused(outages)
        assert not exchange("/predict", status=503, **during).excused(outages)
    ledger = Ledger(outages, Journal(tmp_path / "log"))
    good = answer(GOOD, GOOD)
    for each in (exchange(status=None, **during), exchange(answer=good), exchange(status=500)):
        ledger.enter(each)
    ledger.enter(exchange(answer=good, ended=101.0))
    counts = ledger.excused.total(), len(ledger.failed), len(ledger.late), ledger.count, ledger.predictions
    assert counts == (1, 1, 1, 4, 4)


def test_the_gate_sees_what_a_backend_answers_and_that_it_does_not() -> None:
    seen: list[Exchange] = []
    with serve(lambda request: Answer(request.body, 418)) as backend, Gate("one", backend.url, seen.append) as gate:
        assert httpx.post(f"{gate.url}/setup", content=b"tea", trust_env=False).text == "tea"
        gate.target = "127.0.0.1:9"
        assert httpx.get(f"{gate.url}/health", trust_env=False).status_code == 502
    assert [(each.kind, each.status) for each in seen] == [("/setup", 418), ("/health", None)]
    assert "refused" in seen[1].fault()


def samples(memory: float, files: int = 20, threads: int = 10) -> list[Sample]:
    """A process that holds this much more at the end of 100 samples, after a steep beginning."""
    return [
        Sample(36.0 * each, 300 + memory * each / 100 - 200 * (each < 20), 20 + (files - 20) * each // 100, threads)
        for each in range(100)
    ]


def test_what_grows_is_told() -> None:
    bounds = {"memory_share": 0.15, "memory_mib": 40.0, "files": 5, "threads": 5}
    assert growth(samples(10)).problems(**bounds) == []  # type: ignore[arg-type]
    assert growth(samples(10)).slope == pytest.approx(10.0)
    assert len(growth(samples(200)).problems(**bounds)) == 1  # type: ignore[arg-type]
    assert len(growth(samples(0, files=60)).problems(**bounds)) == 1  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="run for longer"):
        growth(samples(0)[:4])


def test_a_process_is_sampled() -> None:
    before = sample(os.getpid(), 0.0)
    with Path(os.devnull).open() as _:
        assert sample(os.getpid(), 1.0).files == before.files + 1
    assert before.memory > 10
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(OSError, match="No such"):
        sample(ended.pid, 0.0)

"""An admin who decides otherwise than the gate did, on a store and a Redis that are real."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from underpaint.admin import Admin, AdminError
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store, StoreError
from underpaint.settings import Settings
from underpaint.signals import Signals

PROJECT = "3.1795344327"
Make = Callable[..., Checkpoint]


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings.store)


@pytest.fixture
def admin(settings: Settings) -> Admin:
    return Admin(settings.model_copy(update={"base": "none"}))


def test_a_refused_challenger_is_promoted_with_the_gates_reason(
    admin: Admin, store: Store, signals: Signals, make_checkpoint: Make
) -> None:
    serving = store.put(make_checkpoint(("sky", "water"), "sky"))
    refused = store.put(make_checkpoint(("sky", "water"), "water"))
    store.promote(PROJECT, serving, "retrain", "the first", {})
    store.write_run(PROJECT, "1", {"id": "1", "version": refused, "reason": "Not promoted: boat falls by 0.2."})
    stopping, heard = threading.Event(), []

    def listen() -> None:
        for project in signals.promoted(stopping):
            heard.append(project)
            stopping.set()

    listener = threading.Thread(target=listen)
    listener.start()
    while not any(signals.redis.pubsub_numsub("underpaint:promoted")[0][1:]):
        pass
    move = admin.promote(PROJECT, refused)
    listener.join(timeout=10)
    assert store.champion(PROJECT) == move
    assert (move.version, move.who) == (refused, "admin")
    assert move.why == "promoted by hand; the gate said: Not promoted: boat falls by 0.2."
    assert heard == [PROJECT]
    assert admin.rollback(PROJECT, None).version == serving


def test_only_what_a_retrain_made_is_promoted_and_only_once(admin: Admin, store: Store, make_checkpoint: Make) -> None:
    first = store.put(make_checkpoint(("sky",), "sky"))
    store.write_run(PROJECT, "0", {"id": "0", "error": "no accepted labels"})
    with pytest.raises(AdminError, match="they made: none yet"):
        admin.promote(PROJECT, first)
    store.write_run(PROJECT, "1", {"id": "1", "version": first})
    store.write_run(PROJECT, "2", {"id": "2", "version": "0123456789ab"})
    assert admin.promote(PROJECT, first).version == first  # though nothing served before
    with pytest.raises(AdminError, match=r"serves .* already"):
        admin.promote(PROJECT, first)
    with pytest.raises(AdminError, match=f"made ffffffffffff .*{first}"):
        admin.promote(PROJECT, "ffffffffffff")
    with pytest.raises(StoreError, match="has no checkpoint 0123456789ab"):
        admin.promote(PROJECT, "0123456789ab")
    assert len(store.promotions(PROJECT)) == 1


def test_the_report_that_is_meant_is_found(admin: Admin, store: Store) -> None:
    with pytest.raises(AdminError, match=r"no retrain of project .* has left a report"):
        admin.report(PROJECT, None)
    for run in ("20250101", "20250102"):
        store.write_file(PROJECT, f"runs/{run}.html", run.encode())
        store.write_run(PROJECT, run, {"id": run, "report": f"runs/{run}.html"})
    store.write_run(PROJECT, "20250103", {"id": "20250103", "error": "it failed before"})
    assert Path(admin.report(PROJECT, None)).read_text() == "20250102"
    assert Path(admin.report(PROJECT, "20250101")).read_text() == "20250101"
    with pytest.raises(AdminError, match=r"no report of a run '20250103'.*20250101, 20250102"):
        admin.report(PROJECT, "20250103")

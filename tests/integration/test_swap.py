"""Champions swapped while clients ask without a pause."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import pytest

from app_server import listening
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store
from underpaint.serving.app import create_app
from underpaint.settings import get_settings
from underpaint.signals import Signals

PROJECT = "3.1795344327"
CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    '<Label value="Sky"/><Label value="Water"/></BrushLabels></View>'
)
SWAPS = 20
CLIENTS = 4


@contextmanager
def constant_load(url: str, painting: str) -> Iterator[list[tuple[int, Any]]]:
    """Clients that ask for one task or three, each as soon as it has its answer; and those answers."""
    answers: list[tuple[int, Any]] = []
    stopping = threading.Event()
    numbers = itertools.count()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=60.0, trust_env=False) as client:
            while not stopping.is_set():
                number = next(numbers)
                tasks = [{"id": place, "data": {"image": painting}} for place in range(1 + 2 * (number % 2))]
                body = {"tasks": tasks, "project": PROJECT, "label_config": CONFIG, "params": {}}
                answer = client.post("/predict", json=body)
                answers.append((answer.status_code, answer.json()))

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def test_twenty_swaps_fail_no_request_and_no_answer_is_made_by_two(
    store: Store, signals: Signals, checkpoints: dict[str, Checkpoint], painting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERPAINT_CACHE_BYTES", "0")  # each prediction costs a pass
    get_settings.cache_clear()
    labels = {}
    for name in ("sky", "water"):
        card = replace(checkpoints[name].card, snapshot="swapped")
        labels[store.put(replace(checkpoints[name], card=card))] = name.title()
    turns = itertools.islice(itertools.cycle(labels), SWAPS + 1)
    store.promote(PROJECT, next(turns), "test", "first", {})
    with listening(create_app(get_settings())) as url, constant_load(url, painting) as answers:
        for version in turns:
            _wait_for(partial(_grew, answers, len(answers) + CLIENTS))
            store.promote(PROJECT, version, "test", "test", {})
            signals.announce(PROJECT)
            _wait_for(partial(_serves, url, version))
    assert {status for status, _ in answers} == {200}
    seen = set()
    for _, answer in answers:
        [version] = {prediction["model_version"] for prediction in answer["results"]} | {answer["model_version"]}
        drawn = {region["value"]["brushlabels"][0] for each in answer["results"] for region in each["result"]}
        assert drawn == {labels[version]}
        seen.add(version)
    assert seen == set(labels)


def _grew(answers: list[Any], beyond: int) -> bool:
    return len(answers) > beyond


def _serves(url: str, version: str) -> bool:
    return bool(httpx.get(f"{url}/health", trust_env=False).json()["champions"].get(PROJECT) == version)


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)

"""The end of the day: everybody has gone, and what they left is learned from."""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from integration.processes import eventually
from soak.books import differences, left_keys
from soak.house import House, Place
from soak.journal import Journal
from underpaint.labelstudio.label_config import parse
from underpaint_workers import snapshot
from underpaint_workers.manifest import Entry, Manifest

SECONDS = 900.0


def held(house: House, place: Place) -> dict[int, str]:
    """By task, a digest of the label that counts, as Label Studio tells it one task after the other."""
    config, settings = parse(place.config), house.underpaint.settings
    found = {}
    for task in house.label_studio.tasks(place.id, include="id,data"):
        annotations = house.label_studio.get(f"/api/tasks/{task['id']}/annotations/")
        if digest := Entry.of(task | {"annotations": annotations}, config, settings).digest:
            found[task["id"]] = digest
    return found


def learned(house: House, place: Place) -> dict[int, str]:
    """The same, as the last snapshot has it."""
    entries = Manifest.read(house.underpaint.store, place.key).tasks
    return {task: entry.digest for task, entry in entries.items() if entry.digest}


def fingerprint(house: House, place: Place) -> str:
    """That of a snapshot which is taken now."""
    with tempfile.TemporaryDirectory() as folder:
        return snapshot.take(house.label_studio, place.id, Path(folder), house.underpaint.settings).fingerprint


def settle(house: House, journal: Journal) -> list[str]:
    """Have all labels learned from, first those that nobody told of, then by Start Training; what doesn't happen."""
    for place in house.places:
        house.set_webhook(place, active=True)
    labels = {place.key: held(house, place) for place in house.places}
    signals = house.underpaint.signals
    journal.say("settling", f"{ {key: len(tasks) for key, tasks in labels.items()} } labels")

    def quiet(place: Place) -> bool:
        if signals.is_retraining(place.key) or place.key in signals.pending():
            return False
        return not differences(labels[place.key], learned(house, place))

    def train_once_more(place: Place) -> None:
        before = len(runs(place))
        house.label_studio.train(place.connection)
        eventually(lambda: len(runs(place)) > before, f"project {place.key}: the last retrain begins", SECONDS)
        eventually(lambda: not signals.is_retraining(place.key), f"project {place.key}: the last retrain ends", SECONDS)

    def runs(place: Place) -> list[dict[str, Any]]:
        return house.underpaint.store.runs(place.key)

    problems = []
    signals.enqueue_reconcile(60, at_once=True)
    for place in house.places:
        try:
            eventually(partial(quiet, place), f"project {place.key}: every label is learned from", SECONDS)
            train_once_more(place)
        except AssertionError as error:
            problems.append(str(error))
            journal.say("settling", f"FAILED: {error}")
    return problems


def keys_left(house: House, seconds: float = 120.0) -> list[str]:
    """Keys that are still in Redis when those of failed jobs and killed workers have had their time."""
    deadline = time.monotonic() + seconds
    while True:
        keys = left_keys(key.decode() for key in house.underpaint.signals.redis.scan_iter())
        if not keys or time.monotonic() > deadline:
            return keys
        time.sleep(1.0)

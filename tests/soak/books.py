"""What must be true at the end. Each check says what is wrong, by plain values, so that it can be tried by itself."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from underpaint.checkpoints.store import Promotion

Run = Mapping[str, Any]
ENDS = ("finished", "cancelled", "failed", "interrupted")
# Errors that a run may end with here, by what brings them about: a disk that is full, labels that are all deleted, a
# worker that another took over from, a Label Studio that is too busy to answer.
KNOWN_ERRORS = ("StoreError", "NothingToLearn", "Busy", "Cancelled", "LabelStudioError")
# Redis holds where Label Studio is, when it was last looked for labels, and which workers and queues there are.
REDIS_KEYS = re.compile(
    r"underpaint:(connection:.*|reconciled)|rq:(workers|workers:.*|worker:.*|queues|clean_registries:.*|.*:lock)"
)
_STAGE = re.compile(r"(\S+ \S+) INFO underpaint_workers\.runs: project (\S+): (\w+)")
_ROUNDING = 0.1  # seconds to which a run's duration is noted


@dataclass(frozen=True)
class Check:
    """One line of the table: met if there are no problems."""

    name: str
    found: str
    wanted: str
    problems: tuple[str, ...] = ()

    @property
    def met(self) -> bool:
        return not self.problems


@dataclass(frozen=True)
class Stage:
    """A worker's log says that a retrain entered a stage; ``when`` in Unix seconds."""

    when: float
    log: str
    project: str
    name: str


def stages_of(log: str, text: str) -> list[Stage]:
    """The stages that a worker's log tells of."""
    found = []
    for when, project, name in _STAGE.findall(text):
        seconds = datetime.strptime(when, "%Y-%m-%d %H:%M:%S,%f").timestamp()
        found.append(Stage(seconds, log, project, name))
    return found


def began(run: Run) -> float:
    """When a run began, in Unix seconds."""
    return datetime.strptime(run["id"], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC).timestamp()


def differences(held: Mapping[int, str], snapshot: Mapping[int, str]) -> list[str]:
    """Tasks whose label in Label Studio isn't the one in the snapshot; both by task, as digests."""
    return [
        f"task {task}: {held.get(task, 'nothing')} in Label Studio, {snapshot.get(task, 'nothing')} in the snapshot"
        for task in sorted({*held, *snapshot})
        if held.get(task) != snapshot.get(task)
    ]


def unknown_ends(runs: Iterable[Run]) -> list[str]:
    """Runs that ended otherwise than a run may."""
    return [
        f"run {run['id']}: {run['status']} at {run.get('stage')}: {run.get('error', '')}"
        for run in runs
        if run["status"] not in ENDS
        or (run["status"] == "failed" and not str(run.get("error", "")).startswith(KNOWN_ERRORS))
        or "report_error" in run
    ]


def overlaps(runs: Sequence[Run], stages: Iterable[Stage]) -> list[str]:
    """Runs of one project, in order, that went on when the next had begun.

    The record of a killed one doesn't say when it ended; then the last stage counts that its worker logged.
    """
    stages = sorted(stages, key=lambda stage: stage.when)
    found = []
    for run, following in pairwise(runs):
        if "seconds" in run:
            end = began(run) + run["seconds"] - _ROUNDING
        else:
            end = _last_sign(began(run), run["project"], stages)
        if end > began(following):
            found.append(f"run {run['id']} went on for {end - began(following):.1f} s beside {following['id']}")
    return found


def _last_sign(start: float, project: str, stages: Sequence[Stage]) -> float:
    """When the run that began at ``start`` last entered a stage: until its worker began with another snapshot."""
    own = [stage for stage in stages if stage.project == project and stage.when >= start - 1]
    first = next((stage for stage in own if stage.name == "snapshot"), None)
    if first is None:
        return start
    last = first.when
    for stage in own:
        if stage.log == first.log and stage.when > first.when:
            if stage.name == "snapshot":
                break
            last = stage.when
    return last


def doubled(runs: Sequence[Run], promotions: Sequence[Promotion]) -> list[str]:
    """Trainings on the labels that the training before had learned, while what came of that, or its parent, served."""
    trained = [run for run in runs if "version" in run]
    found = []
    for before, again in pairwise(trained):
        moves = [move for move in promotions if _seconds(move) < began(again)]
        serving = moves[-1].version if moves else before["champion"]
        if before["snapshot"] == again["snapshot"] and serving in (before["champion"], before["version"]):
            found.append(f"run {again['id']} learned snapshot {again['snapshot']} again, after {before['id']}")
    return found


def stray_promotions(runs: Sequence[Run], promotions: Iterable[Promotion], snapshots: Mapping[str, str]) -> list[str]:
    """Promotions by a retrain that are not the one promotion of the run that went on then.

    ``snapshots`` has, by version, the fingerprint of the snapshot that it was trained on.
    """
    found, owners = [], set()
    for move in promotions:
        if move.who != "retrain":
            continue
        owner = max((run for run in runs if began(run) <= _seconds(move)), key=began, default=None)
        told = owner and (owner.get("version") == move.version or owner["status"] == "interrupted")
        if owner is None or not told or owner.get("snapshot") != snapshots[move.version]:
            found.append(f"{move.version}, promoted at {move.when}, is no run's")
        elif owner["id"] in owners:
            found.append(f"{move.version}, promoted at {move.when}, is the second of run {owner['id']}")
        else:
            owners.add(owner["id"])
    return found


def _seconds(move: Promotion) -> float:
    return datetime.fromisoformat(move.when).timestamp() + 0.001  # it is noted in whole milliseconds, cut off


def left_keys(keys: Iterable[str]) -> list[str]:
    """Keys in Redis that something left behind."""
    return sorted(key for key in keys if not REDIS_KEYS.fullmatch(key))

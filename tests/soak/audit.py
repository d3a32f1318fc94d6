"""The books are closed: what is in Label Studio, store, Redis and on the machine, held against what must be."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import httpx

from soak.actor import Actor
from soak.books import (
    Check,
    Stage,
    differences,
    doubled,
    overlaps,
    stages_of,
    stray_promotions,
    unknown_ends,
)
from soak.exchanges import Ledger
from soak.house import House, Place
from soak.journal import Journal
from soak.resources import Growth, Watch, growth
from soak.saboteur import Saboteur
from soak.settling import fingerprint, held, keys_left, learned
from underpaint_workers.manifest import Manifest

# A backend's caches and the allocator's arenas fill for longer than a short run; a leak would go on.
MEMORY_SHARE, MEMORY_MIB = 0.15, 40.0
FILES, THREADS = 6, 8
LATE_SHARE = 0.001
_HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{32}")


def audit(
    house: House,
    ledger: Ledger,
    journal: Journal,
    saboteur: Saboteur,
    actors: Sequence[Actor],
    watch: Watch,
    unsettled: Sequence[str],
) -> dict[str, Any]:
    """Everything that was measured; ``checks`` says what is met. All processes but Label Studio end in between."""
    grown = {name: growth(samples) for name, samples in watch.samples.items()}
    checks = [
        _check("labels in Label Studio = in the last snapshot", _labels(house, unsettled), "equal"),
        _check("requests failed", ledger.failed, "0"),
        _late(ledger),
        _check("what people wanted and didn't get", [each for actor in actors for each in actor.broken], "0"),
        _check("retrains doubled", _doubled(house), "0"),
        _check("retrains that ended in no known way", _unknown(house, saboteur), "0"),
        _check("promotions that no retrain accounts for", _promotions(house), "0"),
        _check("backends that serve another than the champion", _serving(house), "0"),
        _check("memory, open files and threads that grew", _growth(grown), "none"),
        _check("keys left in Redis", keys_left(house), "none"),
    ]
    result = _figures(house, ledger, journal, watch, grown)
    for part in house.parts:
        part.end()
    checks += [
        _check("processes that ended by themselves", [each for part in house.parts for each in part.deaths], "0"),
        _check("processes left", _processes(house), "none"),
        _check("files left", _files(house), "none"),
    ]
    return {
        "checks": [
            {"name": each.name, "found": each.found, "wanted": each.wanted, "met": each.met, "problems": each.problems}
            for each in checks
        ],
        **result,
    }


def _check(name: str, problems: Iterable[str], wanted: str) -> Check:
    problems = tuple(problems)
    return Check(name, wanted if not problems else str(len(problems)), wanted, problems)


def _late(ledger: Ledger) -> Check:
    """Label Studio asks again, or a look for labels makes up for it: a busy machine may be late now and then."""
    late, most = ledger.late, LATE_SHARE * ledger.count
    wanted = f"≤ {LATE_SHARE:.1%}"
    return Check(
        "answers later than Label Studio waits",
        f"{len(late)} of {ledger.count}",
        wanted,
        tuple(late) if len(late) > most else (),
    )


def _each(house: House, look: Callable[[Place], list[str]]) -> list[str]:
    return [f"project {place.id}: {problem}" for place in house.places for problem in look(place)]


def _labels(house: House, unsettled: Sequence[str]) -> list[str]:
    def look(place: Place) -> list[str]:
        problems = differences(held(house, place), learned(house, place))
        [*_, last] = house.underpaint.store.runs(place.key) or [{}]
        now, manifest = fingerprint(house, place), Manifest.read(house.underpaint.store, place.key).fingerprint
        if not now == manifest == last.get("snapshot"):
            problems.append(f"a snapshot taken now is {now}, the manifest's {manifest}, the last run's {last}")
        return problems

    return [*unsettled, *_each(house, look)]


def _doubled(house: House) -> list[str]:
    store, stages = house.underpaint.store, _stages(house)

    def look(place: Place) -> list[str]:
        runs = store.runs(place.key)
        own = [stage for stage in stages if stage.project == place.key]
        return overlaps(runs, own) + doubled(runs, store.promotions(place.key))

    return _each(house, look)


def _unknown(house: House, saboteur: Saboteur) -> list[str]:
    runs = [run for place in house.places for run in house.underpaint.store.runs(place.key)]
    interrupted = sum(run["status"] == "interrupted" for run in runs)
    found = unknown_ends(runs)
    if interrupted > saboteur.kills.total():
        found.append(f"{interrupted} were interrupted, and the saboteur ended {dict(saboteur.kills)} only")
    return found


def _promotions(house: House) -> list[str]:
    store = house.underpaint.store

    def look(place: Place) -> list[str]:
        moves = store.promotions(place.key)
        snapshots = {move.version: store.card(move.version).snapshot for move in moves}
        return stray_promotions(store.runs(place.key), moves, snapshots)

    return _each(house, look)


def _serving(house: House) -> list[str]:
    found = []
    for part in house.backends:
        serves = httpx.get(f"{part.url}/health", timeout=10.0, trust_env=False).json()["champions"]
        for place in house.places:
            champion = house.underpaint.store.champion(place.key)
            if champion and place.key in serves and serves[place.key] != champion.version:
                found.append(f"{part.name} serves {serves[place.key]} to project {place.id}, not {champion.version}")
    return found


def _growth(grown: dict[str, Growth]) -> list[str]:
    return [
        f"{name}: {problem}"
        for name, each in grown.items()
        for problem in each.problems(MEMORY_SHARE, MEMORY_MIB, FILES, THREADS)
    ]


def _processes(house: House) -> list[str]:
    return [each for part in house.parts for each in part.survivors] + [
        f"{pid}: {command}" for pid, command in house.processes().items()
    ]


def _files(house: House) -> list[str]:
    half_written = [path for path in house.store.rglob(".*") if _HALF_WRITTEN.fullmatch(path.name)]
    states = house.store.glob("projects/*/training/*")
    return [str(path.relative_to(house.folder)) for path in [*house.temporary.iterdir(), *half_written, *states]]


def _stages(house: House) -> list[Stage]:
    logs = [life.log for part in house.workers for life in part.lives]
    return [stage for log in logs for stage in stages_of(log.name, log.read_text(errors="replace"))]


def _figures(house: House, ledger: Ledger, journal: Journal, watch: Watch, grown: dict[str, Growth]) -> dict[str, Any]:
    store = house.underpaint.store
    runs = [run for place in house.places for run in store.runs(place.key)]
    moves = [move for place in house.places for move in store.promotions(place.key)]
    trained = sorted(run["seconds"] for run in runs if "version" in run and "seconds" in run)
    resumed = sum(
        life.log.read_text(errors="replace").count("training goes on after step")
        for part in house.workers
        for life in part.lives
    )
    checkpoints = [path for path in house.store.glob("checkpoints/*/*") if path.is_file()]
    return {
        "actions": dict(sorted(journal.counts.items())),
        "requests": ledger.summary(),
        "predictions": ledger.predictions,
        "load": os.getloadavg()[2] / (os.cpu_count() or 1),
        "labels": {str(place.id): len(learned(house, place)) for place in house.places},
        "runs": dict(Counter(f"{run['status']}, {run.get('stage')}" for run in runs)),
        "run_errors": dict(Counter(str(run["error"])[:80] for run in runs if "error" in run)),
        "run_seconds_median": trained[len(trained) // 2] if trained else None,
        "resumed": resumed,
        "promotions": dict(Counter(move.who for move in moves)),
        "store_mib": sum(path.stat().st_size for path in checkpoints) / 2**20,
        "held": {
            name: {
                "samples": len(watch.samples[name]),
                "memory_mib": each.memory,
                "memory_mib_an_hour": each.slope,
                "files": each.files,
                "threads": each.threads,
            }
            for name, each in grown.items()
        },
        "series": {name: [vars(each) for each in samples] for name, samples in watch.samples.items()},
    }

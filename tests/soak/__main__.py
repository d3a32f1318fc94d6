"""``PYTHONPATH=tests python -m soak``: hours of everything at once, and then the books.

Prints a table and writes build/soak.json; exits with 1 when a check fails. Every action is in build/soak/soak.log with
its time, beside the logs of all processes and the store. The seed decides what is done, not when.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from soak.actor import Actor
from soak.audit import audit
from soak.exchanges import Ledger
from soak.house import House, open_house
from soak.journal import Journal, Outages
from soak.people import Administrator, Annotator, Caller
from soak.report import report
from soak.resources import Watch
from soak.saboteur import Saboteur
from soak.settling import settle
from underpaint_workers.dataset import Dataset
from underpaint_workers.scenes import write_dataset

ROOT = Path(__file__).resolve().parents[2]
SCENES, SIZE = 48, (128, 176)
FIRST_TASKS = 12


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120.0, help="how long people and saboteur work")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--label-studio", type=Path, default=ROOT / ".venv-labelstudio/bin/label-studio")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build/soak", help="emptied at the start, kept at the end"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build/soak.json")
    arguments = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("UNDERPAINT_") or name == "REDIS_URL"]:
        del os.environ[name]  # the Underpaint that whoever starts this works with
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which ends all that was started
    folder: Path = arguments.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"seed {arguments.seed}, {arguments.minutes:g} minutes, log {folder / 'soak.log'}", flush=True)
    with closing(Journal(folder / "soak.log")) as journal:
        result = soak(folder, arguments.label_studio, arguments.minutes, arguments.seed, journal)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1))
    print(report(result))
    return 0 if all(check["met"] for check in result["checks"]) else 1


def soak(folder: Path, label_studio: Path, minutes: float, seed: int, journal: Journal) -> dict[str, Any]:
    """Run it all, and what came of it."""
    write_dataset(folder / "scenes", SCENES, seed, SIZE)
    paintings, outages = Dataset.open(folder / "scenes"), Outages()
    template = ROOT / "build/label-studio-template-1.23.2"
    with open_house(folder, label_studio, template, outages, journal) as (house, ledger):
        annotators = [Annotator(house, journal, str(seed), place, paintings) for place in house.places]
        callers: list[Actor] = [Caller(house, journal, str(seed), gate, paintings) for gate in house.gates]
        saboteur = Saboteur(house, journal, str(seed))
        lasting = [house.backends[1], house.workers[1]]
        watch = Watch(lambda: {part.name: part.pid for part in lasting}, every=max(1.0, minutes / 30))
        for annotator in annotators:
            annotator.begin(FIRST_TASKS)
        people: list[Actor] = [*annotators, Administrator(house, journal, str(seed)), saboteur]
        watch.start()
        started = time.monotonic()
        for actor in (*people, *callers):
            actor.start()
        while time.monotonic() - started < 60 * minutes:
            time.sleep(min(60.0, started + 60 * minutes - time.monotonic()))
            print(f"{(time.monotonic() - started) / 60:5.1f} min  {progress(house, ledger)}", flush=True)
        for actor in reversed(people):
            actor.stop()
        problems = settle(house, journal)
        for caller in callers:
            caller.stop()
        watch.stop()
        return audit(house, ledger, journal, saboteur, [*people, *callers], watch, problems) | {
            "seed": seed,
            "minutes": minutes,
        }


def progress(house: House, ledger: Ledger) -> str:
    runs = sum(len(house.underpaint.store.runs(place.key)) for place in house.places)
    moves = sum(len(house.underpaint.store.promotions(place.key)) for place in house.places)
    return (
        f"{ledger.predictions} predictions, {runs} retrains, {moves} promotions, {len(ledger.failed)} requests failed"
    )


if __name__ == "__main__":
    sys.exit(main())

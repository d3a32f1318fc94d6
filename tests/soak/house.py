"""All that runs: Label Studio, Redis, two backends behind gates, two workers; and two projects in Label Studio."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from faults.underpaint_processes import Underpaint
from integration.processes import Program, eventually, session
from soak.exchanges import REDIS, Ledger
from soak.gate import Gate
from soak.journal import Journal, Outages
from underpaint.labelstudio.client import LabelStudio
from underpaint.project import key_of
from underpaint.redis_server import RedisServer, free_port
from underpaint.taxonomy import LANDSCAPE
from underpaint_workers.demo.label_studio import LabelStudioServer

START_SECONDS = 120.0
STOP_SECONDS = 60.0
MARK = "UNDERPAINT_STORE"
CONTROLS = ("BrushLabels", "PolygonLabels")
# A retrain that takes 10 to 25 s where others want the cores too, and a policy that has them follow each other.
SETTINGS = {
    "UNDERPAINT_BASE": "shipped",
    "UNDERPAINT_DEVICE": "cpu",
    "UNDERPAINT_IMAGE_SIZE": "128",
    "UNDERPAINT_TRAIN_STRATEGY": "head",
    "UNDERPAINT_TRAIN_EPOCHS": "1",
    "UNDERPAINT_TRAIN_MIN_STEPS": "40",
    "UNDERPAINT_RETRAIN_AFTER_LABELS": "3",
    "UNDERPAINT_RETRAIN_AFTER_MINUTES": "0.5",
    "UNDERPAINT_RETRAIN_QUIET_SECONDS": "3",
    "UNDERPAINT_RECONCILE_MINUTES": "1",
    "UNDERPAINT_CACHE_BYTES": "2000000",
    "OMP_NUM_THREADS": "1",
}


@dataclass
class Part:
    """A backend or a worker: a process that is ended and started again."""

    name: str
    run: Callable[..., AbstractContextManager[Program]]
    url: str = ""
    """Where it answers; a worker doesn't."""
    lives: list[Program] = field(default_factory=list)
    survivors: list[str] = field(default_factory=list)
    """Command lines of what a life that ended left running."""
    deaths: list[str] = field(default_factory=list)
    """The status and the last words of lives that nobody ended."""
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def pid(self) -> int:
        return self.lives[-1].process.pid

    @property
    def jobs(self) -> list[int]:
        """Process ids of the job that it runs."""
        return [pid for pid in session(self.pid) if pid != self.pid]

    def start(self, *wrapper: str) -> None:
        """Start it, under the command ``wrapper``."""
        self.lives.append(self._stack.enter_context(self.run(*wrapper)))

    def wait(self) -> None:
        """Return when it answers."""
        if self.url:
            program = self.lives[-1]
            eventually(lambda: program.answers(f"{self.url}/health"), f"{self.name} answers", START_SECONDS)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it by a signal, and wait until it has ended; what it had started must end with it."""
        leader, program = self.pid, self.lives[-1]
        if program.process.poll() is None:
            os.kill(leader, number)
        else:
            self.deaths.append(f"{self.name} ended with status {program.process.returncode}: {program.output()[-300:]}")
        program.process.wait(STOP_SECONDS)
        try:
            eventually(lambda: not session(leader), f"what {self.name} started ends", 10)
        except AssertionError:
            self.survivors += session(leader).values()
        self._stack.close()


@dataclass(frozen=True)
class Place:
    """A project in Label Studio, its label config, and the ids of its backend and its webhook."""

    id: int
    key: str
    config: str
    connection: int
    webhook: int


@dataclass
class House:
    """Everything that runs."""

    folder: Path
    label_studio: LabelStudio
    underpaint: Underpaint
    gates: list[Gate]
    backends: list[Part]
    workers: list[Part]
    outages: Outages
    places: list[Place] = field(default_factory=list)

    @property
    def parts(self) -> list[Part]:
        return [*self.backends, *self.workers]

    @property
    def temporary(self) -> Path:
        """Where the processes keep their temporary files."""
        return self.folder / "temporary"

    @property
    def store(self) -> Path:
        return Path(self.underpaint.settings.store)

    def processes(self) -> dict[int, str]:
        """Command lines, by process id, of all that has this house's store in its environment."""
        mark = f"{MARK}={self.store}".encode()
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it ended while we looked, or is another user's
        return found

    def restart_redis(self, pause: Callable[[], None]) -> None:
        with self.outages.of(REDIS):
            self.underpaint.redis.stop()
            pause()
            self.underpaint.redis.start()

    def add_project(self, title: str, control: str, gate: Gate) -> Place:
        """A new project, connected to the backend behind ``gate``, with webhooks."""
        labels = "".join(f"<Label value={quoteattr(name)}/>" for name in LANDSCAPE)
        config = (
            f'<View><Image name="image" value="$image"/><{control} name="label" toName="image">{labels}</{control}>'
            "</View>"
        )
        settings: dict[str, Any] = {"title": title, "label_config": config, "show_collab_predictions": True}
        made = self.label_studio.post("/api/projects/", settings)
        connection = self.label_studio.add_ml_backend(made["id"], gate.url, title)
        [webhook] = [
            hook["id"] for hook in self.label_studio.get("/api/webhooks/") if hook["url"].startswith(gate.url + "/")
        ]
        place = Place(made["id"], key_of(made), config, connection["id"], webhook)
        self.places.append(place)
        return place

    def set_webhook(self, place: Place, *, active: bool) -> None:
        self.label_studio.patch(f"/api/webhooks/{place.webhook}/", {"is_active": active})


@contextmanager
def open_house(
    folder: Path, label_studio: Path, template: Path, outages: Outages, journal: Journal
) -> Iterator[tuple[House, Ledger]]:
    """Start everything in ``folder``, with Label Studio's command ``label_studio``, and stop what still runs."""
    ledger = Ledger(outages, journal)
    temporary = folder / "temporary"
    temporary.mkdir(parents=True)
    with ExitStack() as stack:
        server = stack.enter_context(LabelStudioServer(label_studio, folder / "label-studio", template=template))
        client = stack.enter_context(closing(LabelStudio(server.url, server.token, timeout=120.0)))
        redis = stack.enter_context(RedisServer(folder / "redis"))
        underpaint = Underpaint.beside(client, folder, redis)
        underpaint.environment |= {**SETTINGS, "TMPDIR": str(temporary)}
        backends = [_backend(f"backend {number}", underpaint) for number in (1, 2)]
        workers = [Part(f"worker {number}", underpaint.worker) for number in (1, 2)]
        gates = [stack.enter_context(Gate(part.name, part.url, ledger.enter)) for part in backends]
        house = House(folder, client, underpaint, gates, backends, workers, outages)
        for part in house.parts:
            stack.callback(part.end)
            part.start()
        for part in house.parts:
            part.wait()
        for control, gate in zip(CONTROLS, gates, strict=True):
            house.add_project(control, control, gate)
        yield house, ledger


def _backend(name: str, underpaint: Underpaint) -> Part:
    url = f"http://127.0.0.1:{free_port()}"
    return Part(name, lambda: underpaint.backend(url), url)

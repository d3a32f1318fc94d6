"""Once round the loop: pre-labels, accepted labels, a retrain, the swap, better pre-labels."""

import time
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from underpaint.labelstudio import regions
from underpaint.labelstudio.label_config import LabelConfig, parse
from underpaint.labelstudio.label_space import LabelSpace
from underpaint.progress import watch_retrain
from underpaint.project import key_of
from underpaint.serving.champions import UNTRAINED
from underpaint.taxonomy import colour_for
from underpaint.up import export_line
from underpaint_workers.demo.label_studio import LabelStudioServer
from underpaint_workers.demo.paintings import Paintings
from underpaint_workers.demo.underpaint_server import UnderpaintServer
from underpaint_workers.evaluation import Metrics, confusion_of, metrics_of

SWAP_SECONDS = 60.0
# One painting in three is accepted by nobody: the table is about those.
UNSEEN_SHARE = 3


class Demo:
    """One project on a running Label Studio, taken round the loop."""

    def __init__(self, underpaint: UnderpaintServer, paintings: Paintings, console: Console) -> None:
        self._underpaint = underpaint
        self._paintings = paintings
        self._console = console
        self._api = underpaint.label_studio
        self.tasks: list[int] = []

    def run(self) -> tuple[Metrics, Metrics] | None:
        """Everything, in order; the metrics on unseen paintings before and after, or None without labels."""
        self.make_project()
        self.retrieve("before any training")
        if self._paintings.labels is None:
            self._console.print("These images have no labels, so a person does the accepting: see below.")
            return None
        places = range(len(self.tasks))
        unseen = [place for place in places if place % UNSEEN_SHARE == UNSEEN_SHARE - 1]
        before = self.measure(unseen)
        self.accept([place for place in places if place not in unseen])
        self.retrain()
        self.retrieve("after the retrain")
        after = self.measure(unseen)
        self._console.print(_table(before, after, self._paintings.classes))
        return before, after

    def say_where_to_look(self, label_studio: LabelStudioServer) -> None:
        """Print the addresses, and the login."""
        lines = [
            f"Label Studio  {label_studio.url}/projects/{self.project_id}/data",
            f"     sign in  {label_studio.username}  {label_studio.password}",
            f"     backend  {self._underpaint.url}",
            f"         log  {self._underpaint.log_path}",
            "For `underpaint status`, `retrain` and the like, paste this into another terminal:",
            f"source .venv/bin/activate; {export_line(self._underpaint.environment)}",
            "Open a painting, correct its pre-label, press Submit; then Settings → Model → ⋯ → Start Training.",
            "Ctrl-C stops everything; the data stays.",
        ]
        for line in lines:
            self._console.print(line, highlight=False, soft_wrap=True)

    def make_project(self) -> None:
        """A project with the paintings as tasks, connected to the backend."""
        labels = "".join(
            f'<Label value={quoteattr(name)} background="#{bytes(colour_for(name)).hex()}"/>'
            for name in self._paintings.classes
        )
        xml = (
            '<View><Image name="image" value="$image" zoom="true"/>'
            f'<BrushLabels name="label" toName="image">{labels}</BrushLabels></View>'
        )
        title = f"Underpaint demo {time.strftime('%Y-%m-%d %H:%M')}"
        project = self._api.post("/api/projects/", {"title": title, "label_config": xml})
        self.project_id: int = project["id"]
        self.project = key_of(project)
        self._config: LabelConfig = parse(xml)
        for image in track(self._paintings.images, "importing paintings", console=self._console):
            self.tasks += self._api.upload(self.project_id, image)["task_ids"]
        backend = self._api.add_ml_backend(self.project_id, self._underpaint.url, "Underpaint")
        self._backend_id = backend["id"]
        self._console.print(f"Connected {self._underpaint.url} to the project “{title}”", highlight=False)

    def retrieve(self, which: str) -> None:
        """The data manager's Retrieve Predictions for all tasks, again as long as it gets further.

        Label Studio asks for all tasks at once and waits 100 s: the backend leaves out what it can't reach in time.
        """
        started = time.monotonic()
        missing, before = self.tasks, len(self.tasks) + 1
        with self._console.status(f"retrieving pre-labels {which}: Label Studio asks the backend for all tasks …"):
            while 0 < len(missing) < before:
                self._api.retrieve_predictions(self.project_id)
                version, before = self._serving(), len(missing)
                missing = [task for task in self.tasks if self.latest_prediction(task)["model_version"] != version]
        seconds, count = time.monotonic() - started, len(self.tasks) - len(missing)
        is_base = version != UNTRAINED and self._underpaint.store.champion(self.project) is None
        self._console.print(
            f"Retrieved pre-labels for {count} of {len(self.tasks)} paintings in {seconds:.1f} s, by "
            f"{'the base, ' if is_base else ''}{version}"
        )
        if missing:
            self._console.print(f"  The others were not reached: {self._underpaint.log_path} says why", soft_wrap=True)
        if version == UNTRAINED:
            self._console.print(
                "  They are empty: nothing was trained yet, and no base segmenter names these labels, so there is "
                "nothing honest to predict with.",
                soft_wrap=True,
            )

    def accept(self, places: Sequence[int]) -> None:
        """What annotators do all day, for the paintings at these places, from the data set's label maps."""
        space = LabelSpace.match(self._config, self._paintings.classes)
        for place in track(places, f"accepting labels for {len(places)} paintings", console=self._console):
            class_map = self._truth(place)
            result, _ = regions.encode(class_map, np.full(class_map.shape, 255, np.uint8), space)
            self._api.create_annotation(self.tasks[place], result)

    def retrain(self) -> str:
        """Press Start Training, and wait until the backend serves what came of it; the version that serves then.

        Raises RuntimeError when the retrain fails. One that the gate refuses leaves what served before in its place.
        """
        self._console.print("Pressed Start Training")
        self._api.train(self._backend_id)
        record = watch_retrain(self._underpaint.signals, self._underpaint.store, self.project, self._console)
        if record.get("stage") == "refused":
            self._console.print(f"{self._serving()} goes on: {record['reason']}", highlight=False)
            return self._serving()
        if record.get("stage") != "promoted":
            raise RuntimeError(f"the retrain failed: {record.get('error') or record.get('stage')}")
        self._console.print(f"Champion {record['version']}: {record['reason']}", highlight=False)
        started = time.monotonic()
        with self._console.status("waiting for the backend to swap it in …"):
            while self._serving() != record["version"]:
                if time.monotonic() - started > SWAP_SECONDS:
                    raise RuntimeError(f"the backend still serves {self._serving()}: see {self._underpaint.log_path}")
                time.sleep(0.1)
        self._console.print("The backend serves it, without a restart")
        return str(record["version"])

    def _serving(self) -> str:
        return self._underpaint.serving().get(self.project, UNTRAINED)

    def measure(self, places: Sequence[int]) -> Metrics:
        """How well the served version's predictions in Label Studio fit the paintings' label maps, at these places.

        Predictions of other versions don't count: a painting that has only such is as if nothing was predicted.
        """
        version = self._serving()
        classes = self._paintings.classes
        confusion = np.zeros((len(classes), len(classes) + 1), np.int64)
        for place in places:
            truth = self._truth(place)
            prediction = self.latest_prediction(self.tasks[place])
            result = prediction["result"] if prediction["model_version"] == version else []
            predicted, _ = regions.rasterise(result, self._config, (truth.shape[0], truth.shape[1]))
            confusion += confusion_of(truth, predicted.clip(max=len(classes)), len(classes))
        return metrics_of(confusion, classes, len(places))

    def latest_prediction(self, task: int) -> dict[str, Any]:
        """The newest prediction that Label Studio holds for a task; one of no version and no regions if it has none."""
        none = {"id": 0, "model_version": "", "result": []}
        return max(self._api.predictions(task), key=lambda prediction: int(prediction["id"]), default=none)

    def _truth(self, place: int) -> NDArray[np.uint8]:
        assert self._paintings.labels is not None
        return self._paintings.labels.load(self._paintings.labels.names[place])[1]


def _table(before: Metrics, after: Metrics, classes: tuple[str, ...]) -> Table:
    table = Table("", "before", "after", title=f"IoU on {after.paintings} paintings that nobody accepted")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in classes:
        if after.per_class[name] is not None:
            table.add_row(name, _number(before.per_class[name]), _number(after.per_class[name]))
    table.add_section()
    table.add_row("mIoU", _number(before.miou), _number(after.miou))
    table.add_row("pixel accuracy", _number(before.accuracy), _number(after.accuracy))
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"

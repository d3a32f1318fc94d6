"""Once round the loop: pre-labels, accepted labels, a retrain, the swap, better pre-labels."""

import time
from typing import Any

import httpx
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
from underpaint_workers.demo.paintings import Paintings
from underpaint_workers.demo.servers import Servers
from underpaint_workers.evaluation import Metrics, confusion_of, metrics_of

SWAP_SECONDS = 60.0


class Demo:
    """One project on a running Label Studio, taken round the loop."""

    def __init__(self, servers: Servers, paintings: Paintings, console: Console) -> None:
        self._servers = servers
        self._paintings = paintings
        self._console = console
        self._api = servers.label_studio
        self._tasks: list[int] = []

    def run(self) -> tuple[Metrics, Metrics] | None:
        """Everything, in order; the metrics on unseen paintings before and after, or None without labels."""
        self._make_project()
        self._retrieve("before any training")
        if self._paintings.labels is None:
            self._console.print("These images have no labels, so a person does the accepting: see below.")
            return None
        before = self._measure()
        self._accept()
        self._retrain()
        self._retrieve("from the new champion")
        after = self._measure()
        self._console.print(_table(before, after, self._paintings.classes))
        return before, after

    def say_where_to_look(self) -> None:
        """Print the addresses, and the login."""
        server = self._servers.label_studio_server
        lines = [
            f"Label Studio  {server.url}/projects/{self.project_id}/data",
            f"     sign in  {server.username}  {server.password}",
            f"     backend  {self._servers.backend_url}",
            f"         log  {self._servers.log_path}",
            "Open a painting, correct its pre-label, press Submit; then Settings → Model → ⋯ → Start Training.",
            "Ctrl-C stops everything; the data stays.",
        ]
        for line in lines:
            self._console.print(line, highlight=False)

    def _make_project(self) -> None:
        labels = "".join(
            f'<Label value="{name}" background="#{bytes(colour_for(name)).hex()}"/>' for name in self._paintings.classes
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
            self._tasks += self._api.upload(self.project_id, image)["task_ids"]
        backend = self._api.add_ml_backend(self.project_id, self._servers.backend_url, "Underpaint")
        self._backend_id = backend["id"]
        self._console.print(f"Connected {self._servers.backend_url} to the project “{title}”", highlight=False)

    def _retrieve(self, which: str) -> None:
        started = time.monotonic()
        with self._console.status(f"retrieving pre-labels {which}: Label Studio asks the backend for all tasks …"):
            self._api.retrieve_predictions(self.project_id)
        version = self._latest(self._tasks[0])["model_version"]
        seconds = time.monotonic() - started
        self._console.print(f"Retrieved pre-labels for {len(self._tasks)} paintings in {seconds:.1f} s, by {version}")
        if version == UNTRAINED:
            self._console.print(
                "  They are empty: nothing was trained yet, so there is nothing honest to predict with."
            )

    def _accept(self) -> None:
        """What annotators do all day, from the data set's label maps."""
        space = LabelSpace.match(self._config, self._paintings.classes)
        accepted = [place for place in range(len(self._tasks)) if not self._paintings.is_unseen(place)]
        for place in track(accepted, f"accepting labels for {len(accepted)} paintings", console=self._console):
            class_map = self._truth(place)
            result, _ = regions.encode(class_map, np.ones(class_map.shape, np.float32), space)
            self._api.create_annotation(self._tasks[place], result)

    def _retrain(self) -> None:
        self._console.print("Pressed Start Training")
        self._api.train(self._backend_id)
        record = watch_retrain(self._servers.signals, self._servers.store, self.project, self._console)
        if record.get("stage") != "promoted":
            raise RuntimeError(
                f"the retrain ended without a new champion: {record.get('error') or record.get('reason')}"
            )
        self._console.print(f"Champion {record['version']}: {record['reason']}", highlight=False)
        started = time.monotonic()
        with self._console.status("waiting for the backend to swap it in …"):
            while self._serving() != record["version"]:
                if time.monotonic() - started > SWAP_SECONDS:
                    raise RuntimeError(f"the backend still serves {self._serving()}: see {self._servers.log_path}")
                time.sleep(0.1)
        self._console.print("The backend serves it, without a restart")

    def _serving(self) -> str:
        champions = httpx.get(f"{self._servers.backend_url}/health", trust_env=False).json()["champions"]
        return str(champions.get(self.project, UNTRAINED))

    def _measure(self) -> Metrics:
        """How well the latest predictions in Label Studio fit the label maps of the paintings nobody accepted."""
        classes = self._paintings.classes
        unseen = [place for place in range(len(self._tasks)) if self._paintings.is_unseen(place)]
        confusion = np.zeros((len(classes), len(classes) + 1), np.int64)
        for place in unseen:
            truth = self._truth(place)
            result = self._latest(self._tasks[place])["result"]
            predicted, _ = regions.rasterise(result, self._config, (truth.shape[0], truth.shape[1]))
            confusion += confusion_of(truth, predicted.clip(max=len(classes)), len(classes))
        return metrics_of(confusion, classes, len(unseen))

    def _latest(self, task: int) -> dict[str, Any]:
        return max(self._api.predictions(task), key=lambda prediction: int(prediction["id"]))

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

"""Annotators, an admin, and a caller that asks the backends without Label Studio between them."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from soak.actor import Act, Actor
from soak.gate import DOWN, Gate
from soak.house import House, Place
from soak.journal import Journal
from underpaint.admin import Admin, AdminError
from underpaint.labelstudio import regions
from underpaint.labelstudio.label_config import parse
from underpaint.labelstudio.label_space import LabelSpace
from underpaint_workers.dataset import Dataset

MOST_TASKS = 60
"""Tasks of a project above which more are deleted than imported: a retrain should stay short."""
Regions = list[dict[str, Any]]


class Annotator(Actor):
    """Works in one project, on paintings whose labels it knows."""

    rest = (0.2, 1.5)

    def __init__(self, house: House, journal: Journal, seed: str, place: Place, paintings: Dataset) -> None:
        self.name = f"annotator {place.id}"
        super().__init__(house, journal, seed)
        self.place, self.paintings, self.api = place, paintings, house.label_studio
        self._space = LabelSpace.match(parse(place.config), paintings.classes)
        self._shown: dict[int, str] = {}
        """By task, the painting that it shows."""

    def acts(self) -> Mapping[Act, float]:
        many = len(self._shown) > MOST_TASKS
        return {
            self.imports: 0 if many else 4,
            self.imports_with_labels: 0 if many else 1,
            self.deletes_tasks: 3 if many else 0.3,
            self.opens_a_task: 6,
            self.asks_for_the_next_task: 4,
            self.retrieves_predictions: 1,
            self.labels: 8,
            self.accepts: 5,
            self.accepts_many: 0.6,
            self.edits: 3,
            self.skips: 0.7,
            self.deletes: 1,
            self.deletes_many: 0.3,
        }

    def begin(self, count: int) -> None:
        """Import paintings, and label most of them."""
        for _ in range(count):
            self.imports()
        for task in list(self._shown)[: count * 3 // 4]:
            self._label(task)

    def imports(self) -> object:
        name = self.random.choice(self.paintings.names)
        [task] = self.api.upload(self.place.id, self.paintings.image_path(name))["task_ids"]
        self._shown[task] = name
        return task

    def imports_with_labels(self) -> object:
        names = self.random.sample(self.paintings.names, 3)
        tasks = [
            {
                "data": {"image": data_uri(self.paintings.image_path(name))},
                "annotations": [{"result": self._truth(name)}],
            }
            for name in names
        ]
        made = self.api.import_tasks(self.place.id, tasks)["task_ids"]
        self._shown |= dict(zip(made, names, strict=True))
        return made

    def deletes_tasks(self) -> object:
        tasks = self.sample(list(self._shown), 5)
        self._do("delete_tasks", tasks)
        for task in tasks:
            del self._shown[task]
        return tasks

    def opens_a_task(self) -> object:
        tasks = self.sample(list(self._shown), 1)
        return [self.api.get(f"/api/tasks/{task}/", project=self.place.id)["id"] for task in tasks]

    def asks_for_the_next_task(self) -> object:
        try:
            return self.api.get(f"/api/projects/{self.place.id}/next")["id"]
        except Exception as error:
            if getattr(error, "status", None) == 404:  # everything is labelled
                return "none"
            raise

    def retrieves_predictions(self) -> object:
        tasks = self.sample(list(self._shown), 12) if self.random.random() < 0.7 else None
        return self.api.retrieve_predictions(self.place.id, tasks) if self._shown else None

    def labels(self) -> object:
        for task in (tasks := self._unlabelled()[:1]):
            self._label(task)
        return tasks

    def accepts(self) -> object:
        for task in self._unlabelled():
            if predictions := self.api.predictions(task):
                last = max(predictions, key=lambda each: int(each["id"]))
                self.api.create_annotation(task, last["result"], parent_prediction=last["id"])
                return task
        return "nothing to accept"

    def accepts_many(self) -> object:
        tasks = self.sample(list(self._shown), 8)
        self._do("predictions_to_annotations", tasks)
        return tasks

    def edits(self) -> object:
        """Takes a region away, gives it another label, or says that the annotation is beyond doubt."""
        if (annotation := self._any_annotation()) is None:
            return "nothing to edit"
        result: Regions = annotation["result"]
        at = self.random.randrange(len(result)) if result else 0
        if not result or self.random.random() < 0.2:
            change: dict[str, Any] = {"ground_truth": not annotation["ground_truth"]}
        elif len(result) > 1 and self.random.random() < 0.5:
            change = {"result": result[:at] + result[at + 1 :]}
        else:
            region = result[at]
            label = self.random.choice(self.paintings.classes)
            value = region["value"] | {region["type"]: [label]}
            change = {"result": [*result[:at], region | {"value": value}, *result[at + 1 :]]}
        self.api.patch(f"/api/annotations/{annotation['id']}/", change)
        return annotation["id"], [*change]

    def skips(self) -> object:
        for task in (tasks := self._unlabelled()[:1]):
            self.api.create_annotation(task, [], was_cancelled=True)
        return tasks

    def deletes(self) -> object:
        if (annotation := self._any_annotation()) is None:
            return "nothing to delete"
        self.api._request("DELETE", f"/api/annotations/{annotation['id']}/")
        return annotation["id"]

    def deletes_many(self) -> object:
        tasks = self.sample(list(self._shown), 5)
        self._do("delete_tasks_annotations", tasks)
        return tasks

    def _label(self, task: int) -> None:
        self.api.create_annotation(task, self._truth(self._shown[task]))

    def _truth(self, name: str) -> Regions:
        class_map = self.paintings.load(name)[1]
        result, _ = regions.encode(class_map, np.full(class_map.shape, 255, np.uint8), self._space)
        return result

    def _unlabelled(self) -> list[int]:
        labelled = set(self.api.task_ids(self.place.id, annotated=True))
        tasks = [task for task in self._shown if task not in labelled]
        self.random.shuffle(tasks)
        return tasks

    def _any_annotation(self) -> dict[str, Any] | None:
        for task in self.sample(self.api.task_ids(self.place.id, annotated=True), 1):
            for annotation in self.api.get(f"/api/tasks/{task}/annotations/"):
                return dict(annotation)
        return None

    def _do(self, action: str, tasks: Sequence[int]) -> None:
        """What the data manager's menu does."""
        if tasks:
            selected = {"all": False, "included": list(tasks)}
            body = {"ordering": [], "selectedItems": selected}
            self.api.post("/api/dm/actions/", body, id=action, project=self.place.id)


class Administrator(Actor):
    """Does to the projects what `underpaint` and Label Studio's Start Training can."""

    name = "admin"
    rest = (4.0, 15.0)

    def __init__(self, house: House, journal: Journal, seed: str) -> None:
        super().__init__(house, journal, seed)
        self._admin = Admin(house.underpaint.settings)

    def acts(self) -> Mapping[Act, float]:
        return {
            self.starts_training: 4,
            self.retrains: 1,
            self.rolls_back: 2,
            self.promotes: 2,
            self.cancels: 1,
            self.reconciles: 1,
            self.looks: 1,
        }

    def act(self, act: Act) -> None:
        def tried() -> object:
            try:
                return act()
            except AdminError as error:
                return f"can't: {error}"

        tried.__name__ = act.__name__
        super().act(tried)

    def starts_training(self) -> object:
        place = self._any()
        self.house.label_studio.train(place.connection)
        return place.id

    def retrains(self) -> object:
        return self._admin.retrain(self._any().key)

    def rolls_back(self) -> object:
        move = self._admin.rollback(key := self._any().key, None)
        return key, move.version

    def promotes(self) -> object:
        """Serves what the gate refused."""
        key = self._any().key
        refused = [run["version"] for run in self.house.underpaint.store.runs(key) if run.get("stage") == "refused"]
        return (key, self._admin.promote(key, self.random.choice(refused)).version) if refused else "none was refused"

    def cancels(self) -> object:
        key = self._any().key
        return key, self._admin.cancel(key)

    def reconciles(self) -> object:
        return self.house.underpaint.signals.enqueue_reconcile(60, at_once=True)

    def looks(self) -> object:
        return [(row.project, row.champion, row.new_labels, row.result[:40]) for row in self._admin.status()]

    def _any(self) -> Place:
        return self.random.choice(self.house.places)


class Caller(Actor):
    """Asks one backend for predictions for both projects, without a pause to speak of, and how it is."""

    rest = (0.1, 0.4)

    def __init__(self, house: House, journal: Journal, seed: str, gate: Gate, paintings: Dataset) -> None:
        self.name = f"caller {gate.name[-1]}"
        super().__init__(house, journal, seed)
        self._http = httpx.Client(base_url=gate.url, timeout=130.0, trust_env=False)
        self._images = [data_uri(paintings.image_path(name)) for name in paintings.names]

    def acts(self) -> Mapping[Act, float]:
        return {self.predicts: 8, self.sets_up: 2, self.health: 1, self.versions: 0.3, self.metrics: 0.3}

    def act(self, act: Act) -> None:
        answer = act()  # the gate enters it; the journal would be of little else
        self.journal.counts[f"{self.name}: {act.__name__}"] += 1
        if isinstance(answer, httpx.Response) and answer.status_code == DOWN:
            self.stopping.wait(1.0)

    def predicts(self) -> object:
        place = self.random.choice(self.house.places)
        images = self.random.sample(self._images, self.random.choice((1, 1, 1, 2, 4, 8)))
        tasks = [{"id": 10**9 + number, "data": {"image": image}} for number, image in enumerate(images)]
        params = {"login": None, "password": None, "context": None}
        body = {"tasks": tasks, "project": place.key, "label_config": place.config, "params": params}
        return self._http.post("/predict", json=body)

    def sets_up(self) -> object:
        place = self.random.choice(self.house.places)
        client = self.house.label_studio
        token = client.headers()["Authorization"].removeprefix("Token ")
        body = {"project": place.key, "schema": place.config, "hostname": client.url, "access_token": token}
        return self._http.post("/setup", json=body)

    def health(self) -> object:
        return self._http.get("/health")

    def versions(self) -> object:
        return self._http.get("/versions", params={"project": self.random.choice(self.house.places).key})

    def metrics(self) -> object:
        return self._http.get("/metrics")


def data_uri(path: Path) -> str:
    kind = "png" if path.suffix == ".png" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"

"""Several machines on one Redis and one object store: each retrain is done once, whichever of them dies."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest

from faults.project import CONFIG, Project
from faults.underpaint_processes import Underpaint, job_process, kill
from integration.processes import eventually
from object_store import ObjectStore
from underpaint.labelstudio.client import LabelStudio
from underpaint.redis_server import RedisServer
from underpaint_workers.manifest import Manifest
from underpaint_workers.resume import FOLDER

SECONDS = 240.0
SWAP_SECONDS = 10.0
MACHINES = 3
# The time ends a training, some seconds after its state is kept for the first time, on any machine.
LONG = {"train_min_steps": 1_000_000, "train_minutes": 10 / 60}


@pytest.fixture
def projects(client: LabelStudio) -> list[Project]:
    """As many labelled projects as there are machines."""
    found = [Project.new(client) for _ in range(MACHINES)]
    for project in found:
        project.accept(project.add(6))
    return found


def statuses(underpaint: Underpaint, project: Project) -> list[str]:
    return [run["status"] for run in underpaint.store.runs(project.key)]


def kept(underpaint: Underpaint, project: Project) -> bool:
    """Whether the state of the project's training is in the store."""
    return any(underpaint.store._names(f"projects/{project.key}/{FOLDER}"))


def champion(underpaint: Underpaint, project: Project) -> str | None:
    promotion = underpaint.store.champion(project.key)
    return promotion.version if promotion else None


def is_served(underpaint: Underpaint, project: Project) -> bool:
    """Whether the backend answers the champion's version, as Label Studio asks for it."""
    body = {"project": project.key, "schema": CONFIG}
    answer = httpx.post(f"{underpaint.url}/setup", json=body, timeout=30.0, trust_env=False)
    return bool(answer.json()["model_version"] == champion(underpaint, project))


def predicted_by(underpaint: Underpaint, project: Project, painting: int) -> str:
    """The version that predicts one of the project's paintings."""
    task = project.client.get(f"/api/tasks/{project.client.task_ids(project.id)[painting]}/")
    body = {"tasks": [{"id": task["id"], "data": task["data"]}], "project": project.key, "label_config": CONFIG}
    answer = httpx.post(f"{underpaint.url}/predict", json=body, timeout=60.0, trust_env=False)
    [result] = answer.json()["results"]
    assert "reason" not in result
    return str(result["model_version"])


def is_done(underpaint: Underpaint, project: Project) -> bool:
    return not underpaint.signals.is_retraining(project.key)


def test_three_machines_retrain_three_projects_and_one_machine_dies(
    client: LabelStudio, projects: list[Project], object_store: ObjectStore, tmp_path: Path
) -> None:
    machines = [tmp_path / f"machine-{number}" for number in range(MACHINES)]
    with RedisServer(tmp_path / "redis") as redis, ExitStack() as stack:
        underpaint = Underpaint.beside(client, tmp_path, redis, store=f"{object_store.url}/fleet")
        for project in projects:
            underpaint.signals.enqueue_retrain(project.key, underpaint.settings.retrain_timeout)
        workers = [stack.enter_context(underpaint.worker_on(machine, **LONG)) for machine in machines]
        backend = stack.enter_context(underpaint.backend())
        eventually(lambda: all(statuses(underpaint, each) for each in projects), "every machine works", SECONDS)
        eventually(lambda: any(kept(underpaint, each) for each in projects), "a state is kept", SECONDS)

        began = {project.key: underpaint.store.runs(project.key)[0]["id"] for project in projects}
        victim = max((project for project in projects if kept(underpaint, project)), key=lambda each: began[each.key])
        dead = next(worker for worker in workers if f"project {victim.key}: train" in worker.output())
        job = job_process(dead)
        kill(dead.process.pid)
        eventually(lambda: not Path(f"/proc/{job}").exists(), "its job ends with it", 10)
        eventually(lambda: backend.answers(f"{underpaint.url}/health"), "the backend answers", SECONDS)
        goes_on = f"project {victim.key}: training goes on after step"
        eventually(lambda: any(goes_on in worker.output() for worker in workers), "another goes on", SECONDS)
        for project in projects:
            eventually(partial(champion, underpaint, project), f"{project.key} has a champion", SECONDS)
            eventually(partial(is_served, underpaint, project), "the backend serves it", SWAP_SECONDS)
        for project in projects:
            eventually(partial(is_done, underpaint, project), f"the job of {project.key} ends", SECONDS)

        [heir] = [worker for worker in workers if goes_on in worker.output()]
        assert heir is not dead
        for project in projects:
            interrupted = ["interrupted"] if project is victim else []
            assert statuses(underpaint, project) == [*interrupted, "finished"]
            assert len(underpaint.store.promotions(project.key)) == 1
            seen = Manifest.read(underpaint.store, project.key).tasks
            assert project.labels() == {task: entry.annotation for task, entry in seen.items() if entry.digest}
            assert not kept(underpaint, project)
            assert predicted_by(underpaint, project, 0) == champion(underpaint, project)
        assert [len(list((machine / "working").iterdir())) for machine in machines] == [0] * MACHINES
        left = [worker for worker, machine in zip(workers, machines, strict=True) if any(machine.glob("temporary/*"))]
        assert left in ([], [dead])

        serving = champion(underpaint, victim)
        object_store.stop()
        try:
            eventually(lambda: "the champion in memory goes on" in backend.output(), "the backend notices", SECONDS)
            assert predicted_by(underpaint, victim, 1) == serving
        finally:
            object_store.start()

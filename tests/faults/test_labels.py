"""No label is missed: however a project's labels came to be what they are, the next snapshot holds them.

No webhook is set up anywhere here but where a test sends them itself.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from rq import Worker

from faults.project import Project, regions
from faults.underpaint_processes import Underpaint, kill
from integration.processes import Program, eventually
from underpaint.labelstudio.client import LabelStudio
from underpaint_workers.manifest import Manifest

SECONDS = 240.0

Settled = Callable[[], None]


@pytest.fixture(scope="module")
def known(client: LabelStudio, shared: Underpaint) -> Project:
    """A project that the store knows, with eight labels, which may or may not be learned from."""
    project = Project.new(client)
    project.accept(project.add(8))
    shared.store.write_file(project.key, "setup.json", b"{}")
    return project


@pytest.fixture(scope="module")
def backend(shared: Underpaint) -> Iterator[Callable[[], Program]]:
    """``backend()``: the backend, started anew if it was killed."""
    with ExitStack() as stack:
        started: list[Program] = []

        def up() -> Program:
            if not started or started[-1].process.poll() is not None:
                started.append(stack.enter_context(shared.backend()))
                program = started[-1]
                eventually(lambda: program.answers(f"{shared.url}/health"), "the backend answers", SECONDS)
            return started[-1]

        yield up


@pytest.fixture
def settled(shared: Underpaint, known: Project, backend: Callable[[], Program]) -> Settled:
    """``settled()``: waits until the last snapshot holds what the project does, and a retrain ended well on it."""

    def settled() -> None:
        labels = known.labels()

        def look() -> bool:
            seen = Manifest.read(shared.store, known.key).tasks
            return labels == {task: entry.annotation for task, entry in seen.items() if entry.digest}

        eventually(look, "the last snapshot holds what the project holds", SECONDS)
        eventually(lambda: not shared.signals.is_retraining(known.key), "the retrain ends", SECONDS)
        [*_, last] = shared.store.runs(known.key)
        assert last["status"] == "finished", last
        assert last["training"] + last["validation"] == len(labels)

    backend()
    settled()
    return settled


def look_now(shared: Underpaint) -> None:
    """Have it look for labels that nobody told of, as it does every few minutes."""
    shared.signals.enqueue_reconcile(300, at_once=True)


def test_labels_that_no_webhook_told_of(shared: Underpaint, known: Project, settled: Settled) -> None:
    [edited, *_] = known.labels()
    known.accept(known.add(3), "Water")
    [annotation] = known.client.get(f"/api/tasks/{edited}/annotations/")
    known.client.patch(f"/api/annotations/{annotation['id']}/", {"result": regions("Water")})
    before = Manifest.read(shared.store, known.key).tasks[edited].digest
    look_now(shared)
    settled()
    assert Manifest.read(shared.store, known.key).tasks[edited].digest != before


def test_predictions_accepted_in_bulk_and_deleted_in_bulk(shared: Underpaint, known: Project, settled: Settled) -> None:
    tasks = known.add(100, predictions=[{"result": regions("Water"), "model_version": "v1", "score": 0.5}])
    known.act("predictions_to_annotations", tasks)
    look_now(shared)
    settled()
    assert set(tasks) <= set(known.labels())

    known.act("delete_tasks_annotations", tasks[:50])
    known.act("delete_tasks", tasks[50:])
    look_now(shared)
    settled()
    assert not set(tasks) & set(known.labels())


def test_an_import_that_carries_annotations(shared: Underpaint, known: Project, settled: Settled) -> None:
    known.add(10, annotations=[{"result": regions("Sky")}])
    look_now(shared)
    settled()


def test_a_wiped_redis(shared: Underpaint, known: Project, settled: Settled) -> None:
    """What waits is lost, and the look that is due is not."""
    known.accept(known.add(2))
    shared.signals.note("99.1600000000", 1)
    shared.signals.redis.flushall()
    settled()
    assert Worker.count(connection=shared.signals.redis) == 1


def test_a_backend_that_was_down(
    shared: Underpaint, known: Project, settled: Settled, backend: Callable[[], Program]
) -> None:
    kill(backend().process.pid)
    known.accept(known.add(2))
    known.act("delete_tasks_annotations", list(known.labels())[:2])
    backend()
    settled()


def test_a_storm_of_webhooks_makes_one_retrain(shared: Underpaint, known: Project, settled: Settled) -> None:
    before = len(shared.store.runs(known.key))
    tasks = known.add(5)

    def tell(_: int) -> None:
        event = {"action": "ANNOTATION_CREATED", "project": known.settings, "annotation": {"id": 1}, "task": {"id": 1}}
        shared.post("/webhook", event)

    with ThreadPoolExecutor(8) as pool:
        known.accept(tasks)
        list(pool.map(tell, range(500)))
    settled()
    eventually(lambda: known.key not in shared.signals.pending(), "nothing waits", SECONDS)
    settled()
    assert len(shared.store.runs(known.key)) == before + 1
    assert shared.signals.cancel_retrain(known.key) is None

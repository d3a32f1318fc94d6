"""A training in two processes, which torchrun starts, on the CPU with gloo."""

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from integration.processes import eventually
from toy import CLASSES, painting
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store
from underpaint.segmenter import channels
from underpaint.segmenter.segmenter import Segmenter
from underpaint.settings import Settings
from underpaint_workers import jobs, resume, training
from underpaint_workers.evaluation import evaluate
from underpaint_workers.parallel import ProcessKilled, process_count, train_in_parallel
from underpaint_workers.resume import Keeper
from underpaint_workers.retraining import Retraining
from underpaint_workers.train_settings import TrainSettings
from underpaint_workers.training import Progress

PROJECT = "3.1795344327"
ONE = TrainSettings(strategy="all", epochs=1, min_steps=6, image_size=64, batch_size=2, device="cpu", threads=1)
TWO = replace(ONE, processes=2)
PAINTINGS = [painting(seed) for seed in range(4)]

Trainers = Callable[[], dict[int, str]]
"""Module names, by process id, of what torchrun and its processes are at the moment."""


class Stopped(Exception):
    """Somebody wants the training to stop."""


@pytest.fixture
def trainers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainers:
    """Those of this test; a test begins and ends with none."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def find() -> dict[int, str]:
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().decode().split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
            if any(word.startswith(str(tmp_path)) for word in words):
                found[int(folder.name)] = next(word for word in words if word.startswith("underpaint_workers."))
        return found

    return find


def stopped_at(step: int, told: list[Progress]) -> Callable[[Progress], None]:
    def progress(now: Progress) -> None:
        told.append(now)
        if now.step == step:
            raise Stopped

    return progress


def test_two_processes_learn_as_well_as_one(trainers: Trainers, tmp_path: Path) -> None:
    validation = [painting(seed) for seed in range(10, 15)]
    scores = []
    for settings in (ONE, TWO):
        told: list[Progress] = []
        checkpoint = train_in_parallel(
            PAINTINGS,
            CLASSES,
            None,
            replace(settings, min_steps=30),
            validation=validation,
            snapshot="abc",
            progress=told.append,
        )
        assert [each.step for each in told] == list(range(1, len(told) + 1))
        assert len(told[-1].scores) >= 6
        assert (checkpoint.card.snapshot, checkpoint.card.settings["processes"]) == ("abc", settings.processes or 1)
        scores.append(evaluate(Segmenter(checkpoint, "cpu"), validation, CLASSES).miou)
        assert scores[-1] == pytest.approx(max(told[-1].scores))
    assert min(scores) > 0.9
    assert scores[1] == pytest.approx(scores[0], abs=0.05)
    assert trainers() == {}
    assert list(tmp_path.iterdir()) == []


def test_it_stops_within_a_step_and_goes_on_in_another_number_of_processes_to_the_same_end(
    trainers: Trainers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have a crop each; the process alone has room for one at a time, fails as CUDA does, and halves its batch."""
    monkeypatch.setattr(resume, "EVERY_SECONDS", 0)
    monkeypatch.setattr(resume, "SHARE", float("inf"))

    def normalise(images: torch.Tensor, *statistics: tuple[float, ...]) -> torch.Tensor:
        if len(images) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return channels.normalise(images, *statistics)

    monkeypatch.setattr(training, "normalise", normalise)
    store = Store(str(tmp_path / "store"))

    def run(settings: TrainSettings, progress: Callable[[Progress], None], keep: bool = True) -> Checkpoint:
        settings = replace(settings, options={"decoder_dropout": 0.0})
        keeper = Keeper.of(store, PROJECT, "abc", CLASSES, settings) if keep else None
        return train_in_parallel(PAINTINGS, CLASSES, None, settings, progress=progress, keeper=keeper)

    whole: list[Progress] = []
    told: list[Progress] = []
    expected = run(ONE, whole.append, keep=False)
    with pytest.raises(Stopped):
        run(ONE, stopped_at(2, told))
    with pytest.raises(Stopped):
        run(TWO, stopped_at(4, told))
    assert trainers() == {}
    made = run(ONE, told.append)
    # The state was kept after the third step, the first that two processes took.
    assert [each.step for each in told] == [1, 2, 2, 3, 4, 3, 4, 5, 6]
    losses = [each.loss for each in whole]
    assert [each.loss for each in told] == pytest.approx([losses[each.step - 1] for each in told], rel=1e-3)
    weights = made.module().state_dict()
    for name, value in expected.module().state_dict().items():
        assert torch.allclose(weights[name].float(), value.float(), atol=1e-3), name


def test_the_error_of_a_process_is_the_error_of_the_training(trainers: Trainers, tmp_path: Path) -> None:
    told: list[Progress] = []
    with pytest.raises(ValueError, match=r"diverged at step \d+: lower the learning rate") as caught:
        train_in_parallel(PAINTINGS, CLASSES, None, replace(TWO, lr=1e30), progress=told.append)
    assert told
    assert "in process" in caught.value.__notes__[0]
    assert trainers() == {}
    assert list(tmp_path.iterdir()) == []


def test_nothing_outlives_a_killed_training(trainers: Trainers) -> None:
    context = multiprocessing.get_context("fork")
    steps = context.Queue()
    training = context.Process(
        target=train_in_parallel,
        args=(PAINTINGS, CLASSES, None, replace(TWO, min_steps=1_000_000)),
        kwargs={"progress": lambda now: steps.put(now.step)},
    )
    training.start()
    assert steps.get(timeout=120) == 1
    modules = ["underpaint_workers.rank", "underpaint_workers.rank", "underpaint_workers.torchrun"]
    assert sorted(trainers().values()) == modules
    training.kill()
    eventually(lambda: trainers() == {}, "its processes end with it", 10)


def test_a_killed_process_ends_the_training_for_now(trainers: Trainers) -> None:
    def kill_one() -> None:
        found: list[int] = []
        while not found:
            found = [pid for pid, module in trainers().items() if module == "underpaint_workers.rank"]
        os.kill(found[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(ProcessKilled, match="UNDERPAINT_TRAIN_PROCESSES"):
        train_in_parallel(PAINTINGS, CLASSES, None, TWO)
    killer.join()
    assert trainers() == {}


@pytest.mark.parametrize(("error", "left"), [(ProcessKilled("killed"), 5), (ValueError("diverged"), 0)])
def test_a_retrain_is_tried_again_where_a_process_was_killed(
    error: Exception, left: int, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Retraining) -> None:
        raise error

    job = SimpleNamespace(retries_left=5)
    monkeypatch.setattr(jobs, "get_current_job", lambda: job)
    monkeypatch.setattr(jobs, "get_settings", lambda: settings)
    monkeypatch.setattr(Retraining, "run", fail)
    with pytest.raises(type(error)):
        jobs.retrain(PROJECT)
    assert job.retries_left == left


@pytest.mark.parametrize(
    ("device", "wanted", "count"),
    [("cpu", 0, 1), ("cpu", 2, 2), ("cpu", 9, 4), ("auto", 0, 3), ("auto", 2, 2), ("auto", 9, 3), ("cuda:1", 9, 1)],
)
def test_there_is_a_process_for_each_gpu_and_a_crop_for_each_process(
    device: str, wanted: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine with three GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    assert process_count(replace(ONE, device=device, processes=wanted, batch_size=4)) == count

"""Runtimes answer alike, and the fastest that does is found and remembered."""

import json
import logging
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from underpaint.checkpoints import Card, Checkpoint
from underpaint.segmenter import aside, choice
from underpaint.segmenter.architecture import Architecture, build
from underpaint.segmenter.choice import AGREEMENT, REFERENCE, runtime_for, sample_paintings
from underpaint.segmenter.classifier import Classifier
from underpaint.segmenter.runtime import Batch, Runtime, TorchRuntime
from underpaint.segmenter.segmenter import Segmenter

CLASSES = ("sky", "sea", "tree")
OPENVINO = "openvino-float32-1"


def make(seed: int = 0, channels: int = 3) -> Checkpoint:
    torch.manual_seed(seed)
    module = build(Architecture(name="Hypercolumn", encoder="resnet18", classes=CLASSES, channels=channels))
    mean, std = (0.5, 0.25) if channels == 3 else (800.0, 50.0)
    card = Card(
        architecture="Hypercolumn",
        encoder="resnet18",
        classes=CLASSES,
        image_size=96,
        mean=(mean,) * channels,
        std=(std,) * channels,
        channels=channels,
    )
    return Checkpoint.from_module(module, card)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return make()


def classifier(checkpoint: Checkpoint) -> Classifier:
    return Classifier(checkpoint.module(), checkpoint.card.mean, checkpoint.card.std)


def runtime(checkpoint: Checkpoint, name: str) -> Runtime:
    return runtime_for(classifier(checkpoint), checkpoint.card, "cpu", name, None)


def painting(height: int, width: int, seed: int = 0) -> Batch:
    return np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), np.uint8)


@pytest.mark.parametrize(("name", "tolerance"), [("torch-contiguous", 1e-4), (OPENVINO, 1e-4)])
def test_runtimes_answer_alike(checkpoint: Checkpoint, name: str, tolerance: float) -> None:
    reference, other = runtime(checkpoint, REFERENCE), runtime(checkpoint, name)
    for batch in (painting(64, 96), painting(96, 32, 1), np.concatenate([painting(64, 64, 2), painting(64, 64, 3)])):
        torch.testing.assert_close(other(batch), reference(batch), atol=tolerance, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_runtimes_of_a_gpu_answer_alike(checkpoint: Checkpoint) -> None:
    reference = runtime(checkpoint, REFERENCE)
    for name, make_runtime in choice._candidates("cuda", checkpoint.card):
        other = make_runtime(classifier(checkpoint))
        many = painting(64, 96, 3).repeat(12, axis=0)
        for batch in (painting(64, 96), painting(96, 32, 1), painting(96, 32, 2), many):
            torch.testing.assert_close(other(batch).cpu(), reference(batch), atol=0.1, rtol=0, msg=name)


def test_openvino_takes_rasters_of_any_channels() -> None:
    checkpoint = make(channels=2)
    heights = np.random.default_rng(0).normal(800, 50, (90, 64, 2)).astype(np.float32)
    heights[10:20] = np.nan
    expected = Segmenter(checkpoint).predict(heights)
    class_map, confidence = Segmenter(checkpoint, runtime=OPENVINO).predict(heights)
    assert (class_map == expected[0]).mean() > 0.999
    np.testing.assert_allclose(confidence.astype(int), expected[1], atol=1)


def test_nets_that_share_a_graph_keep_their_own_weights(checkpoint: Checkpoint) -> None:
    other, image = make(seed=1), painting(64, 96)
    found = [runtime(each, OPENVINO)(image) for each in (checkpoint, other, checkpoint)]
    assert torch.equal(found[0], found[2])
    torch.testing.assert_close(found[1], runtime(other, REFERENCE)(image), atol=1e-4, rtol=0)
    assert not torch.allclose(found[0], found[1], atol=1e-2)


def test_openvino_keeps_a_bounded_number_of_models(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("underpaint.segmenter.openvino_runtime._STATIC", 2)
    reference, bounded = runtime(checkpoint, REFERENCE), runtime(checkpoint, OPENVINO)
    for height in (32, 64, 96, 128, 32):
        batch = painting(height, 64, height)
        torch.testing.assert_close(bounded(batch), reference(batch), atol=1e-4, rtol=0)
    assert len(bounded._compiled) == 3  # type: ignore[attr-defined]


def test_openvino_is_made_ready_by_another_process(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = painting(64, 96)
    expected, prepared = runtime(checkpoint, OPENVINO)(batch), runtime(checkpoint, OPENVINO)
    priorities = set()
    with ThreadPoolExecutor(1) as pool:
        ready = pool.submit(prepared.prepare, [batch.shape])
        while not ready.done():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                priorities |= {os.getpriority(os.PRIO_PROCESS, child) for child in children()}
            time.sleep(0.01)
        ready.result()
    assert os.nice(0) + aside.NICENESS in priorities
    monkeypatch.setattr(prepared, "_model", None)  # which compiling here would need
    torch.testing.assert_close(prepared(batch), expected, atol=1e-5, rtol=0)


def children() -> list[int]:
    """Processes that this one started."""
    return [int(child) for path in Path("/proc/self/task").glob("*/children") for child in path.read_text().split()]


def test_without_another_process_openvino_compiles_in_this_one(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    batch, alone = painting(64, 96), runtime(checkpoint, OPENVINO)
    alone.prepare([batch.shape])
    assert "/nowhere/python" in caplog.text
    torch.testing.assert_close(alone(batch), runtime(checkpoint, REFERENCE)(batch), atol=1e-4, rtol=0)


def test_openvino_tells_nobody() -> None:
    """In a process of its own: it calls home when it is imported."""
    program = """
from underpaint.segmenter.aside import openvino
openvino()
from openvino.tools.ovc import telemetry_utils
assert telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub", telemetry_utils.tm
"""
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_openvino_answers_several_threads_at_once(checkpoint: Checkpoint) -> None:
    shared = runtime(checkpoint, OPENVINO)
    batches = [painting(64, 64 + 32 * (seed % 2), seed) for seed in range(16)]
    expected = [shared(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(*pair) for pair in zip(pool.map(shared, batches), expected, strict=True))


def test_openvino_leaves_every_thread_all_cores(checkpoint: Checkpoint) -> None:
    segmenter = Segmenter(checkpoint, runtime=f"openvino-float32-{choice.cores()}")
    allowed = set()
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(segmenter.predict, painting(320, width)[0]) for width in (256, 320) * 20]
        while not all(each.done() for each in running):
            for status in Path("/proc/self/task").glob("*/status"):
                with suppress(OSError):  # threads come and go
                    allowed |= set(re.findall(r"Cpus_allowed_list:\s*(.*)", status.read_text()))
    assert len(allowed) == 1, "a pinned thread waits for its core while another is idle"


@pytest.mark.parametrize("name", [REFERENCE, OPENVINO])
def test_what_is_closed_says_so(checkpoint: Checkpoint, name: str) -> None:
    closed = runtime(checkpoint, name)
    closed.close()
    with pytest.raises(RuntimeError, match="closed"):
        closed(painting(32, 32))


def test_an_unknown_runtime_is_refused_with_those_there_are(checkpoint: Checkpoint) -> None:
    with pytest.raises(ValueError, match=rf"UNDERPAINT_RUNTIME to auto, {REFERENCE}, .*{OPENVINO}"):
        runtime(checkpoint, "abacus")


def test_openvino_can_be_missing(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    assert [name for name, _ in choice._candidates("cpu", checkpoint.card)] == [
        REFERENCE,
        "torch-contiguous",
    ]
    with pytest.raises(ValueError, match="or install openvino"):
        runtime(checkpoint, OPENVINO)


def test_the_choice_is_measured_once(checkpoint: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cache = tmp_path / "cache"
    first = Segmenter(checkpoint, runtime="auto", cache=cache)
    assert f"{first.runtime} runs resnet18 fastest on" in caplog.text
    assert REFERENCE in caplog.text
    [remembered] = json.loads((cache / "runtimes.json").read_text()).values()
    assert remembered["runtime"] == first.runtime
    assert set(remembered["libraries"]) >= {"torch", "openvino"}
    assert remembered["milliseconds"][first.runtime] == min(remembered["milliseconds"].values())
    assert [path.name for path in cache.iterdir()] == ["runtimes.json"]
    caplog.clear()
    assert Segmenter(make(seed=2), runtime="auto", cache=cache).runtime == first.runtime
    assert "the fastest when they were measured" in caplog.text


class Pretended(TorchRuntime):
    """The reference with a time of its own, and another answer if need be."""

    def __init__(self, classifier: Classifier, name: str, seconds: float, right: bool = True, passes: int = 1) -> None:
        super().__init__(name, classifier, "cpu")
        self.seconds, self.right, self.passes = seconds, right, passes

    def __call__(self, images: Batch) -> Tensor:
        time.sleep(self.seconds)
        found = super().__call__(images)
        return found if self.right else found.roll(1, dims=1)


def failing(classifier: Classifier) -> Runtime:
    raise RuntimeError("no such instruction")


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runtimes whose speeds are known."""
    known = {
        REFERENCE: partial(Pretended, name=REFERENCE, seconds=0.04),
        "wrong": partial(Pretended, name="wrong", seconds=0, right=False),
        "broken": failing,
        "quick": partial(Pretended, name="quick", seconds=0.02),
        "wide": partial(Pretended, name="wide", seconds=0.02, passes=4),
    }
    monkeypatch.setattr(choice, "_candidates", lambda device, card: known.items())
    monkeypatch.setattr(choice, "_ROUNDS", 1)
    monkeypatch.setattr(choice, "sample_paintings", lambda card: painting(32, 32))


@pytest.mark.usefixtures("pretended")
def test_the_fastest_that_agrees_is_chosen(
    checkpoint: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    chosen = runtime_for(classifier(checkpoint), checkpoint.card, "cpu", "auto", tmp_path)
    assert (chosen.name, chosen.passes) == ("wide", 4)
    assert "broken failed (RuntimeError)" in caplog.text
    assert "left out: it agrees on" in caplog.text
    [remembered] = json.loads((tmp_path / "runtimes.json").read_text()).values()
    assert set(remembered["milliseconds"]) == {REFERENCE, "quick", "wide"}


@pytest.mark.usefixtures("pretended")
def test_a_broken_memory_is_made_anew(checkpoint: Checkpoint, tmp_path: Path) -> None:
    place, net = tmp_path / "runtimes.json", classifier(checkpoint)
    runtime_for(net, checkpoint.card, "cpu", "auto", tmp_path)
    [(key, remembered)] = json.loads(place.read_text()).items()
    for broken in (
        "{",
        "[1]",
        json.dumps({key: 3}),
        json.dumps({key: {"runtime": "abacus"}}),
        json.dumps({key: {"runtime": []}}),
    ):
        place.write_text(broken)
        assert runtime_for(net, checkpoint.card, "cpu", "auto", tmp_path).name == "wide"
        assert json.loads(place.read_text())[key]["runtime"] == remembered["runtime"]


@pytest.mark.usefixtures("pretended")
def test_what_cannot_be_remembered_is_chosen_all_the_same(
    checkpoint: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert runtime_for(classifier(checkpoint), checkpoint.card, "cpu", "auto", tmp_path / "file").name == "wide"
    assert "can't be remembered" in caplog.text


@pytest.mark.parametrize(("channels", "dtype"), [(3, np.uint8), (2, np.float32)])
def test_sample_paintings_look_like_what_the_net_was_trained_on(channels: int, dtype: type[np.generic]) -> None:
    card = make(channels=channels).card
    paintings = sample_paintings(card)
    assert paintings.dtype == dtype
    assert paintings.shape == (3, 64, 96, channels)
    np.testing.assert_array_equal(paintings, sample_paintings(card))
    values = paintings / (255 if dtype is np.uint8 else 1)
    assert np.allclose(values.mean(axis=(0, 1, 2)), card.mean, atol=card.std[0])
    assert np.all((values.std(axis=(0, 1, 2)) > 0.5 * card.std[0]) & (values.std(axis=(0, 1, 2)) < 2 * card.std[0]))


def test_the_tolerance_is_the_one_that_was_promised() -> None:
    assert AGREEMENT == 0.995

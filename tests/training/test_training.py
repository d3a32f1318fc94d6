import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from toy import CLASSES, painting
from underpaint.checkpoints import Checkpoint
from underpaint.labelstudio.class_mapping import ClassMapping
from underpaint.labelstudio.label_config import Label
from underpaint.segmenter import channels
from underpaint.segmenter.architecture import Architecture, ArchitectureError, build
from underpaint.segmenter.encoder_weights import EncoderWeightsError, load_imagenet
from underpaint.segmenter.segmenter import Segmenter
from underpaint.settings import get_settings
from underpaint_workers import training
from underpaint_workers.curriculum import Curriculum
from underpaint_workers.dataset import Item
from underpaint_workers.evaluation import evaluate
from underpaint_workers.strategies import Strategy
from underpaint_workers.train_settings import TrainSettings
from underpaint_workers.training import Progress, train

QUICK = TrainSettings(strategy="all", epochs=1, min_steps=0, image_size=64, batch_size=2, device="cpu", threads=1)


rate = training._rate


@pytest.fixture(scope="module")
def parent() -> Checkpoint:
    return train([painting(0), painting(1)], CLASSES, None, QUICK)


def test_it_learns_what_it_is_shown() -> None:
    settings = replace(QUICK, epochs=15)
    checkpoint = train([painting(seed) for seed in range(4)], CLASSES, None, settings, snapshot="abc")
    metrics = evaluate(Segmenter(checkpoint), [painting(9)], CLASSES)
    assert metrics.accuracy > 0.9
    card = checkpoint.card
    assert (card.classes, card.image_size, card.snapshot, card.parent) == (CLASSES, 64, "abc", None)
    assert (card.mean, card.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert card.settings["epochs"] == 15
    assert "Apache-2.0" in card.licences


def test_equal_input_gives_equal_weights(parent: Checkpoint) -> None:
    again = train([painting(0), painting(1)], CLASSES, None, QUICK)
    other = train([painting(0), painting(1)], CLASSES, None, replace(QUICK, seed=1))
    assert again.weights == parent.weights
    assert other.weights != parent.weights


def test_the_encoders_statistics_stay_fixed_and_the_rest_learns(parent: Checkpoint) -> None:
    fresh = build(Architecture(name=QUICK.architecture, classes=CLASSES))
    load_imagenet(fresh.get_submodule("encoder"), QUICK.encoder)
    before, after = fresh.state_dict(), parent.module().state_dict()
    statistics = [name for name in before if name.startswith("encoder.") and "running" in name]
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics)
    name = "encoder.model.conv_stem.weight"
    assert not torch.equal(before[name], after[name])
    assert torch.allclose(before[name], after[name], atol=0.01)


def test_a_child_starts_from_its_parent(parent: Checkpoint) -> None:
    still = replace(QUICK, lr=0.0)
    child = train([painting(2)], CLASSES, parent, still)
    assert child.weights == parent.weights
    assert child.card.parent == parent.version


def test_the_head_is_cut_anew_for_other_classes(parent: Checkpoint) -> None:
    """`sea` moved, `sky` was renamed and `tree` is new."""
    _, class_map = painting(2)
    item = (painting(2)[0], np.where(class_map == 255, 255, 0).astype(np.uint8))
    child = train([item], ("sea", "tree", "Clouds"), parent, replace(QUICK, lr=0.0))
    old, new = parent.module().state_dict(), child.module().state_dict()
    for name in ("segmentation_head.0.weight", "segmentation_head.0.bias"):
        assert new[name].shape[0] == 3
        assert torch.equal(new[name][0], old[name][1])
        assert torch.equal(new[name][2], old[name][0])
    assert all(torch.equal(new[name], old[name]) for name in old if not name.startswith("segmentation_head"))


@pytest.mark.parametrize(
    ("strategy", "asked"),
    [("head", ("sky",)), ("head", ("sky", "sea")), ("extra", ("sea",)), ("extra", ("sky", "sea"))],
)
def test_a_mapping_says_which_weights_a_class_starts_from(
    parent: Checkpoint, strategy: Strategy, asked: tuple[str, ...]
) -> None:
    labels = (Label("Boat"), Label("Heaven", asked))
    mapping = ClassMapping.of(labels, CLASSES)
    image, class_map = painting(2)
    still = replace(QUICK, lr=0.0, strategy=strategy)
    child = train([(image, np.zeros_like(class_map))], ("Boat", "Heaven"), parent, still, mapping=mapping)
    old, new = parent.module().state_dict(), child.module().state_dict()
    ids = [CLASSES.index(name) for name in asked]
    for name, more in (("segmentation_head.0.weight", 0.0), ("segmentation_head.0.bias", math.log(len(ids)))):
        expected = old[name][ids].mean(dim=0) + more
        same = torch.equal if len(ids) == 1 else torch.allclose
        assert same(new[name][1], expected)
        assert not torch.allclose(new[name][0], expected)
    assert all(torch.equal(new[name], old[name]) for name in old if not name.startswith("segmentation_head"))


def test_another_net_does_not_start_from_the_parent(parent: Checkpoint) -> None:
    child = train([painting(2)], CLASSES, parent, replace(QUICK, architecture="Linknet", lr=0.0))
    assert child.card.architecture == "Linknet"


def test_progress_is_told_after_every_step() -> None:
    told: list[Progress] = []
    train([painting(seed) for seed in range(3)], CLASSES, None, replace(QUICK, epochs=2), progress=told.append)
    assert [each.step for each in told] == [1, 2, 3]
    assert [each.epoch for each in told] == [1, 2, 2]
    assert {(each.steps, each.epochs) for each in told} == {(3, 2)}
    assert told[-1].eta_seconds == 0
    assert all(each.loss > 0 for each in told)


def test_short_time_ends_the_schedule_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 20 s a step, 2 minutes hold six steps of 50; the rate has come down by then all the same."""
    ticks: Iterator[int] = iter(range(0, 10_000, 20))
    monkeypatch.setattr("underpaint_workers.training.time.monotonic", lambda: next(ticks))
    done: list[float] = []
    monkeypatch.setattr(training, "_rate", lambda share: done.append(share) or 1.0)  # type: ignore[func-returns-value]
    told: list[Progress] = []
    train([painting(0)], CLASSES, None, replace(QUICK, epochs=100, minutes=2), progress=told.append)
    assert len(told) == 6
    assert told[-1].seconds == 120
    assert all(each.steps <= 6 for each in told)
    assert told[-1].eta_seconds == 0
    assert rate(done[-1]) < 0.1


def test_the_rate_rises_and_falls() -> None:
    rates = [rate(done / 100) for done in range(101)]
    assert rates[0] == 0
    assert max(rates) == 1
    assert rates.index(1) == 10
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0)
    assert rate(1.5) == pytest.approx(0)


def test_what_cannot_be_trained_says_why() -> None:
    with pytest.raises(ValueError, match="accept some labels first"):
        train([], CLASSES, None, QUICK)
    with pytest.raises(EncoderWeightsError, match="no ImageNet weights for encoder 'resnet18'"):
        train([painting(0)], CLASSES, None, replace(QUICK, encoder="resnet18"))
    with pytest.raises(ArchitectureError, match="UNDERPAINT_ALLOW_NONCOMMERCIAL"):
        train([painting(0)], CLASSES, None, replace(QUICK, encoder="mit_b0"))


def test_it_stops_when_the_validation_paintings_stop_gaining_and_keeps_the_best(parent: Checkpoint) -> None:
    """A parent that learns nothing more, for its rate is zero, is as good at the first look as at any later one."""
    still = replace(QUICK, lr=0.0, epochs=20, patience=3)
    told: list[Progress] = []
    validation = [painting(10), painting(11)]
    child = train([painting(2)], CLASSES, parent, still, validation=validation, progress=told.append)
    assert child.card.settings["steps"] == len(told) == 4
    assert child.weights == parent.weights
    expected = evaluate(Segmenter(parent, "cpu"), validation, CLASSES).miou
    assert [each.validation_miou for each in told] == 4 * [pytest.approx(expected)]


def test_short_memory_halves_the_batch_and_learns_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A device that has room for one crop, and fails as CUDA does."""
    settings = replace(QUICK, strategy="head", epochs=2)
    items = [painting(seed) for seed in range(3)]
    whole: list[Progress] = []
    train(items, CLASSES, None, settings, progress=whole.append)
    halved: list[Progress] = []
    passes: list[int] = []

    def with_room_for(crops: int) -> None:
        def normalise(images: torch.Tensor, *statistics: tuple[float, ...]) -> torch.Tensor:
            passes.append(len(images))
            if len(images) > crops:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            return channels.normalise(images, *statistics)

        monkeypatch.setattr(training, "normalise", normalise)

    with_room_for(1)
    train(items, CLASSES, None, settings, progress=halved.append)
    assert passes == [2, 1, 1, 1, 1, 1, 1]
    assert "in 2 parts" in caplog.text
    assert [each.loss for each in halved] == pytest.approx([each.loss for each in whole], rel=0.05)

    with_room_for(0)
    with pytest.raises(ValueError, match="UNDERPAINT_IMAGE_SIZE"):
        train(items, CLASSES, None, settings)


def test_rasters_are_learned_from_by_their_own_statistics() -> None:
    """Heights of a coast: land is above the sea, by any unit; some pixels have no data."""
    random = np.random.default_rng(0)
    rasters: list[Item] = []
    for seed in range(4):
        _, class_map = painting(seed)
        heights = np.where(class_map == 0, 800.0, 20.0) + random.normal(0, 20, class_map.shape)
        heights[30, 30] = np.nan
        rasters.append((heights.astype(np.float32)[..., None], class_map))
    checkpoint = train(rasters, CLASSES, None, replace(QUICK, epochs=15))
    card = checkpoint.card
    assert (card.channels, len(card.mean)) == (1, 1)
    assert 100 < card.mean[0] < 700
    assert 200 < card.std[0] < 600
    assert evaluate(Segmenter(checkpoint), rasters, CLASSES).accuracy > 0.9


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERPAINT_TRAIN_EPOCHS", "3")
    monkeypatch.setenv("UNDERPAINT_TRAIN_MINUTES", "1.5")
    monkeypatch.setenv("UNDERPAINT_IMAGE_SIZE", "128")
    monkeypatch.setenv("UNDERPAINT_ARCHITECTURE", "Unet")
    monkeypatch.setenv("UNDERPAINT_TRAIN_THREADS", "3")
    monkeypatch.setenv("UNDERPAINT_TRAIN_GPU_MEMORY", "0.5")
    settings = TrainSettings.of(get_settings.__wrapped__())
    assert (settings.epochs, settings.minutes, settings.image_size) == (3, 1.5, 128)
    assert settings.architecture == "Unet"
    assert (settings.threads, settings.gpu_memory) == (3, 0.5)


def test_a_training_takes_the_threads_it_may() -> None:
    before = torch.get_num_threads()
    seen = set[int]()
    try:
        for threads in (1, 3):
            settings = replace(QUICK, threads=threads)
            train([painting(0)], CLASSES, None, settings, progress=lambda _: seen.add(torch.get_num_threads()))
    finally:
        torch.set_num_threads(before)
    assert seen == {1, 3}


def test_scenes_come_on_top_of_the_passes_over_the_paintings() -> None:
    classes, paintings = ("sky", "water", "tree"), [painting(seed) for seed in range(4)]
    alone = train(paintings, classes, None, replace(QUICK, epochs=4)).card.settings
    beside = train(paintings, classes, None, replace(QUICK, epochs=4, scenes=1)).card.settings
    assert (alone["steps"], alone["scenes"], beside["scenes"]) == (8, 0, 1)
    curriculum = Curriculum.beside_paintings(4)
    assert beside["steps"] == math.ceil(8 * curriculum.passes / (1 - curriculum.first))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_training_takes_the_memory_of_the_gpu_it_may() -> None:
    try:
        train([painting(0)], CLASSES, None, replace(QUICK, device="cuda", gpu_memory=0.25))
        assert torch.cuda.get_per_process_memory_fraction() == 0.25
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)

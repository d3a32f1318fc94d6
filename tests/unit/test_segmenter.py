import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from conftest import DATA
from underpaint.base import load
from underpaint.checkpoints import Card, Checkpoint
from underpaint.segmenter.architecture import Architecture, build
from underpaint.segmenter.channels import Image
from underpaint.segmenter.refinement import refine
from underpaint.segmenter.runtime import Batch
from underpaint.segmenter.segmenter import STRIDE, Quality, Segmenter, _in_strips, fit, resolve_device
from underpaint_workers.dataset import Dataset
from underpaint_workers.evaluation import evaluate

CLASSES = ("sky", "sea", "tree")


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    module = build(Architecture(encoder="resnet18", classes=CLASSES))
    half = (0.5, 0.5, 0.5)
    return Checkpoint.from_module(
        module, Card(architecture="FPN", encoder="resnet18", classes=CLASSES, image_size=64, mean=half, std=half)
    )


@pytest.fixture(scope="module")
def segmenter(checkpoint: Checkpoint) -> Segmenter:
    return Segmenter(checkpoint)


def painting(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(64, 64), (50, 200), (300, 41), (1, 1), (1, 5000), (9, 7)])
def test_answers_have_the_size_of_the_painting(segmenter: Segmenter, size: tuple[int, int]) -> None:
    class_map, confidence = segmenter.predict(painting(*size))
    assert class_map.shape == confidence.shape == size
    assert class_map.dtype == np.uint8
    assert confidence.dtype == np.uint8
    assert class_map.max() < len(CLASSES)
    assert confidence.min() >= 255 / len(CLASSES) - 1


def test_the_net_sees_the_painting_normalised(segmenter: Segmenter, checkpoint: Checkpoint) -> None:
    """Without any resizing, the answer is the net's own, in cells of 2 by 2 pixels and refined."""
    image = painting(64, 64)
    normalised = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        cells = functional.avg_pool2d(checkpoint.module()(normalised), 2).softmax(dim=1)
        cells = refine(cells, functional.avg_pool2d(normalised, 2))
    expected = functional.interpolate(cells, (64, 64), mode="bilinear")[0].numpy()
    np.testing.assert_allclose(segmenter.probabilities([image])[0], expected, atol=1e-4)
    class_map, confidence = segmenter.predict(image)
    assert (class_map == expected.argmax(axis=0)).mean() > 0.999
    assert np.abs(confidence - 255 * expected.max(axis=0)).max() <= 0.6


@pytest.mark.parametrize("size", [(64, 64), (32, 64), (96, 32)])
@pytest.mark.parametrize("quality", get_args(Quality))
def test_probabilities_have_the_size_of_the_prepared_image(
    segmenter: Segmenter, size: tuple[int, int], quality: Quality
) -> None:
    [found] = segmenter.probabilities([painting(*size)], quality)
    assert found.dtype == np.float32
    assert found.shape == (len(CLASSES), *size)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)


def test_segmenting_what_was_prepared_is_predicting(segmenter: Segmenter) -> None:
    images = [painting(50, 81), painting(128, 92)]
    prepared = [segmenter.prepare(image) for image in images]
    assert [image.shape for image in prepared] == [(32, 64, 3), (64, 32, 3)]
    found = segmenter.segment(prepared, [(50, 81), (128, 92)])
    for (class_map, confidence), expected in zip(found, segmenter.predict_batch(images), strict=True):
        np.testing.assert_array_equal(class_map, expected[0])
        np.testing.assert_array_equal(confidence, expected[1])


def test_how_large_an_image_is_looked_at_depends_on_its_natural_size(segmenter: Segmenter) -> None:
    assert segmenter.side((300, 4096)) == 64
    assert segmenter.side((300, 4097)) == 128
    assert segmenter.prepare(painting(160, 200), (9600, 12000)).shape == (96, 128, 3)


def test_best_is_the_mean_of_six_views(segmenter: Segmenter) -> None:
    """Of a painting at three sizes and mirrored: the answer for a mirrored painting is mirrored too."""
    image = painting(64, 96)
    class_map, confidence = segmenter.predict(image, "best")
    mirrored_map, mirrored = segmenter.predict(np.ascontiguousarray(image[:, ::-1]), "best")
    np.testing.assert_allclose(mirrored[:, ::-1].astype(int), confidence, atol=1)
    assert (mirrored_map[:, ::-1] == class_map).mean() > 0.99
    once = segmenter.predict(image)[1].astype(int)
    mirrored_once = segmenter.predict(np.ascontiguousarray(image[:, ::-1]))[1][:, ::-1]
    assert np.abs(mirrored_once - once).max() > 1
    assert np.abs(once - confidence).max() > 1


def test_a_batch_answers_as_its_paintings_alone_do(segmenter: Segmenter) -> None:
    images = [painting(64, 64, 1), painting(40, 90, 2), painting(64, 64, 3)]
    for image, (class_map, confidence) in zip(images, segmenter.predict_batch(images), strict=True):
        alone = segmenter.predict(image)
        np.testing.assert_array_equal(class_map, alone[0])
        np.testing.assert_array_equal(confidence, alone[1])
    assert segmenter.predict_batch([]) == []


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float64),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_image_is_refused(segmenter: Segmenter, image: Image) -> None:
    with pytest.raises(ValueError, match=r"An image is|An image has|The image has"):
        segmenter.predict(image)


def test_a_type_with_more_bits_shows_the_same_painting(segmenter: Segmenter) -> None:
    image = painting(64, 64)
    answer = segmenter.predict(image)
    for same in (image.astype(np.uint16) * 257, image.astype(np.float32) / 255):
        np.testing.assert_allclose(segmenter.predict(np.asarray(same))[1].astype(int), answer[1], atol=1)


def test_a_grey_painting_is_seen_as_rgb(segmenter: Segmenter) -> None:
    grey = painting(50, 70)[..., 0]
    answers = [segmenter.predict(each) for each in (grey, grey[..., None], np.repeat(grey[..., None], 3, axis=2))]
    for class_map, confidence in answers[:2]:
        np.testing.assert_array_equal(class_map, answers[2][0])
        np.testing.assert_array_equal(confidence, answers[2][1])


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_rasters_of_other_channels_are_segmented(channels: int) -> None:
    architecture = Architecture(name="Hypercolumn", encoder="resnet18", classes=CLASSES, channels=channels)
    card = Card(
        architecture="Hypercolumn",
        encoder="resnet18",
        classes=CLASSES,
        image_size=96,
        mean=(800.0,) * channels,
        std=(50.0,) * channels,
        channels=channels,
    )
    segmenter = Segmenter(Checkpoint.from_module(build(architecture), card))
    segmenter.warm()
    heights = np.random.default_rng(0).normal(800, 50, (96, 64, channels)).astype(np.float32)
    heights[10:20] = np.nan
    class_map, confidence = segmenter.predict(heights)
    np.testing.assert_array_equal(class_map, segmenter.predict(np.nan_to_num(heights, nan=800.0))[0])
    class_map, confidence = segmenter.predict(heights[:71, :35])
    assert class_map.shape == confidence.shape == (71, 35)
    assert np.isfinite(segmenter.probabilities([segmenter.prepare(heights)])[0]).all()


def test_a_net_that_needs_larger_images_gets_them() -> None:
    card = Card(architecture="PAN", encoder="resnet18", classes=CLASSES, image_size=64, mean=(0.5,) * 3, std=(0.5,) * 3)
    segmenter = Segmenter(
        Checkpoint.from_module(build(Architecture(name="PAN", encoder="resnet18", classes=CLASSES)), card)
    )
    assert segmenter.predict(painting(20, 200))[0].shape == (20, 200)


@settings(deadline=None, max_examples=50)
@given(
    small=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    natural=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    strip=st.integers(1, 400),
)
def test_strips_join_into_plain_interpolation(small: tuple[int, int], natural: tuple[int, int], strip: int) -> None:
    probabilities = torch.randn(4, *small).softmax(dim=0)
    whole = functional.interpolate(probabilities[None], natural, mode="bilinear", align_corners=False)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("underpaint.segmenter.segmenter._STRIP_VALUES", strip)
        class_map, confidence = _in_strips(probabilities, *natural)
    np.testing.assert_allclose(confidence, 255 * whole.max(dim=0).values, atol=0.51)
    chosen = whole.gather(0, torch.from_numpy(class_map).long()[None])[0]
    np.testing.assert_allclose(chosen, whole.max(dim=0).values, atol=1e-5)


HUGE = """
import resource
import numpy as np
from underpaint.checkpoints import Card, Checkpoint
from underpaint.segmenter.architecture import Architecture, build
from underpaint.segmenter.segmenter import Segmenter
names = tuple("abcdefghi")
card = Card(architecture="FPN", encoder="resnet18", classes=names, image_size=320, mean=(0.5,) * 3, std=(0.5,) * 3)
module = build(Architecture(encoder="resnet18", classes=names))
segmenter = Segmenter(Checkpoint.from_module(module, card))
segmenter.warm([(256, 320)])
scan = np.random.default_rng(0).integers(0, 256, (9000, 12, 3), np.uint8).repeat(1000, axis=1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
class_map, confidence = segmenter.predict(scan)
assert class_map.shape == confidence.shape == (9000, 12000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 - class_map.nbytes - confidence.nbytes)
"""


def test_memory_beyond_the_answer_does_not_grow_with_the_painting() -> None:
    """In a process of its own, for the peak is the process's; 9 classes of 108 megapixels would be 3.9 GB."""
    environment = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", "HOME": str(Path.home())}
    child = subprocess.run([sys.executable, "-c", HUGE], env=environment, capture_output=True, text=True, check=True)
    assert int(child.stdout) < 200e6


@given(st.integers(1, 3000), st.integers(1, 3000))
@settings(deadline=None, max_examples=30)
def test_fit_keeps_the_shape(height: int, width: int) -> None:
    fitted = fit(np.zeros((height, width, 3), np.uint8), 64)
    assert fitted.shape[2] == 3
    assert max(fitted.shape[:2]) == 64
    assert abs(fitted.shape[0] - max(1, 64 * height / max(height, width))) <= 0.5
    assert abs(fitted.shape[1] - max(1, 64 * width / max(height, width))) <= 0.5


@pytest.mark.parametrize("size", [16, 96])
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize(("dtype", "value"), [(np.uint8, 200), (np.uint16, 60000), (np.float32, 1234.5)])
def test_fit_keeps_type_channels_and_values(dtype: type[np.generic], value: float, channels: int, size: int) -> None:
    fitted = fit(np.full((48, 24, channels), value, dtype), size)
    assert fitted.dtype == dtype
    assert fitted.shape == (size, size // 2, channels)
    assert (fitted == dtype(value)).all()


@given(st.integers(1, 3000), st.integers(1, 3000))
@settings(deadline=None, max_examples=30)
def test_the_net_sees_the_sides_that_it_takes_nearest_to_the_paintings(
    segmenter: Segmenter, height: int, width: int
) -> None:
    seen = segmenter.prepare(np.zeros((height, width, 3), np.uint8)).shape
    assert seen[0] % STRIDE == seen[1] % STRIDE == 0
    for side, natural in zip(seen, (height, width), strict=False):
        assert abs(side - max(STRIDE, 64 * natural / max(height, width))) <= STRIDE / 2


def test_warm_runs_and_the_version_is_the_checkpoints(checkpoint: Checkpoint) -> None:
    segmenter = Segmenter(checkpoint)
    segmenter.warm()
    assert segmenter.version == checkpoint.version
    assert segmenter.classes == CLASSES
    assert segmenter.shapes == {(64, 64)}


def test_a_successor_that_looks_at_another_size_is_warmed_with_shapes_of_its_own(checkpoint: Checkpoint) -> None:
    first = Segmenter(checkpoint)
    second = Segmenter(replace(checkpoint, card=replace(checkpoint.card, image_size=128)))
    first.predict_batch([painting(30, 64), painting(640, 300)])
    second.warm(first.shapes)
    warmed = set(second.shapes)
    second.predict_batch([painting(30, 64), painting(640, 300), painting(50, 50)])
    assert second.shapes == warmed == {(64, 128), (128, 64), (128, 128)}


def test_a_successor_is_warmed_with_the_shapes_seen(checkpoint: Checkpoint) -> None:
    first, second = Segmenter(checkpoint), Segmenter(checkpoint)
    first.predict_batch([painting(30, 64), painting(640, 300)])
    assert first.shapes == {(32, 64), (64, 32)}
    second.warm(first.shapes)
    assert second.shapes == {(32, 64), (64, 32), (64, 64)}


def test_images_share_a_pass_by_shape_and_type(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = Segmenter(checkpoint)
    raster: Image = painting(64, 64).astype(np.float32) / np.float32(255)
    images: list[Image] = [painting(64, 64), painting(64, 64, 1), painting(32, 64), raster]
    alone = segmenter.probabilities(images)
    passes: list[tuple[int, ...]] = []
    run = segmenter._runtime

    def noted(batch: Batch) -> torch.Tensor:
        passes.append(batch.shape)
        return run(batch)

    monkeypatch.setattr(segmenter, "_runtime", noted)
    segmenter.batches = True
    together = segmenter.probabilities(images)
    assert passes == [(2, 64, 64, 3), (1, 32, 64, 3), (1, 64, 64, 3)]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_threads_do_not_disturb_each_other(segmenter: Segmenter) -> None:
    images = [painting(64, 64, seed) for seed in range(12)]
    expected = [segmenter.predict(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for (class_map, confidence), alone in zip(pool.map(segmenter.predict, images), expected, strict=True):
            np.testing.assert_array_equal(class_map, alone[0])
            np.testing.assert_array_equal(confidence, alone[1])


def test_broken_weights_are_told(checkpoint: Checkpoint) -> None:
    Segmenter(checkpoint).check()
    module = checkpoint.module()
    with torch.no_grad():
        next(module.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="no probabilities"):
        Segmenter(Checkpoint.from_module(module, checkpoint.card)).check()


def test_a_closed_segmenter_says_so(checkpoint: Checkpoint) -> None:
    segmenter = Segmenter(checkpoint)
    segmenter.close()
    with pytest.raises(RuntimeError, match="closed"):
        segmenter.predict(painting(8, 8))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data at {DATA}")
def test_the_base_sees_unseen_paintings_as_well_as_its_card_says() -> None:
    base = load()
    if base is None:
        pytest.skip("this checkout has no base segmenter yet; `make base` makes it")
    data = Dataset.open(DATA / "monet" / "val")
    found = evaluate(Segmenter(base), map(data.load, data.names), data.classes)
    assert found.miou == pytest.approx(base.card.metrics["miou"], abs=0.003)
    assert found.accuracy == pytest.approx(base.card.metrics["accuracy"], abs=0.003)


def test_devices_are_resolved() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "abacus"):
        with pytest.raises(ValueError, match="UNDERPAINT_DEVICE"):
            resolve_device(name)

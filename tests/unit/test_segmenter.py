import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from underpaint.checkpoints import Card, Checkpoint
from underpaint.segmenter.architecture import Architecture, build
from underpaint.segmenter.channels import Image
from underpaint.segmenter.refinement import refine
from underpaint.segmenter.segmenter import Segmenter, _at_natural_size, fit, resolve_device

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
    assert confidence.dtype == np.float32
    assert class_map.max() < len(CLASSES)
    assert confidence.min() >= 1 / len(CLASSES) - 1e-6
    assert confidence.max() <= 1 + 1e-6


def test_the_net_sees_the_painting_normalised(segmenter: Segmenter, checkpoint: Checkpoint) -> None:
    """Without any resizing or padding, the answer is the net's own, refined."""
    image = painting(64, 64)
    normalised = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        odds = refine(checkpoint.module()(normalised).softmax(dim=1), normalised)[0]
    class_map, confidence = segmenter.predict(image)
    np.testing.assert_allclose(confidence, odds.max(dim=0).values, atol=1e-4)
    assert (class_map == odds.argmax(dim=0).numpy()).mean() > 0.999


def test_best_is_the_mean_of_six_views(segmenter: Segmenter, checkpoint: Checkpoint) -> None:
    """Of a painting at three sizes and mirrored: the answer for a mirrored painting is mirrored too."""
    image = painting(64, 96)
    class_map, confidence = segmenter.predict(image, "best")
    mirrored_map, mirrored = segmenter.predict(np.ascontiguousarray(image[:, ::-1]), "best")
    np.testing.assert_allclose(mirrored[:, ::-1], confidence, atol=1e-3)
    assert (mirrored_map[:, ::-1] == class_map).mean() > 0.99
    once = segmenter.predict(image)
    assert not np.allclose(segmenter.predict(np.ascontiguousarray(image[:, ::-1]))[1][:, ::-1], once[1], atol=1e-3)
    assert not np.allclose(once[1], confidence, atol=1e-3)


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
        np.testing.assert_allclose(segmenter.predict(np.asarray(same))[1], answer[1], atol=1e-4)


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
    assert np.isfinite(confidence).all()


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
        class_map, confidence = _at_natural_size(probabilities, *natural)
    np.testing.assert_allclose(confidence, whole.max(dim=0).values, atol=1e-5)
    chosen = whole.gather(0, torch.from_numpy(class_map).long()[None])[0]
    np.testing.assert_allclose(chosen, whole.max(dim=0).values, atol=1e-5)


HUGE = """
import resource
import torch
from underpaint.segmenter.segmenter import _at_natural_size
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
class_map, confidence = _at_natural_size(torch.randn(9, 192, 256).softmax(dim=0), 4500, 6000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 - class_map.nbytes - confidence.nbytes)
"""


def test_memory_beyond_the_answer_does_not_grow_with_the_painting() -> None:
    """In a process of its own, for the peak is the process's; 9 classes of 27 megapixels would be 972 MB."""
    environment = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    child = subprocess.run([sys.executable, "-c", HUGE], env=environment, capture_output=True, text=True, check=True)
    assert int(child.stdout) < 500e6


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


def test_warm_runs_and_the_version_is_the_checkpoints(segmenter: Segmenter, checkpoint: Checkpoint) -> None:
    segmenter.warm()
    assert segmenter.version == checkpoint.version
    assert segmenter.classes == CLASSES


def test_devices_are_resolved() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "abacus"):
        with pytest.raises(ValueError, match="UNDERPAINT_DEVICE"):
            resolve_device(name)

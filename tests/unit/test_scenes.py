"""The scene painter: reproducible, varied, and exact to the pixel."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from underpaint.taxonomy import LANDSCAPE, UNLABELLED
from underpaint_workers.dataset import Dataset, DatasetError
from underpaint_workers.scenes import MANNERS, paint, paint_items, write_dataset
from underpaint_workers.scenes.brush import Layer, Tip, paint_layer
from underpaint_workers.scenes.composition import compose
from underpaint_workers.scenes.material import CLASS_OF, Material

SMALL = (96, 128)


def test_the_same_arguments_give_the_same_bytes_in_another_process() -> None:
    script = (
        "import sys; from underpaint_workers.scenes import paint\n"
        "s = paint(7, (96, 128)); sys.stdout.buffer.write(s.image.tobytes() + s.class_map.tobytes())"
    )
    other = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    here = paint(7, SMALL)
    assert other.stdout == here.image.tobytes() + here.class_map.tobytes()


def test_seeds_differ_in_shape_and_in_colour() -> None:
    scenes = [paint(seed, SMALL, "impressionist") for seed in range(8)]
    assert len({scene.class_map.tobytes() for scene in scenes}) == len(scenes)
    for one, other in pairwise(scenes):
        assert (one.class_map != other.class_map).mean() > 0.05
        colours = [scene.image.reshape(-1, 3).astype(float) for scene in (one, other)]
        assert np.abs(colours[0] - colours[1]).mean() > 8


@pytest.mark.parametrize("manner", MANNERS)
def test_every_manner_paints_the_same_plan_its_own_way(manner: str) -> None:
    scene = paint(3, SMALL, manner)
    assert scene.manner == manner
    assert scene.image.shape == (*SMALL, 3)
    assert scene.image.dtype == scene.class_map.dtype == np.uint8
    assert scene.image.reshape(-1, 3).std(axis=0).max() > 5
    reference = paint(3, SMALL, MANNERS[MANNERS.index(manner) - 1])
    np.testing.assert_array_equal(scene.class_map, reference.class_map)
    assert np.abs(scene.image.astype(float) - reference.image).mean() > 4


def test_an_unknown_manner_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"cubist.*impressionist"):
        paint(0, SMALL, "cubist")


def test_every_class_appears_in_enough_scenes() -> None:
    present = np.zeros(len(LANDSCAPE))
    for seed in range(40):
        areas = np.bincount(compose(np.random.default_rng(seed), *SMALL).class_map.ravel(), minlength=len(LANDSCAPE))
        assert len(areas) == len(LANDSCAPE), "an id outside the landscape classes"
        present += areas >= 8
    rare = {name: share for name, share in zip(LANDSCAPE, present / 40, strict=True) if share < 0.15}
    assert not rare


def test_every_class_has_a_material() -> None:
    assert len(CLASS_OF) == len(Material)
    assert set(CLASS_OF.tolist()) == set(range(len(LANDSCAPE)))


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(24, 90),
    width=st.integers(24, 90),
    tip=st.sampled_from(["bristle", "round", "knife", "wash"]),
    length=st.floats(4.0, 30.0),
    tolerance=st.sampled_from([0.0, 0.1]),
)
def test_no_stroke_crosses_a_contour(
    seed: int, height: int, width: int, tip: Tip, length: float, tolerance: float
) -> None:
    rng = np.random.default_rng(seed)
    classes = (rng.random((height // 8 + 1, width // 8 + 1)) < 0.5).astype(np.uint8)
    classes = classes.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    guide = np.zeros((height, width, 3), np.float32)
    guide[classes == 0, 0] = 1.0
    guide[classes == 1, 2] = 1.0
    surface = np.zeros((height, width, 4), np.float32)
    angle = rng.uniform(0, np.pi, (height, width)).astype(np.float32)
    nearness = rng.uniform(0, 1, (height, width)).astype(np.float32)
    layer = Layer(length, length / 3, 2.0, tip, value_jitter=0.0, hue_jitter=0.0, tolerance=tolerance)

    paint_layer(surface, guide, classes, angle, nearness, layer, rng)

    assert surface[..., :3].max() > 0.3, "nothing was painted"
    assert not surface[classes == 0, 1:3].any()
    assert not surface[classes == 1, 0:2].any()


def test_strokes_cover_their_own_class() -> None:
    rng = np.random.default_rng(0)
    guide = np.full((96, 96, 3), 0.8, np.float32)
    classes, half = np.zeros((96, 96), np.uint8), np.full((96, 96), 0.5, np.float32)
    surface = np.zeros((96, 96, 4), np.float32)
    paint_layer(surface, guide, classes, half, half, Layer(16, 8, 4.0, value_jitter=0, hue_jitter=0), rng)
    assert surface[..., 0].mean() > 0.6


@pytest.mark.parametrize("size", [(64, 64), (150, 90), (71, 203)])
def test_any_size(size: tuple[int, int]) -> None:
    scene = paint(11, size)
    assert scene.image.shape == (*size, 3)
    assert scene.class_map.shape == size


def test_a_data_set_reads_back(tmp_path: Path) -> None:
    write_dataset(tmp_path, 3, seed=5, size=SMALL, manners=["fauve", "tonalist"])
    scenes = Dataset.open(tmp_path)
    assert scenes.classes == LANDSCAPE
    assert [name.split("-")[0] for name in scenes.names] == ["fauve", "fauve", "tonalist"]
    items = [scenes.load(name) for name in scenes.names]
    assert {image.shape for image, _ in items} == {(*SMALL, 3)}
    assert len({class_map.tobytes() for _, class_map in items}) == 3


def test_a_painting_that_was_interrupted_leaves_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cubist"):
        write_dataset(tmp_path, 3, size=SMALL, manners=["fauve", "cubist"])
    assert len(list((tmp_path / "images").iterdir())) == 1
    with pytest.raises(DatasetError, match=r"classes\.json is missing"):
        Dataset.open(tmp_path)


def test_the_command_writes_a_data_set(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "underpaint_workers.scenes", str(tmp_path), "--count", "1", "--size", "64x80"]
    subprocess.run([*command, "--manner", "ink-wash"], check=True, env={"PYTHONPATH": ":".join(sys.path)})
    (image,) = (tmp_path / "images").iterdir()
    assert Image.open(image).size == (80, 64)
    assert image.name.startswith("ink-wash")


def test_items_have_the_ids_of_the_classes_that_are_asked_for() -> None:
    items = paint_items(("volcano", "Water", "sky"), 4, 5, SMALL)
    for (image, everything), (same, some) in zip(paint_items(LANDSCAPE, 4, 5, SMALL), items, strict=True):
        assert np.array_equal(image, same)
        expected = np.full(SMALL, UNLABELLED)
        expected[everything == LANDSCAPE.index("sky")] = 2
        expected[everything == LANDSCAPE.index("water")] = 1
        assert np.array_equal(some, expected)
    assert set(np.unique([ids for _, ids in items])) == {1, 2, UNLABELLED}
    assert paint_items(("wall", "window", "sky"), 3, 5, SMALL) == []

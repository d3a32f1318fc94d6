import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from underpaint.taxonomy import LANDSCAPE
from underpaint_workers.curriculum import Curriculum, paint_scenes
from underpaint_workers.train_settings import TrainSettings


@given(st.integers(1, 10_000))
def test_a_run_begins_with_scenes_alone_and_ends_with_the_fewer_the_more_paintings_there_are(count: int) -> None:
    one, more = Curriculum.beside_paintings(count), Curriculum.beside_paintings(count + 1)
    assert {one.share(done) for done in np.linspace(0, 0.999 * one.first, 50)} == {1}
    assert {one.share(done) for done in np.linspace(one.first, 1, 50)} == {one.beside}
    assert 0 < more.beside < one.beside < 0.5


def test_beside_five_and_forty_paintings_the_scenes_have_what_readme_says() -> None:
    assert [round(Curriculum.beside_paintings(count).beside, 2) for count in (5, 40)] == [0.4, 0.03]


def test_each_part_of_a_run_goes_from_its_beginning_to_its_end() -> None:
    curriculum = Curriculum(first=0.4, beside=0.1)
    assert [curriculum.within_part(done) for done in (0, 0.2)] == [0, 0.5]
    assert [curriculum.within_part(done) for done in (0.4, 0.7, 1)] == pytest.approx([0, 0.5, 1])


@given(st.floats(0, 1))
def test_without_scenes_a_run_has_one_part(done: float) -> None:
    assert (Curriculum().share(done), Curriculum().within_part(done)) == (0, done)


def test_scenes_have_the_size_that_the_net_sees() -> None:
    settings = TrainSettings(image_size=64, scenes=2)
    assert [image.shape for image, _ in paint_scenes(LANDSCAPE, settings)] == [(48, 64, 3)] * 2
    assert paint_scenes(LANDSCAPE, TrainSettings()) == []
    assert paint_scenes(("wall", "window"), settings) == []


def test_little_time_is_not_spent_on_painting() -> None:
    settings = TrainSettings(image_size=320, scenes=1000, minutes=0.01)
    started = time.monotonic()
    assert len(paint_scenes(LANDSCAPE, settings)) < 1000
    assert time.monotonic() - started < 5

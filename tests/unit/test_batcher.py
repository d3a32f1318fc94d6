"""Forward passes shared by everyone who asks, on a real net whose passes a test can hold back, watch and break."""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.segmenter.segmenter import Segmenter
from underpaint.serving.batcher import Answer, Batcher, Gone

LONG = 30.0


class Watched(Segmenter):
    """A segmenter that keeps a list of the images of each pass, and lets passes through while ``open`` is set."""

    def watch(self) -> "Watched":
        self.passes, self.batches = 1, False
        self.open = threading.Event()
        self.open.set()
        self.began: list[list[int]] = []
        self.now = self.most = 0
        self._lock = threading.Lock()
        return self

    def segment(self, images: Sequence[Any], shapes: Sequence[tuple[int, int]], *args: Any) -> list[Answer]:
        return self.watched(images, super().segment, images, shapes, *args)

    def probabilities(self, images: Sequence[Any], *args: Any) -> list[Any]:
        return self.watched(images, super().probabilities, images, *args)

    def watched(self, images: Sequence[Any], look: Callable[..., list[Any]], *args: Any) -> list[Any]:
        with self._lock:
            self.began.append([name(image) for image in images])
            self.now += 1
            self.most = max(self.most, self.now)
        assert self.open.wait(LONG)
        try:
            if 255 in map(name, images):
                raise MemoryError("no room")
            return look(*args)
        finally:
            with self._lock:
                self.now -= 1


def image(number: int, size: tuple[int, int] = (32, 64)) -> Any:
    """An image that can be told from others; 255 breaks its pass."""
    return np.full((*size, 3), number, np.uint8)


def name(image: Any) -> int:
    return int(image.flat[0])


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Checkpoint]) -> Checkpoint:
    return make_checkpoint(("sky", "water"), "sky")


@pytest.fixture(scope="module")
def nets(checkpoint: Checkpoint) -> list[Watched]:
    """Two, that take a second to make."""
    return [Watched(checkpoint, "cpu"), Watched(checkpoint, "cpu")]


@pytest.fixture
def segmenter(nets: list[Watched]) -> Watched:
    return nets[0].watch()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


@pytest.fixture
def make(threads: ThreadPoolExecutor) -> Iterator[Callable[..., Batcher]]:
    made: list[Batcher] = []

    def new(size: int = 8, wait: float = LONG) -> Batcher:
        made.append(Batcher(size, wait))
        return made[-1]

    yield new
    for batcher in made:
        batcher.stop()


@pytest.fixture
def ask(threads: ThreadPoolExecutor) -> Callable[..., Future[Answer]]:
    """Asks from another thread, and returns once the question is in the queue or being answered."""

    def asked(batcher: Batcher) -> float:
        return sum(batcher.metrics()[count] for count in ("waiting", "images", "dropped"))

    def ask(batcher: Batcher, segmenter: Watched, picture: Any, **options: Any) -> Future[Answer]:
        before = asked(batcher)
        answer = threads.submit(batcher.segment, segmenter, picture, picture.shape[:2], **options)
        eventually(lambda: asked(batcher) > before)
        if before == 0 and not segmenter.open.is_set():  # who comes next is to find it busy
            eventually(lambda: segmenter.now)
        return answer

    return ask


def eventually(condition: Callable[[], object]) -> None:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < LONG
        time.sleep(0.001)


def test_the_answers_are_those_of_the_segmenter(
    make: Callable[..., Batcher], segmenter: Watched, threads: ThreadPoolExecutor
) -> None:
    batcher, segmenter.passes = make(), 2
    pictures = [
        np.random.default_rng(seed).integers(0, 256, (32 + 32 * (seed % 3), 64, 3)).astype(np.uint8)
        for seed in range(16)
    ]
    shapes = [(3 * picture.shape[0], 150) for picture in pictures]
    found = list(threads.map(lambda one: batcher.segment(segmenter, *one), zip(pictures, shapes, strict=True)))
    for (class_map, confidence), (expected, sure) in zip(found, segmenter.segment(pictures, shapes), strict=True):
        assert np.array_equal(class_map, expected)
        assert np.array_equal(confidence, sure)
    assert batcher.metrics()["images"] == 16
    assert batcher.metrics()["images_per_second"] > 0


def test_an_image_alone_is_not_held_back(make: Callable[..., Batcher], segmenter: Watched) -> None:
    segmenter.batches = True
    started = time.monotonic()
    make(wait=LONG).segment(segmenter, image(1), (32, 64))
    assert time.monotonic() - started < LONG / 2


def test_images_that_come_while_a_pass_runs_share_the_next(
    make: Callable[..., Batcher], segmenter: Watched, ask: Callable[..., Future[Answer]]
) -> None:
    batcher, segmenter.batches = make(size=4), True
    segmenter.open.clear()
    answers = [ask(batcher, segmenter, image(number)) for number in range(6)]
    segmenter.open.set()
    assert [answer.result()[0].shape for answer in answers] == [(32, 64)] * 6
    assert segmenter.began == [[0], [1, 2, 3, 4], [5]]
    assert batcher.metrics()["passes"] == 3


def test_a_pass_waits_for_an_image_on_its_way_and_goes_when_it_is_full(
    make: Callable[..., Batcher], segmenter: Watched, ask: Callable[..., Future[Answer]]
) -> None:
    batcher, segmenter.batches = make(size=2), True
    with batcher.expected():
        first = ask(batcher, segmenter, image(1))
        assert not segmenter.began
        ask(batcher, segmenter, image(2)).result(LONG / 2)
    first.result(LONG / 2)
    assert segmenter.began == [[1, 2]]


def test_it_waits_no_longer_than_it_may(make: Callable[..., Batcher], segmenter: Watched) -> None:
    batcher, segmenter.batches = make(wait=0.1), True
    with batcher.expected():
        started = time.monotonic()
        batcher.segment(segmenter, image(1), (32, 64))
        assert 0.1 <= time.monotonic() - started < LONG


def test_what_is_urgent_waits_for_nobody(make: Callable[..., Batcher], segmenter: Watched) -> None:
    batcher, segmenter.batches = make(), True
    with batcher.expected():
        started = time.monotonic()
        batcher.segment(segmenter, image(1), (32, 64), urgent=True)
        assert time.monotonic() - started < LONG / 2


def test_what_is_urgent_overtakes_what_is_not(
    make: Callable[..., Batcher], segmenter: Watched, ask: Callable[..., Future[Answer]]
) -> None:
    batcher = make()
    segmenter.open.clear()
    answers = [ask(batcher, segmenter, image(number)) for number in range(5)]
    answers += [ask(batcher, segmenter, image(number), urgent=True) for number in (10, 11)]
    segmenter.open.set()
    for answer in answers:
        answer.result(LONG)
    assert segmenter.began == [[0], [10], [11], [1], [2], [3], [4]]


def test_probabilities_overtake_what_is_not_urgent_in_a_pass_of_their_own(
    make: Callable[..., Batcher], segmenter: Watched, ask: Callable[..., Future[Answer]], threads: ThreadPoolExecutor
) -> None:
    """One device, whatever is asked of it."""
    batcher, segmenter.batches = make(), True
    segmenter.open.clear()
    answers: list[Future[Any]] = [ask(batcher, segmenter, image(number)) for number in range(3)]
    answers.append(threads.submit(batcher.probabilities, segmenter, image(10), urgent=True))
    eventually(lambda: batcher.metrics()["waiting"] == 3)
    segmenter.open.set()
    found = [answer.result(LONG) for answer in answers][-1]
    assert segmenter.began == [[0], [10], [1, 2]]
    assert segmenter.most == 1
    assert np.array_equal(found, segmenter.probabilities([image(10)])[0])


def test_what_nobody_waits_for_costs_no_pass(
    make: Callable[..., Batcher], segmenter: Watched, ask: Callable[..., Future[Answer]]
) -> None:
    batcher, hung_up = make(), threading.Event()
    segmenter.open.clear()
    first = ask(batcher, segmenter, image(1))
    dropped = [ask(batcher, segmenter, image(2), gone=hung_up.is_set, urgent=urgent) for urgent in (False, True)]
    last = ask(batcher, segmenter, image(3), gone=lambda: False)
    hung_up.set()
    segmenter.open.set()
    for answer in dropped:
        with pytest.raises(Gone):
            answer.result(LONG)
    first.result(LONG)
    last.result(LONG)
    assert segmenter.began == [[1], [3]]
    assert batcher.metrics()["dropped"] == 2


def test_two_checkpoints_never_share_a_pass(
    make: Callable[..., Batcher], nets: list[Watched], ask: Callable[..., Future[Answer]]
) -> None:
    batcher = make()
    old, new = (each.watch() for each in nets)
    for each in (old, new):
        each.batches = True
        each.open.clear()
    answers = [ask(batcher, [old, new][number % 2], image(number)) for number in range(7)]
    for each in (old, new):
        each.open.set()
    for answer in answers:
        answer.result(LONG)
    assert old.began == [[0], [2, 4, 6]]
    assert new.began == [[1, 3, 5]]


def test_only_images_of_one_shape_share_a_pass(
    make: Callable[..., Batcher], segmenter: Watched, ask: Callable[..., Future[Answer]]
) -> None:
    batcher, segmenter.batches = make(), True
    segmenter.open.clear()
    sizes = [(32, 64), (64, 32), (64, 32), (64, 32), (64, 64), (64, 32)]
    answers = [ask(batcher, segmenter, image(number, size)) for number, size in enumerate(sizes)]
    segmenter.open.set()
    assert [answer.result(LONG)[0].shape for answer in answers] == sizes
    assert segmenter.began == [[0], [1, 2, 3, 5], [4]]


def test_what_breaks_a_pass_fails_alone_and_the_next_one_goes_on(
    make: Callable[..., Batcher], segmenter: Watched, ask: Callable[..., Future[Answer]]
) -> None:
    batcher, segmenter.batches = make(), True
    segmenter.open.clear()
    answers = [ask(batcher, segmenter, image(number)) for number in (0, 1, 255, 2)]
    segmenter.open.set()
    with pytest.raises(MemoryError, match="no room"):
        answers[2].result(LONG)
    for index in (0, 1, 3):
        assert answers[index].result(LONG)[0].shape == (32, 64)
    assert segmenter.began[1:] == [[1, 255, 2], [1], [255], [2]]
    assert batcher.segment(segmenter, image(3), (32, 64))[0].shape == (32, 64)
    assert batcher.metrics()["failed"] == 1


@pytest.mark.parametrize("passes", [1, 2])
def test_as_many_passes_run_side_by_side_as_the_segmenter_finds_best(
    make: Callable[..., Batcher], segmenter: Watched, ask: Callable[..., Future[Answer]], passes: int
) -> None:
    batcher, segmenter.passes = make(), passes
    segmenter.open.clear()
    answers = [ask(batcher, segmenter, image(number)) for number in range(6)]
    eventually(lambda: segmenter.now == passes)
    segmenter.open.set()
    for answer in answers:
        answer.result(LONG)
    assert segmenter.most == passes
    assert sorted(segmenter.began) == [[number] for number in range(6)]


def test_when_it_stops_who_waits_is_told_so(
    make: Callable[..., Batcher], segmenter: Watched, ask: Callable[..., Future[Answer]]
) -> None:
    batcher = make()
    segmenter.open.clear()
    first, second = (ask(batcher, segmenter, image(number)) for number in (1, 2))
    threading.Timer(0.05, segmenter.open.set).start()
    batcher.stop()
    assert first.result(LONG)[0].shape == (32, 64)
    with pytest.raises(Gone, match="stopping"):
        second.result(LONG)
    with pytest.raises(Gone, match="stopping"):
        batcher.segment(segmenter, image(3), (32, 64))


def test_an_idle_batcher_keeps_no_segmenter_in_memory(make: Callable[..., Batcher], checkpoint: Checkpoint) -> None:
    batcher, segmenter = make(), Segmenter(checkpoint, "cpu")
    known = weakref.ref(segmenter)
    gc.disable()  # memory of a net must not wait for the collector
    try:
        batcher.segment(segmenter, image(1), (32, 64))
        del segmenter
        eventually(lambda: known() is None)
    finally:
        gc.enable()

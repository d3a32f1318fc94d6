"""Tasks through a real segmenter, side by side: what is overlapped, kept, dropped and left for later."""

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from http_server import Answer, Server, serve
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.labelstudio.images import ImageFetcher
from underpaint.labelstudio.label_config import LabelConfig, parse
from underpaint.segmenter.segmenter import Segmenter
from underpaint.serving.batcher import Batcher
from underpaint.serving.cache import PredictionCache
from underpaint.serving.predictor import Call, Predictor, Slot, Task
from underpaint.settings import Settings

PROJECT = "3.1795344327"
LONG = 30.0


def config(*labels: str) -> LabelConfig:
    tags = "".join(f'<Label value="{label}"/>' for label in labels)
    return parse(
        f'<View><Image name="image" value="$image"/><BrushLabels name="b" toName="image">{tags}</BrushLabels></View>'
    )


CONFIG = config("Sky", "Water")


def file(number: int, size: tuple[int, int] = (45, 30)) -> bytes:
    """A picture that has the number for its colour."""
    stream = io.BytesIO()
    Image.new("RGB", size, (number, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def tasks(numbers: Sequence[int]) -> list[Task]:
    uris = ["data:image/png;base64," + base64.b64encode(file(number)).decode() for number in numbers]
    return [{"id": number, "data": {"image": uri}} for number, uri in zip(numbers, uris, strict=True)]


def call(asked: Sequence[Task], **rest: Any) -> Call:
    return Call(PROJECT, asked, CONFIG, **({"deadline": time.monotonic() + LONG} | rest))


class Watched(Segmenter):
    """A segmenter that lists what it saw, and takes at least ``seconds`` over each."""

    def watch(self, seconds: float = 0.0) -> "Watched":
        self.seconds, self.seen = seconds, list[int]()
        return self

    def segment(self, images: Any, *args: Any) -> Any:
        self.seen += [int(image[0, 0, 0]) for image in images]
        time.sleep(self.seconds)
        return super().segment(images, *args)


@pytest.fixture(scope="module")
def nets(make_checkpoint: Callable[..., Checkpoint]) -> list[Watched]:
    """One that sees sky everywhere, and one that sees water."""
    return [Watched(make_checkpoint(("sky", "water"), winner)) for winner in ("sky", "water")]


@pytest.fixture
def segmenter(nets: list[Watched]) -> Watched:
    return nets[0].watch()


@pytest.fixture
def settings_here(settings: Settings) -> Settings:
    return settings.model_copy(update={"base": "none"})


@pytest.fixture
def make(settings_here: Settings, tmp_path: Path) -> Iterator[Callable[..., Predictor]]:
    """``make(**settings)``: a predictor, its batcher and cache."""
    made: list[tuple[Predictor, Batcher]] = []

    def new(**changes: Any) -> Predictor:
        batcher = Batcher(4, 0.005)
        cache = PredictionCache(tmp_path / f"cache{len(made)}", 1_000_000)
        made.append((Predictor(settings_here.model_copy(update=changes), batcher, cache), batcher))
        return made[-1][0]

    yield new
    for predictor, batcher in made:
        predictor.stop()
        batcher.stop()


@pytest.fixture
def fetcher(settings_here: Settings) -> ImageFetcher:
    return ImageFetcher(settings_here, None)


@pytest.fixture
def gallery(settings_here: Settings) -> Iterator[tuple[Server, list[int]]]:
    """Serves picture n at /n, each after 0.2 s; and how many it served at once."""
    lock, now, most = threading.Lock(), 0, [0]

    def answer(request: Any) -> Answer:
        nonlocal now
        with lock:
            now += 1
            most[0] = max(most[0], now)
        time.sleep(0.2)
        with lock:
            now -= 1
        return Answer(file(int(request.path[1:])))

    with serve(answer) as server:
        yield server, most


def labels(slot: Slot) -> list[str]:
    assert isinstance(slot, dict)
    return [label for region in slot["result"] for label in region["value"]["brushlabels"]]


def test_every_task_has_its_slot_in_order(
    make: Callable[..., Predictor], segmenter: Watched, fetcher: ImageFetcher
) -> None:
    asked = tasks(range(20))
    asked[7] = {"id": 7, "data": {"image": "data:image/png;base64,broken"}}
    asked[9] = {"id": 9, "data": {}}
    slots = make().predict(call(asked), segmenter, fetcher)
    assert [isinstance(slot, dict) and bool(slot["result"]) for slot in slots] == [n not in (7, 9) for n in range(20)]
    assert {slot["model_version"] for slot in slots if isinstance(slot, dict)} == {segmenter.version}
    assert sorted(segmenter.seen) == [n for n in range(20) if n not in (7, 9)]


def test_fetching_overlaps_within_its_bound(
    make: Callable[..., Predictor], segmenter: Watched, settings_here: Settings, gallery: tuple[Server, list[int]]
) -> None:
    server, most = gallery
    fetcher = ImageFetcher(settings_here.model_copy(update={"allowed_hosts": [server.host]}), None)
    asked = [{"id": number, "data": {"image": f"{server.url}/{number}"}} for number in range(12)]
    slots = make(fetch_concurrency=4).predict(call(asked), segmenter, fetcher)
    assert all(isinstance(slot, dict) and slot["result"] for slot in slots)
    assert most == [4]


def test_what_was_predicted_before_costs_no_pass(
    make: Callable[..., Predictor], segmenter: Watched, fetcher: ImageFetcher
) -> None:
    predictor, asked = make(), tasks(range(5))
    first = predictor.predict(call(asked), segmenter, fetcher)
    assert predictor.predict(call(asked), segmenter, fetcher) == first
    assert predictor.predict(call(asked[3:4]), segmenter, fetcher) == first[3:4]
    assert len(segmenter.seen) == 5
    assert predictor.metrics() == {"cache_hits": 6, "cache_misses": 5}


def test_another_checkpoint_and_other_labels_are_predicted_anew(
    make: Callable[..., Predictor], nets: list[Watched], fetcher: ImageFetcher
) -> None:
    predictor, asked = make(), tasks([1])
    old, new = (net.watch() for net in nets)
    assert labels(predictor.predict(call(asked), old, fetcher)[0]) == ["Sky"]
    assert labels(predictor.predict(call(asked), new, fetcher)[0]) == ["Water"]
    renamed = replace(call(asked), config=config("Heaven", "Skies"))
    assert labels(predictor.predict(renamed, old, fetcher)[0]) == ["Skies"]


def test_a_call_of_one_task_overtakes_one_of_many(
    make: Callable[..., Predictor], segmenter: Watched, fetcher: ImageFetcher
) -> None:
    predictor, enough = make(), threading.Event()
    segmenter.watch(seconds=0.03)
    long = call(tasks(range(150)), gone=enough.is_set)
    many = threading.Thread(target=predictor.predict, args=(long, segmenter, fetcher))
    many.start()
    _wait_for(lambda: len(segmenter.seen) > 5)
    began = len(segmenter.seen)
    [slot] = predictor.predict(call(tasks([200])), segmenter, fetcher)
    assert labels(slot) == ["Sky"]
    assert segmenter.seen.index(200) <= began + 3
    assert many.is_alive()
    enough.set()
    many.join()


def test_what_is_not_reached_in_time_is_left_for_later_and_costs_nothing_more(
    make: Callable[..., Predictor], segmenter: Watched, fetcher: ImageFetcher
) -> None:
    predictor = make()
    segmenter.watch(seconds=0.1)
    started = time.monotonic()
    slots = predictor.predict(call(tasks(range(100)), deadline=started + 1.0), segmenter, fetcher)
    assert 0.9 < time.monotonic() - started < 5.0
    reached = [number for number, slot in enumerate(slots) if slot]
    assert 0 < len(reached) < 100
    assert [slots[number] for number in range(100) if number not in reached] == [[]] * (100 - len(reached))
    time.sleep(0.5)
    seen = len(segmenter.seen)
    assert seen <= len(reached) + segmenter.passes
    assert predictor.predict(call(tasks([200])), segmenter, fetcher)[0]


def test_a_file_that_the_deadline_cut_short_leaves_no_empty_prediction(
    make: Callable[..., Predictor], segmenter: Watched, settings_here: Settings, gallery: tuple[Server, list[int]]
) -> None:
    server, _ = gallery
    fetcher = ImageFetcher(settings_here.model_copy(update={"allowed_hosts": [server.host]}), None)
    asked = [{"id": number, "data": {"image": f"{server.url}/{number}"}} for number in range(2)]
    for some in (asked, asked[:1]):
        assert make().predict(call(some, deadline=time.monotonic() + 0.1), segmenter, fetcher) == [[]] * len(some)


def test_nothing_more_is_done_for_a_caller_who_has_hung_up(
    make: Callable[..., Predictor], segmenter: Watched, fetcher: ImageFetcher
) -> None:
    predictor, hung_up = make(), threading.Event()
    segmenter.watch(seconds=0.02)
    threading.Timer(0.3, hung_up.set).start()
    slots = predictor.predict(call(tasks(range(250)), gone=hung_up.is_set), segmenter, fetcher)
    assert len(slots) == 250
    assert slots[-1] == []
    seen = len(segmenter.seen)
    assert 0 < seen < 200
    time.sleep(0.2)
    assert len(segmenter.seen) == seen
    assert predictor.predict(call(tasks([1]), gone=lambda: True), segmenter, fetcher) == [[]]
    assert len(segmenter.seen) == seen


def test_calls_share_what_there_is(make: Callable[..., Predictor], segmenter: Watched, fetcher: ImageFetcher) -> None:
    """A call of a few tasks that comes while one of many runs doesn't wait for its end."""
    predictor, enough = make(fetch_concurrency=2), threading.Event()
    segmenter.watch(seconds=0.01)
    long = call(tasks(range(200)), gone=enough.is_set)
    many = threading.Thread(target=predictor.predict, args=(long, segmenter, fetcher))
    many.start()
    _wait_for(lambda: len(segmenter.seen) > 5)
    few = predictor.predict(call(tasks([250, 251, 252])), segmenter, fetcher)
    assert all(labels(slot) == ["Sky"] for slot in few)
    assert many.is_alive()
    enough.set()
    many.join()


def test_a_pass_that_fails_empties_its_own_slot_only(
    make: Callable[..., Predictor], segmenter: Watched, fetcher: ImageFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = Watched.segment

    def fail_on_two(self: Watched, images: Any, *args: Any) -> Any:
        if any(image[0, 0, 0] == 2 for image in images):
            raise MemoryError("no room")
        return segment(self, images, *args)

    monkeypatch.setattr(Watched, "segment", fail_on_two)
    predictor = make()
    slots = predictor.predict(call(tasks(range(5))), segmenter, fetcher)
    assert [isinstance(slot, dict) and bool(slot["result"]) for slot in slots] == [True, True, False, True, True]
    assert "no room" in str(slots[2])
    monkeypatch.undo()
    assert labels(predictor.predict(call(tasks([2])), segmenter, fetcher)[0]) == ["Sky"]  # a failure isn't kept


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.002)


def drawn(label: str, *, positive: bool = True) -> dict[str, Any]:
    value = {"x": 50, "y": 50, "width": 1, "brushlabels": [label], "keypointlabels": [label]}
    point = {"type": "keypointlabels", "from_name": "b", "to_name": "image", "value": value, "is_positive": positive}
    return {"result": [point]}


def test_a_first_click_takes_its_turn_for_the_device_and_a_second_needs_none(
    make: Callable[..., Predictor], segmenter: Watched, fetcher: ImageFetcher
) -> None:
    predictor = make()
    for _ in range(2):
        [slot] = predictor.predict(call(tasks([1]), context=drawn("Sky")), segmenter, fetcher)
        assert labels(slot) == ["Sky"]
    assert predictor._batcher.metrics()["passes"] == 1


def test_where_nothing_drawn_says_where_only_the_labels_drawn_are_answered(
    make: Callable[..., Predictor], segmenter: Watched, fetcher: ImageFetcher
) -> None:
    predictor, asked = make(), tasks([1])
    for label, found in (("Sky", ["Sky"]), ("Water", [])):  # there is nothing but sky
        [slot] = predictor.predict(call(asked, context=drawn(label, positive=False)), segmenter, fetcher)
        assert labels(slot) == found
    [slot] = predictor.predict(call(asked, context={"result": []}), segmenter, fetcher)
    assert labels(slot) == ["Sky"]
    [slot] = predictor.predict(call(asked), segmenter, fetcher)
    assert labels(slot) == ["Sky"]

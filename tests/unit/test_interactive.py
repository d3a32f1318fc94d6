"""What is drawn in the editor, answered by a real net."""

import io
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from PIL import Image

from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.labelstudio.decoding import ImageError, Picture, decode_small
from underpaint.labelstudio.label_config import LabelConfig, parse
from underpaint.labelstudio.label_space import LabelSpace
from underpaint.labelstudio.prompt import Prompt, read
from underpaint.labelstudio.regions import rasterise
from underpaint.segmenter.segmenter import Segmenter
from underpaint.serving import interactive
from underpaint.serving.interactive import Interactive
from underpaint.taxonomy import UNLABELLED

WIDTH, HEIGHT = 240, 160
SQUARE = (slice(40, 120), slice(60, 140))


def config(control: str = "Brush", options: str = "") -> LabelConfig:
    return parse(
        f"""<View><Image name="image" value="$image"/>
          <KeyPointLabels name="kp" toName="image" smart="true"><Label value="Sky"/></KeyPointLabels>
          <{control}Labels name="tag" toName="image" {options}>
            <Label value="Sky"/><Label value="Kite"/>
          </{control}Labels>
        </View>"""
    )


CONFIG = config()


def prompt(label: str = "Sky", x: float = 100 * 100 / WIDTH, config: LabelConfig = CONFIG) -> Prompt:
    """A click into the square."""
    value = {"x": x, "y": 50, "width": 1, "keypointlabels": [label]}
    region = {"type": "keypointlabels", "to_name": "image", "value": value, "is_positive": True}
    asked, problems = read({"result": [region]}, config)
    assert asked is not None, problems
    return asked


def picture(shade: int = 40) -> bytes:
    """A square of another paint."""
    pixels = np.full((HEIGHT, WIDTH, 3), shade, np.uint8)
    pixels[SQUARE] = (220, 160, 90)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


class Counting(Segmenter):
    """A segmenter that counts its passes."""

    passes_made = 0

    def probabilities(self, *args: Any, **kwargs: Any) -> Any:
        self.passes_made += 1
        return super().probabilities(*args, **kwargs)


@pytest.fixture
def segmenter(make_checkpoint: Callable[..., Checkpoint]) -> Counting:
    return Counting(make_checkpoint(("sky", "water"), "sky", image_size=96))


@dataclass
class Desk:
    """An editor's desk: one ``Interactive``, and how often it had to fetch a file."""

    segmenter: Segmenter
    prompts: Interactive = field(default_factory=Interactive)
    fetched: int = 0

    def ask(
        self, asked: Prompt, data: bytes | Exception, task: int = 1, config: LabelConfig = CONFIG
    ) -> dict[str, Any]:
        def fetch() -> bytes:
            self.fetched += 1
            if isinstance(data, Exception):
                raise data
            return data

        def decode(file: bytes) -> Picture:
            return decode_small(file, 10**7, "test", self.segmenter.card.image_size)

        def look(image: Any) -> Any:
            return self.segmenter.probabilities([image])[0]

        space = LabelSpace.match(config, self.segmenter.classes)
        return self.prompts.answer(asked, ("http://paintings/1.png", task), space, self.segmenter, fetch, decode, look)


def covered(prediction: dict[str, Any], config: LabelConfig = CONFIG) -> dict[str, Any]:
    """The pixels of each label."""
    class_map, problems = rasterise(prediction["result"], config)
    assert problems == []
    assert class_map.shape == (HEIGHT, WIDTH)
    return {name: class_map == number for number, name in enumerate(config.class_names)}


def iou_of_square(mask: Any) -> float:
    square = np.zeros((HEIGHT, WIDTH), bool)
    square[SQUARE] = True
    return float((mask & square).sum() / (mask | square).sum())


@pytest.mark.parametrize("label", ["Sky", "Kite"])  # the net sees sky everywhere, and knows nothing of kites
@pytest.mark.parametrize("control", ["Brush", "Polygon", "Rectangle"])
def test_a_click_gives_the_region_at_natural_size(segmenter: Counting, control: str, label: str) -> None:
    own = config(control)
    prediction = Desk(segmenter).ask(prompt(label, config=own), picture(), config=own)
    (region,) = prediction["result"]
    assert (region["type"], region["from_name"], region["to_name"]) == (f"{control.lower()}labels", "tag", "image")
    assert (region["original_width"], region["original_height"], region["image_rotation"]) == (WIDTH, HEIGHT, 0)
    assert region["value"][f"{control.lower()}labels"] == [label]
    assert prediction["model_version"] == segmenter.version
    assert iou_of_square(covered(prediction, own)[label]) > 0.9
    # The net gives sky e³ times the odds of water, and nothing to a label that it doesn't know.
    assert prediction["score"] == pytest.approx(0.95 if label == "Sky" else 0, abs=0.03)
    assert region["score"] == pytest.approx(prediction["score"], abs=0.01)


def test_what_the_net_is_unsure_of_is_answered_all_the_same(segmenter: Counting) -> None:
    strict = config(options='model_score_threshold="0.99" model_min_area="90"')
    prediction = Desk(segmenter).ask(prompt(config=strict), picture(), config=strict)
    assert iou_of_square(covered(prediction, strict)["Sky"]) > 0.9


def test_an_image_is_fetched_and_looked_at_once(segmenter: Counting) -> None:
    desk = Desk(segmenter)
    first = desk.ask(prompt(), picture())
    again = desk.ask(prompt(x=90 * 100 / WIDTH), picture())
    assert (desk.fetched, segmenter.passes_made) == (1, 1)
    assert covered(again)["Sky"].sum() == pytest.approx(covered(first)["Sky"].sum(), rel=0.05)
    desk.ask(prompt(), picture(), task=2)  # another task may have other rights to the address
    assert (desk.fetched, segmenter.passes_made) == (2, 1)


def test_another_checkpoint_looks_anew(segmenter: Counting, make_checkpoint: Callable[..., Checkpoint]) -> None:
    desk = Desk(segmenter)
    desk.ask(prompt(), picture())
    desk.segmenter = Counting(make_checkpoint(("sky", "water"), "water", image_size=96))
    prediction = desk.ask(prompt(), picture())
    assert prediction["model_version"] == desk.segmenter.version != segmenter.version
    assert prediction["score"] < 0.1
    assert desk.segmenter.passes_made == 1


def test_an_address_is_trusted_for_a_while_only(segmenter: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(segmenter)
    desk.ask(prompt(), picture())
    monkeypatch.setattr(interactive, "_KNOWN_SECONDS", 0.0)
    desk.ask(prompt(), picture(shade=90))
    assert (desk.fetched, segmenter.passes_made) == (2, 2)
    desk.ask(prompt(), picture())
    assert (desk.fetched, segmenter.passes_made) == (3, 2)


def test_what_is_kept_is_bounded(segmenter: Counting) -> None:
    desk = Desk(segmenter, Interactive(max_bytes=100_000))  # an image takes some 43 kB
    for task in (1, 2, 3, 1):
        desk.ask(prompt(), picture(shade=10 * task), task)
    assert (desk.fetched, segmenter.passes_made) == (4, 4)
    desk.ask(prompt(), picture(shade=30), 3)
    assert segmenter.passes_made == 4


def test_a_file_that_can_t_be_had_is_said_and_not_remembered(segmenter: Counting) -> None:
    desk = Desk(segmenter)
    with pytest.raises(ImageError, match="gone"):
        desk.ask(prompt(), ImageError("gone"))
    with pytest.raises(ImageError):
        desk.ask(prompt(), b"no image")
    assert covered(desk.ask(prompt(), picture(), task=2))["Sky"].any()


def test_a_large_scan_has_smooth_edges(segmenter: Counting) -> None:
    rows, columns = np.ogrid[:1200, :1600]
    disc = (rows - 600) ** 2 + (columns - 800) ** 2 < 400**2
    stream = io.BytesIO()
    Image.fromarray(np.where(disc[..., None], (220, 160, 90), (40, 40, 40)).astype(np.uint8)).save(stream, "JPEG")
    prediction = Desk(segmenter).ask(prompt(x=50), stream.getvalue())
    class_map, _ = rasterise(prediction["result"], CONFIG)
    found = class_map != UNLABELLED
    assert found.shape == (1200, 1600)
    assert (found & disc).sum() / (found | disc).sum() > 0.93
    # Blocks of the net's pixels would cross as many rows as columns: 8/π times the radius and not 2π.
    edges = [np.count_nonzero(np.diff(found, axis=axis)) for axis in (0, 1)]
    assert max(edges) < 2.3 * 800


def test_many_at_once(segmenter: Counting) -> None:
    desk = Desk(segmenter, Interactive(max_bytes=100_000))
    failed: list[object] = []

    def work(task: int) -> None:
        try:
            for _ in range(5):
                assert iou_of_square(covered(desk.ask(prompt(), picture(shade=10 * task), task))["Sky"]) > 0.9
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(task,)) for task in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import CAPTURES
from underpaint.labelstudio import rle
from underpaint.labelstudio.label_config import parse
from underpaint.labelstudio.prompt import Prompt, read

CONFIG = parse(
    """<View>
      <Image name="image" value="$image"/><Image name="back" value="$back"/>
      <RectangleLabels name="rect" toName="image" smart="true">
        <Label value="Sky"/><Label value="Tree"/>
      </RectangleLabels>
      <KeyPointLabels name="kp" toName="image" smart="true"><Label value="Sky"/><Label value="Star"/></KeyPointLabels>
      <PolygonLabels name="shape" toName="image"><Label value="Tree"/><Label value="Boat"/></PolygonLabels>
      <BrushLabels name="brush" toName="image"><Label value="Sky"/><Label value="Tree"/></BrushLabels>
      <BrushLabels name="behind" toName="back"><Label value="Sky"/></BrushLabels>
    </View>"""
)
HEIGHT, WIDTH = 30, 60


def region(kind: str, value: dict[str, Any], label: str = "Sky", **rest: Any) -> dict[str, Any]:
    return {
        "id": f"a-{kind}",
        "type": f"{kind}labels",
        "from_name": "whatever",
        "to_name": "image",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": {**value, f"{kind}labels": [label]},
        "origin": "manual",
    } | rest


def point(x: float, y: float, **rest: Any) -> dict[str, Any]:
    return region("keypoint", {"x": x, "y": y, "width": 0.5}, **rest)


def box(x: float = 10, y: float = 20, width: float = 50, height: float = 60, **rest: Any) -> dict[str, Any]:
    return region("rectangle", {"x": x, "y": y, "width": width, "height": height, "rotation": 0}, **rest)


def stroke(rows: slice, columns: slice, **rest: Any) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[rows, columns] = True
    return region("brush", {"format": "rle", "rle": rle.encode(mask)}, **rest)


def asked(*regions: Any) -> Prompt:
    prompt, problems = read({"result": [*regions]}, CONFIG)
    assert prompt is not None, problems
    assert problems == []
    return prompt


def refused(*regions: Any) -> str:
    prompt, problems = read({"result": [*regions]}, CONFIG)
    assert prompt is None
    return " ".join(problems)


def test_key_points_of_a_label_count_together() -> None:
    prompt = asked(point(30.5, 40), point(50, 60, is_positive=True), point(99, 1, is_positive=False))
    assert (prompt.label, prompt.control.name) == ("Sky", "brush")
    assert prompt.positive == pytest.approx(np.array([(0.305, 0.4), (0.5, 0.6)]))
    assert prompt.negative == pytest.approx(np.array([(0.99, 0.01)]))
    meant, other = prompt.seeds((HEIGHT, WIDTH))
    assert np.argwhere(meant).tolist() == [[12, 18], [18, 30]]
    assert np.argwhere(other).tolist() == [[0, 59]]
    assert prompt.area((HEIGHT, WIDTH)) is None


@pytest.mark.parametrize("is_positive", [0, False])
def test_a_negative_point_may_say_so_in_its_value(is_positive: object) -> None:
    negative = region("keypoint", {"x": 1, "y": 2, "is_positive": is_positive})
    assert asked(point(50, 50), negative).negative == ((0.01, 0.02),)


@given(st.tuples(*[st.floats(-20, 120)] * 2), st.tuples(*[st.integers(1, 50)] * 2))
def test_points_lie_in_the_image_whatever_the_editor_says(at: tuple[float, float], shape: tuple[int, int]) -> None:
    meant, other = asked(point(*at)).seeds(shape)
    assert (meant.sum(), other.sum()) == (1, 0)


def test_a_rectangle_is_an_area_of_any_size_of_image() -> None:
    prompt = asked(box())
    for height, width in [(10, 20), (300, 100)]:
        expected = np.zeros((height, width), bool)
        expected[height // 5 : height * 8 // 10, width // 10 : width * 6 // 10] = True
        area = prompt.area((height, width))
        assert area is not None
        assert np.array_equal(area, expected)


def test_rectangles_add_up() -> None:
    area = asked(box(0, 0, 10, 100), box(90, 0, 10, 100)).area((10, 10))
    assert area is not None
    assert np.flatnonzero(area.any(axis=0)).tolist() == [0, 9]


def test_what_is_turned_is_turned_in_pixels_not_in_percent() -> None:
    # 60×30 pixels: 20 % of the width are 12, 20 % of the height 6; a quarter turn about the top left corner.
    area = asked(region("rectangle", {"x": 50, "y": 0, "width": 20, "height": 20, "rotation": 90})).area((30, 60))
    expected = np.zeros((30, 60), bool)
    expected[0:12, 24:30] = True
    assert area is not None
    assert np.array_equal(area, expected)


def test_ellipses_and_polygons_are_areas_too() -> None:
    ellipse = asked(region("ellipse", {"x": 50, "y": 50, "radiusX": 25, "radiusY": 25, "rotation": 0})).area((100, 100))
    polygon = asked(region("polygon", {"points": [[0, 0], [100, 0], [0, 100]]})).area((100, 100))
    assert ellipse is not None
    assert polygon is not None
    assert ellipse.mean() == pytest.approx(np.pi / 16, rel=0.02)
    assert polygon.mean() == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (10, 20), (90, 180), (2, 4)])
def test_strokes_are_seeds_however_thin(shape: tuple[int, int]) -> None:
    meant, _ = asked(stroke(slice(14, 15), slice(10, 50))).seeds(shape)
    rows, columns = np.nonzero(meant)
    assert rows.size
    assert abs((rows.mean() + 0.5) / shape[0] - 14.5 / HEIGHT) < 1 / shape[0]
    assert abs((columns.mean() + 0.5) / shape[1] - 0.5) < 1 / shape[1]


def test_brush_regions_that_were_predicted_are_no_strokes() -> None:
    predicted = stroke(slice(0, 30), slice(0, 60), origin="prediction")
    changed = stroke(slice(0, 30), slice(0, 60), origin="prediction-changed")
    accepted = stroke(slice(0, 30), slice(0, 60), score=0.5)
    drawn = stroke(slice(1, 2), slice(1, 3))
    (mask,) = asked(predicted, changed, accepted, drawn).strokes
    assert mask.sum() == 2
    assert refused(predicted, changed, accepted) == ""


def test_a_polygon_control_answers_where_no_brush_has_the_label() -> None:
    assert asked(box(label="Tree")).control.name == "brush"
    assert asked(box(label="Boat")).control.name == "shape"
    assert asked(box(to_name="back")).control.image_key == "back"


def test_a_tool_that_leaves_labels_to_another_tag() -> None:
    plain = point(1, 2) | {"type": "keypoint", "value": {"x": 1, "y": 2, "labels": ["Sky"]}}
    assert asked(plain).label == "Sky"


def test_the_last_label_wins() -> None:
    prompt, problems = read({"result": [point(1, 1, label="Tree"), point(2, 2)]}, CONFIG)
    assert prompt is not None
    assert (prompt.label, len(prompt.positive)) == ("Sky", 1)
    assert "'Tree' is left out" in problems[0]


@pytest.mark.parametrize("context", [None, {}, {"result": None}, {"result": []}])
def test_nothing_drawn(context: Any) -> None:
    assert read(context, CONFIG) == (None, [])


@pytest.mark.parametrize(
    ("drawn", "remedy"),
    [
        ("Sky", "no region with a value"),
        ({"id": "1"}, "no region with a value"),
        (point(1, 1, label="Star"), "give a <BrushLabels> of that image the same label"),
        (point(1, 1, to_name="front"), "give a <BrushLabels>"),
        (point(1, 1, image_rotation=90), "rotate it back"),
        (point("left", 1), "its x has 'left'"),  # type: ignore[arg-type]
        (point(float("nan"), 1), "its x has nan"),
        (point(1, 1, is_positive=False), "draw a positive key point too"),
        (box(width=0), "covers nothing"),
        (
            region("rectangle", {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": 9}, original_width=None),
            "how large",
        ),
        (region("polygon", {"points": [[0, 0], [1, 1]]}), "three points"),
        (region("polygon", {"points": [[0, 0], [1, 1], [2, 2, 2]]}), "three points"),
        (stroke(slice(0, 0), slice(0, 0)), "covers nothing"),
        (stroke(slice(0, 5), slice(0, 5), original_width=61), "7200 values"),
        (stroke(slice(0, 5), slice(0, 5), original_width=10**9, original_height=10**9), "at most"),
        (region("brush", {"touches": []}), "list of bytes"),
        (region("vector", {"vertices": []}), "draw a key point or a rectangle"),
    ],
)
def test_what_can_t_be_used_is_left_out_and_explained(drawn: Any, remedy: str) -> None:
    assert remedy in refused(drawn)
    prompt, problems = read({"result": [drawn, point(5, 5)]}, CONFIG)
    assert prompt is not None
    assert prompt.positive == ((0.05, 0.05),)
    assert (remedy in " ".join(problems)) or prompt.negative


@pytest.mark.parametrize(
    ("capture", "field"),
    [
        ("10b_interactive_rect", "outlines"),
        ("10c_interactive_keypoint", "positive"),
        ("35_ui_interactive_rect", "outlines"),
    ],
)
def test_reads_what_label_studio_sends(capture: str, field: str) -> None:
    if not CAPTURES.exists():
        pytest.skip(f"no captured requests at {CAPTURES}")
    (body,) = [
        request["body"]
        for request in json.loads((CAPTURES / f"{capture}.json").read_text())
        if request["path"] == "/predict" and request["body"]["params"]["context"]
    ]
    prompt, problems = read(body["params"]["context"], parse(body["label_config"]))
    assert prompt is not None, problems
    assert prompt.label == "Person"
    assert len(getattr(prompt, field)) == 1

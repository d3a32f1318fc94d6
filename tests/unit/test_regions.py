import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from label_studio_sdk.converter import brush
from numpy.typing import NDArray

from underpaint.labelstudio.geometry import Mask, Piece, fill_polygon, outline, simplify
from underpaint.labelstudio.label_config import LabelConfig, parse
from underpaint.labelstudio.label_space import LabelSpace
from underpaint.labelstudio.regions import Region, RegionError, encode, rasterise
from underpaint.taxonomy import UNLABELLED

CAPTURES = Path(__file__).resolve().parents[3] / "shared" / "captures"
CLASSES = ("sky", "water", "tree")
EXACT = 'model_min_area="0" model_polygon_tolerance="0" model_polygon_points="100000"'

class_maps = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.sampled_from([0, 1, 2, UNLABELLED]),
)


def project(*tags: str, options: str = EXACT) -> LabelConfig:
    labels = "".join(f'<Label value="{name.title()}"/>' for name in CLASSES)
    controls = (f'<{tag} name="{tag}" toName="image" {options}>{labels}</{tag}>' for tag in tags)
    return parse(f'<View><Image name="image" value="$image"/>{"".join(controls)}</View>')


def predict(class_map: NDArray[np.uint8], config: LabelConfig, confidence: int = 204) -> tuple[list[Region], float]:
    certain = np.full(class_map.shape, confidence, np.uint8)
    return encode(class_map, certain, LabelSpace.match(config, CLASSES))


def pieces(mask: Mask) -> list[Piece]:
    """The 8-connected pieces of a mask, each in its bounding box."""
    count, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    found = []
    for number in range(1, count):
        left, top, width, height, _ = map(int, stats[number])
        found.append(Piece(top, left, numbers[top : top + height, left : left + width] == number))
    return found


def shape_region(kind: str, label: str = "Sky", size: tuple[int, int] = (10, 10), **value: Any) -> Region:
    """A region as the editor writes it, on an image of the given height and width."""
    tag = {"brushlabels": "BrushLabels", "polygonlabels": "PolygonLabels", "ellipselabels": "EllipseLabels"}
    return {
        "id": "drawn",
        "type": kind,
        "from_name": tag.get(kind, "RectangleLabels"),
        "to_name": "image",
        "original_height": size[0],
        "original_width": size[1],
        "image_rotation": 0,
        "value": {**value, kind: [label]},
    }


def sdk_encode(alpha: NDArray[np.uint8]) -> list[int]:
    rle: list[int] = brush.mask2rle(alpha)  # type: ignore[no-untyped-call]
    return rle


@settings(deadline=None)
@given(class_maps)
def test_brush_regions_give_back_the_class_map(class_map: NDArray[np.uint8]) -> None:
    config = project("BrushLabels")
    result, score = predict(class_map, config)
    assert len(result) == len(set(class_map.ravel()) - {UNLABELLED})
    assert score == (0.8 if result else 0.0)
    height, width = class_map.shape
    drawn, problems = rasterise(json.loads(json.dumps(result)), config, (height, width))
    assert np.array_equal(drawn, class_map)
    assert problems == []


def straightforward(
    class_map: NDArray[np.uint8], confidence: NDArray[np.uint8], space: LabelSpace
) -> tuple[list[tuple[Any, ...]], float]:
    """What `encode` is to answer, label by label and mask by mask; regions as (type, label, score, value)."""
    ranked = []
    predicted = np.zeros(class_map.shape, bool)
    for target in space.targets:
        options, kind = target.control.options, target.control.type
        mask = np.isin(class_map, [*target.class_ids])
        predicted |= mask
        drawn = [piece for piece in pieces(mask) if np.count_nonzero(piece.mask) >= options.min_area / 100 * mask.size]
        if kind == "BrushLabels" and drawn:
            whole = np.zeros_like(mask)
            for piece in drawn:
                whole[piece.window] |= piece.mask
            drawn = [Piece(0, 0, whole)]
        for piece in drawn:
            score = confidence[piece.window][piece.mask].mean() / 255
            if score < options.score_threshold:
                continue
            value: Any = (piece.window[0].start, piece.window[0].stop, piece.window[1].start, piece.window[1].stop)
            if kind == "BrushLabels":
                value = sdk_encode(piece.mask * np.uint8(255))
            elif kind == "PolygonLabels":
                points = simplify(outline(piece), options.polygon_tolerance, options.polygon_points)
                value = (points * (100 / class_map.shape[1], 100 / class_map.shape[0])).round(4).tolist()
            rank = {"RectangleLabels": 0, "PolygonLabels": 1, "BrushLabels": 2}[kind]
            ranked.append((rank, -piece.mask.size, (kind, target.label.value, round(score, 9), value)))
    ranked.sort(key=lambda item: item[:2])
    return [item[2] for item in ranked], round(confidence[predicted].mean() / 255, 9) if predicted.any() else 0.0


def in_order_of_value(regions: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Regions of one label and extent have no order of their own; here they get that of their values."""
    return sorted(regions, key=str)


@settings(deadline=None)
@given(
    class_maps,
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 2, 10]),
    st.sampled_from([0, 0.4, 0.6]),
    st.permutations(["BrushLabels", "PolygonLabels", "RectangleLabels"]),
)
def test_is_what_doing_it_label_by_label_gives(
    class_map: NDArray[np.uint8], seed: int, min_area: float, threshold: float, tags: list[str]
) -> None:
    height, width = class_map.shape
    confidence = np.random.default_rng(seed).integers(0, 256, class_map.shape, np.uint8)
    options = f'model_min_area="{min_area}" model_score_threshold="{threshold}" model_polygon_tolerance="0"'
    space = LabelSpace.match(project(*tags, options=options), CLASSES)
    found = []
    regions, score = encode(class_map, confidence, space)
    for region in regions:
        value, kind = region["value"], region["from_name"]
        extent: Any = value.get("rle", value.get("points"))
        if kind == "RectangleLabels":
            x, y = value["x"] * width / 100, value["y"] * height / 100
            right, bottom = x + value["width"] * width / 100, y + value["height"] * height / 100
            extent = (round(y), round(bottom), round(x), round(right))
        found.append((kind, value[region["type"]][0], round(region["score"], 9), extent))
    expected, expected_score = straightforward(class_map, confidence, space)
    assert [region[0] for region in found] == [region[0] for region in expected]
    assert in_order_of_value(found) == in_order_of_value(expected)
    assert score == pytest.approx(expected_score)


@settings(deadline=None)
@given(class_maps)
def test_polygons_give_back_the_class_map_where_no_piece_has_a_hole(class_map: NDArray[np.uint8]) -> None:
    height, width = class_map.shape
    config = project("PolygonLabels")
    result, _ = predict(class_map, config)
    drawn, problems = rasterise(result, config, (height, width))
    found = [piece for class_id in range(len(CLASSES)) for piece in pieces(class_map == class_id)]
    assert len(result) == len(found)
    assert problems == []
    if all(np.array_equal(fill_polygon(outline(p), (height, width))[p.window], p.mask) for p in found):
        assert np.array_equal(drawn, class_map)
    else:
        assert (drawn[class_map != UNLABELLED] != UNLABELLED).all()


def test_a_polygon_in_the_hole_of_another_is_drawn_after_it() -> None:
    class_map = np.full((30, 30), 1, np.uint8)
    class_map[2:28, 2:28] = 0
    class_map[4:26, 4:26] = 2
    config = project("PolygonLabels")
    drawn, _ = rasterise(predict(class_map, config)[0], config)
    assert np.array_equal(drawn, class_map)


@settings(deadline=None)
@given(class_maps)
def test_rectangles_are_bounding_boxes_in_percent(class_map: NDArray[np.uint8]) -> None:
    height, width = class_map.shape
    config = project("RectangleLabels")
    boxes = set()
    for region in predict(class_map, config)[0]:
        value = region["value"]
        x, y = value["x"] * width / 100, value["y"] * height / 100
        right, bottom = x + value["width"] * width / 100, y + value["height"] * height / 100
        assert min(x, y) >= 0
        assert max(value["x"] + value["width"], value["y"] + value["height"]) <= 100 + 1e-9
        boxes.add((value["rectanglelabels"][0], *np.round((y, x, bottom, right), 6).tolist()))
        drawn, problems = rasterise([region], config)
        assert np.count_nonzero(drawn != UNLABELLED) == round((right - x) * (bottom - y))
        assert problems == []
    expected = {
        (name.title(), float(rows.start), float(columns.start), float(rows.stop), float(columns.stop))
        for class_id, name in enumerate(CLASSES)
        for rows, columns in (piece.window for piece in pieces(class_map == class_id))
    }
    assert boxes == expected


def test_regions_are_as_label_studio_writes_them() -> None:
    class_map = np.zeros((40, 60), np.uint8)
    class_map[20:, :] = 1
    result, _ = predict(class_map, project("BrushLabels", "PolygonLabels", "RectangleLabels"))
    assert [region["type"] for region in result] == ["rectanglelabels"] * 2 + ["polygonlabels"] * 2 + [
        "brushlabels"
    ] * 2
    assert len({region["id"] for region in result}) == 6
    for region in result:
        value = region.pop("value")
        assert value[region["type"]] in (["Sky"], ["Water"])
        assert region.pop("id").isalnum()
        assert region == {
            "type": region["type"],
            "from_name": {"b": "BrushLabels", "p": "PolygonLabels", "r": "RectangleLabels"}[region["type"][0]],
            "to_name": "image",
            "original_width": 60,
            "original_height": 40,
            "image_rotation": 0,
            "score": 0.8,
        }
        assert set(value) - {region["type"]} in (
            {"format", "rle"},
            {"points", "closed"},
            {"x", "y", "width", "height", "rotation"},
        )
        points = np.array(value.get("points", [(0, 0)]))
        assert points.min() >= 0
        assert points.max() <= 100


def test_brush_regions_are_byte_for_byte_the_sdks() -> None:
    class_map = (np.random.default_rng(0).random((50, 70)) < 0.4).astype(np.uint8)
    result, _ = predict(class_map, project("BrushLabels"))
    for class_id, region in enumerate(result):
        assert region["value"]["rle"] == sdk_encode((class_map == class_id) * np.uint8(255))


def test_specks_and_uncertain_regions_are_dropped() -> None:
    class_map = np.full((100, 100), UNLABELLED, np.uint8)
    class_map[:40] = 0
    class_map[50, 50] = 0
    class_map[60:70, 60:70] = 1
    confidence = np.full(class_map.shape, 204, np.uint8)
    confidence[60:] = 51
    config = project("BrushLabels", options='model_min_area="0.05" model_score_threshold="0.5"')
    result, score = encode(class_map, confidence, LabelSpace.match(config, CLASSES))
    assert [region["value"]["brushlabels"] for region in result] == [["Sky"]]
    assert result[0]["score"] == pytest.approx(0.8)
    assert score == pytest.approx((4001 * 0.8 + 100 * 0.2) / 4101)
    drawn, _ = rasterise(result, config)
    assert np.count_nonzero(drawn == 0) == 4000


def test_classes_without_a_label_are_neither_drawn_nor_scored() -> None:
    config = parse(
        '<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image">'
        '<Label value="Backdrop" predicted_values="sky,tree"/></BrushLabels></View>'
    )
    class_map = np.repeat(np.array([[0, 1, 2]], np.uint8), 10, axis=0)
    confidence = np.repeat(np.array([[102, 255, 204]], np.uint8), 10, axis=0)
    result, score = encode(class_map, confidence, LabelSpace.match(config, CLASSES))
    assert rasterise(result, config)[0][0].tolist() == [0, UNLABELLED, 0]
    assert score == pytest.approx(0.6)
    assert encode(np.full_like(class_map, 1), confidence, LabelSpace.match(config, CLASSES)) == ([], 0.0)


def test_each_image_of_a_config_has_its_own_regions() -> None:
    config = parse(
        '<View><Image name="a" value="$front"/><Image name="b" value="$back"/>'
        '<BrushLabels name="one" toName="a"><Label value="Sky"/></BrushLabels>'
        '<BrushLabels name="two" toName="b"><Label value="Water"/><Label value="Sky"/></BrushLabels></View>'
    )
    space = LabelSpace.match(config, CLASSES)
    confidence = np.full((20, 20), 255, np.uint8)
    front, _ = encode(np.zeros((20, 20), np.uint8), confidence, space)
    back, _ = encode(np.ones((20, 20), np.uint8), confidence, space, image_key="back")
    assert [(region["from_name"], region["to_name"]) for region in front + back] == [("one", "a"), ("two", "b")]
    assert set(rasterise(front + back, config)[0].ravel()) == {0}
    drawn, problems = rasterise(front + back, config, image_key="back")
    assert set(drawn.ravel()) == {1}
    assert problems == []


def test_later_regions_lie_on_top_of_earlier_ones() -> None:
    config = project("RectangleLabels", "EllipseLabels", "BrushLabels")
    result = [
        shape_region("rectanglelabels", x=0, y=0, width=100, height=50),
        shape_region("ellipselabels", "Water", x=50, y=50, radiusX=20, radiusY=20),
        shape_region("rectanglelabels", "Tree", x=60, y=40, width=20, height=20, rotation=90),
    ]
    drawn, problems = rasterise(result, config)
    assert problems == []
    sky, water, tree, nothing = 0, 1, 2, UNLABELLED
    assert drawn[4].tolist() == [sky] * 3 + [water] + [tree] * 2 + [water] + [sky] * 3
    assert drawn[6].tolist() == [nothing] * 4 + [water] * 2 + [nothing] * 4


def test_soft_edges_count_from_half_opacity() -> None:
    alpha = np.array([[0, 127, 128, 255]], np.uint8)
    region = shape_region("brushlabels", size=(1, 4), format="rle", rle=sdk_encode(alpha))
    assert rasterise([region], project("BrushLabels"))[0].tolist() == [[UNLABELLED, UNLABELLED, 0, 0]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"from_name": ["tag"], "to_name": "gone"}, "to_name 'gone' is no image"),
        ({"type": "brushlabels"}, "no label"),
        ({"value": None}, "no region with a value"),
        ({"value": {"points": [[0, 0], [9, 0], [9, 9]], "polygonlabels": []}}, "no label"),
        ({"value": {"points": [[0, 0], [9, 0], [9, 9]], "polygonlabels": [["Sky"]]}}, "no label"),
        ({"value": {"points": [[0, 0], [9, 0]], "polygonlabels": ["Sky"]}}, "no three points"),
        ({"value": {"points": [[0, 0], [9, 0], [9]], "polygonlabels": ["Sky"]}}, "no three points"),
        ({"value": {"points": [[0, 0], [9, 0], [9, None]], "polygonlabels": ["Sky"]}}, "None where a number"),
        ({"value": {"points": [[0, 0], [9, 0], [9, float("nan")]], "polygonlabels": ["Sky"]}}, "nan where a number"),
        ({"value": {"points": [[0, 0], [9, 0], [9, 10**400]], "polygonlabels": ["Sky"]}}, "where a number"),
        ({"original_width": 11}, "an image of 11×10 pixels, but the image has 10×10"),
        ({"original_width": None}, "an image of None×10"),
        ({"image_rotation": 90}, "rotated"),
    ],
)
def test_a_broken_region_is_named_and_costs_the_others_nothing(change: Region, reason: str) -> None:
    good = shape_region("polygonlabels", points=[[0, 0], [100, 0], [100, 100], [0, 100]])
    drawn, problems = rasterise([good, {**good, "id": "bad", **change}], project("PolygonLabels"), (10, 10))
    assert set(drawn.ravel()) == {0}
    assert len(problems) == 1
    assert problems[0].startswith("Region bad is left out: ")
    assert reason in problems[0]


def test_what_was_drawn_with_another_control_than_there_is_now_counts_by_its_label() -> None:
    """A brush made a polygon tool, a control renamed or removed, a label moved from one control to another."""
    sky = '<PolygonLabels name="BrushLabels" toName="image"><Label value="Sky"/></PolygonLabels>'
    water = '<RectangleLabels name="box" toName="image"><Label value="Water"/></RectangleLabels>'
    config = parse(f'<View><Image name="image" value="$image"/>{sky}{water}</View>')
    left, right = np.zeros((2, 10, 10), np.uint8)
    left[:, :5] = right[:, 5:] = 255
    result = [
        shape_region("brushlabels", format="rle", rle=sdk_encode(left)),
        shape_region("brushlabels", "Water", format="rle", rle=sdk_encode(right)),
        shape_region("ellipselabels", "Water", x=25, y=50, radiusX=10, radiusY=10),
    ]
    drawn, problems = rasterise(result, config)
    assert problems == []
    assert drawn[5].tolist() == [0, 0, 1, 0, 0, 1, 1, 1, 1, 1]


def test_a_control_that_is_gone_leaves_its_regions_on_their_image() -> None:
    images = "".join(f'<Image name="{name}" value="${name}"/>' for name in ("front", "back"))
    tags = "".join(
        f'<PolygonLabels name="{name} outline" toName="{name}"><Label value="Sky"/></PolygonLabels>'
        for name in ("front", "back")
    )
    config = parse(f"<View>{images}{tags}</View>")
    region = shape_region("brushlabels", format="rle", rle=sdk_encode(np.full((10, 10), 255, np.uint8)))
    result = [region | {"from_name": "gone", "to_name": "back"}]
    assert set(rasterise(result, config, image_key="front")[0].ravel()) == {UNLABELLED}
    assert set(rasterise(result, config, image_key="back")[0].ravel()) == {0}


@pytest.mark.parametrize(
    ("labels", "became"),
    [
        ('<Label value="Heaven" predicted_values="Cloud"/>', "Heaven"),
        ('<Label value="Clouds"/>', "Clouds"),
        ('<Label value="Cloud" alias="c"/>', "c"),
        ('<Label value="Boat"/><Label value="Heaven" predicted_values="water"/>', None),
    ],
)
def test_a_label_that_is_gone_counts_as_what_took_its_place_or_is_named(labels: str, became: str | None) -> None:
    tag = f'<RectangleLabels name="box" toName="image">{labels}</RectangleLabels>'
    config = parse(f'<View><Image name="image" value="$image"/>{tag}</View>')
    result = [shape_region("rectanglelabels", "Cloud", x=0, y=0, width=100, height=50)] * 2
    drawn, [problem] = rasterise(result, config)
    if became:
        assert set(drawn[:5].ravel()) == {config.class_names.index(became)}
        assert problem == f"Regions labelled 'Cloud', which is no label any more, count as {became!r}."
    else:
        assert (drawn == UNLABELLED).all()
        assert problem.startswith("Regions labelled 'Cloud' are left out")
        assert 'predicted_values="Cloud"' in problem


@pytest.mark.parametrize(
    "other",
    [
        {"type": "choices", "from_name": "mood", "to_name": "image", "value": {"choices": ["calm"]}},
        {"type": "textarea", "from_name": "notes", "to_name": "image", "value": {"text": ["signed"]}},
        {"type": "rating", "from_name": "stars", "to_name": "image", "value": {"rating": 4}},
        {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
        shape_region("keypointlabels", x=5, y=5, width=1),
    ],
)
def test_what_covers_no_pixels_is_passed_over(other: Any) -> None:
    sky = shape_region("rectanglelabels", x=0, y=0, width=100, height=100)
    drawn, problems = rasterise([other, sky, other], project("RectangleLabels"))
    assert (drawn == 0).all()
    assert problems == []


@pytest.mark.parametrize("broken", [None, [], "relation", {}, {"value": {"rectanglelabels": ["Sky"]}}])
def test_what_is_no_region_is_named_by_its_place(broken: Any) -> None:
    drawn, problems = rasterise([broken], project("BrushLabels"), (4, 4))
    assert (drawn == UNLABELLED).all()
    assert problems[0].startswith("Region 0 is left out")


def test_broken_rle_is_left_out() -> None:
    regions = [
        shape_region("brushlabels", format="rle", rle=sdk_encode(np.zeros((10, 11), np.uint8))),
        shape_region("brushlabels", format="rle", touches=[]),
    ]
    drawn, problems = rasterise(regions, project("BrushLabels"))
    assert (drawn == UNLABELLED).all()
    assert ["440 values" in problems[0], "list of bytes" in problems[1]] == [True, True]


def test_the_size_is_what_most_regions_say() -> None:
    result = [
        shape_region("rectanglelabels", size=size, x=0, y=0, width=100, height=100) for size in [(7, 7), (5, 6), (5, 6)]
    ]
    drawn, problems = rasterise(result, project("RectangleLabels"))
    assert drawn.shape == (5, 6)
    assert len(problems) == 1


def test_unknown_and_absurd_sizes_are_refused_before_allocation() -> None:
    config = project("RectangleLabels")
    with pytest.raises(RegionError, match="pass the image's shape"):
        rasterise([], config)
    with pytest.raises(RegionError, match="at most 1,000,000,000"):
        rasterise([shape_region("rectanglelabels", size=(10**9, 10**9))], config)


def captured(name: str) -> Any:
    path = CAPTURES / f"{name}.json"
    if not path.exists():
        pytest.skip(f"recorded requests are not at {CAPTURES}")
    return json.loads(path.read_text())


def test_reads_an_annotation_that_the_editor_submitted() -> None:
    body = captured("33_ui_submit_after_edit")[0]["body"]
    config = parse(body["project"]["label_config"])
    assert config.class_names == ("Person", "Sky", "Tree")
    result = body["annotation"]["result"]
    drawn, problems = rasterise(result, config)
    # The recording cuts the three predicted regions' RLE short; the stroke drawn by hand is whole, with soft edges.
    assert [problem.split()[1] for problem in problems] == ["r0", "r1", "r2"]
    alpha = brush.decode_rle(result[3]["value"]["rle"]).reshape(768, 1024, 4)[..., 3]
    assert len(np.unique(alpha)) == 203
    assert np.array_equal(drawn == 0, alpha >= 128)


def test_reads_an_accepted_prediction_and_a_drawn_rectangle() -> None:
    annotated = captured("12a_annotation_created_from_prediction")[0]["body"]
    drawn, problems = rasterise(annotated["annotation"]["result"], parse(annotated["project"]["label_config"]))
    assert drawn.shape == (240, 320)
    assert 0 < np.count_nonzero(drawn != UNLABELLED) < drawn.size
    assert problems == []

    interactive = captured("10b_interactive_rect")[0]["body"]
    drawn, problems = rasterise(interactive["params"]["context"]["result"], parse(interactive["label_config"]))
    rows, columns = np.nonzero(drawn == 0)
    # x 10.5 %, y 20.25 %, 30 % by 40 % of 1024×768: 107.52 to 414.72 and 155.52 to 462.72.
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (108, 414, 156, 462)
    assert problems == []

"""Label Studio's regions: class maps to regions for predictions, and regions to class maps for learning."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from underpaint.labelstudio import rle
from underpaint.labelstudio.class_mapping import ClassMapping
from underpaint.labelstudio.components import NO_LABEL, Components
from underpaint.labelstudio.geometry import Mask, fill_ellipse, fill_polygon, outline, rectangle, simplify
from underpaint.labelstudio.label_config import PREDICTED, READ, Control, LabelConfig
from underpaint.labelstudio.label_space import LabelSpace, Target
from underpaint.taxonomy import UNLABELLED

Region = dict[str, Any]
"""One region of a prediction's or an annotation's ``result``, as Label Studio's JSON has it."""

MAX_PIXELS = 1_000_000_000
"""Images with more pixels are refused before anything is allocated."""

_DRAWN = tuple(tag.lower() for tag in READ)
"""Types of regions that cover pixels; all other results (choices, text, relations, key points, …) label no area."""

_OPAQUE = 128
"""Alpha, of 255, from which a pixel of a soft-edged stroke belongs to it."""


class RegionError(ValueError):
    """A region, or all of a result, can't be drawn."""


def encode(
    class_map: NDArray[np.uint8],
    confidence: NDArray[np.uint8],
    space: LabelSpace,
    image_key: str | None = None,
) -> tuple[list[Region], float]:
    """Turns a class map into the regions of a prediction, and its score.

    Args:
        class_map: (H, W) ids of ``space.classes``, 255 for none, at the natural size of the image as browsers show it,
            that is, after its EXIF orientation was applied.
        confidence: (H, W), the probability of each pixel's class in 255ths.
        space: which classes are which labels.
        image_key: which of a task's images this is, where the label config has several; the first without it.

    Returns:
        Regions: one brush region a label, or one polygon or rectangle a connected piece, without those that the
        control's ``Options`` drop; a region's score is the mean confidence in it. What lies further down the list lies
        on top in Label Studio, so the shapes that cover more than their pixels (rectangles, then polygons, whose holes
        are filled) come first, and of each kind those with the largest bounding boxes: what lies in a hole comes after
        what surrounds it.
        Score: mean confidence of all pixels whose class has a label, 0 if there are none.
    """
    image_key = image_key or space.config.image_keys[0]
    targets = [target for target in space.targets if target.control.image_key == image_key]
    ranked: list[tuple[int, int, Region]] = []
    predicted = np.zeros(256, bool)
    area = total = 0
    for control, group in groupby(targets, key=lambda target: target.control):
        own = list(group)
        label_of = np.full(256, NO_LABEL, np.uint8)
        for label, target in enumerate(own):
            label_of[[*target.class_ids]] = label
        predicted |= label_of != NO_LABEL
        components = Components.find(class_map, confidence, label_of)
        area, total = components.class_areas[predicted].sum(), components.class_sums[predicted].sum()
        for chosen in _choose(components, control):
            score = _mean(components.sums[chosen].sum(), components.areas[chosen].sum())
            if score >= control.options.score_threshold:
                value = _value(components, chosen, control)
                region = _region(own[components.labels[chosen[0]]], value, class_map.shape, score)
                ranked.append((-PREDICTED.index(control.type), -_extent(components, chosen, control), region))
    ranked.sort(key=lambda item: item[:2])
    return [region for *_, region in ranked], _mean(total, area)


def rasterise(
    result: Sequence[Region],
    config: LabelConfig,
    shape: tuple[int, int] | None = None,
    image_key: str | None = None,
) -> tuple[NDArray[np.uint8], list[str]]:
    """Draws the regions of an annotation, each over those before it.

    What counts is a region's label, whatever control it was drawn with, for the label config may have changed since. A
    label that is gone counts as the one that a checkpoint's class of its name would map to.

    Args:
        result: the annotation's ``result``; what covers no pixels in it (choices, text, relations, …) is passed over.
        config: the project's label config.
        shape: (H, W) of the image, after its EXIF orientation was applied; without it, what most regions say.
        image_key: which of a task's images to draw, where the label config has several; the first without it.

    Returns:
        Class map: uint8 (H, W) ids of ``config.class_names``, 255 where no region is.
        Problems: a sentence on each region that was left out, and why, and on each label that is gone.

    Raises:
        RegionError: the image's size is unknown, or absurd.
    """
    image_key = image_key or config.image_keys[0]
    height, width = shape or _likely_shape(result)
    if not 0 < height * width <= MAX_PIXELS:
        raise RegionError(f"An image of {width}×{height} pixels can't be drawn; at most {MAX_PIXELS:,} can.")
    class_map = np.full((height, width), UNLABELLED, np.uint8)
    gone: dict[str, None] = {}
    problems = []
    for number, region in enumerate(result):
        if isinstance(region, dict) and "type" in region and region["type"] not in _DRAWN:
            continue
        try:
            if _image_key(region, config) == image_key:
                label, class_id = _label(region, config)
                if label not in config.class_names:
                    gone[label] = None
                if class_id is not None:
                    class_map[_mask(region, (height, width))] = class_id
        except (RegionError, rle.RleError) as error:
            name = region.get("id", number) if isinstance(region, dict) else number
            problems.append(f"Region {name} is left out: {error}")
    return class_map, [*problems, *(_what_became_of(label, config) for label in gone)]


def _choose(components: Components, control: Control) -> list[NDArray[np.int64]]:
    """The components of each region: all those of a label for a brush, else one."""
    large = components.areas >= control.options.min_area / 100 * math.prod(components.shape)
    chosen = [np.flatnonzero(large & (components.labels == label)) for label in range(len(control.labels))]
    if control.type == "BrushLabels":
        return [each for each in chosen if each.size]
    return [component for each in chosen for component in each[:, None]]


def _mean(total: int, area: int) -> float:
    """Mean confidence, 0–1, of an area in pixels with a total in 255ths."""
    return float(total / area / 255) if area else 0.0


def _region(target: Target, value: dict[str, Any], shape: tuple[int, ...], score: float) -> Region:
    control = target.control
    height, width = shape
    kind = control.type.lower()
    return {
        "id": uuid4().hex[:10],
        "type": kind,
        "from_name": control.name,
        "to_name": control.to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {**value, kind: [target.label.value]},
        "score": score,
    }


def _value(components: Components, chosen: NDArray[np.int64], control: Control) -> dict[str, Any]:
    height, width = components.shape
    if control.type == "BrushLabels":
        return {"format": "rle", "rle": rle.encode_edges(components.edges(chosen), height * width)}
    percent = 100 / np.array((width, height))
    if control.type == "PolygonLabels":
        options = control.options
        points = simplify(outline(components.piece(chosen[0])), options.polygon_tolerance, options.polygon_points)
        return {"points": (points * percent).round(4).tolist(), "closed": True}
    top, left, bottom, right = components.boxes[chosen[0]].tolist()
    x, y = (percent * (left, top)).tolist()
    box_width, box_height = (percent * (right - left, bottom - top)).tolist()
    return {"x": x, "y": y, "width": box_width, "height": box_height, "rotation": 0}


def _extent(components: Components, chosen: NDArray[np.int64], control: Control) -> int:
    """Pixels in the region's bounding box; masks don't cover each other, so theirs are all alike."""
    if control.type == "BrushLabels":
        return 0
    top, left, bottom, right = components.boxes[chosen[0]].tolist()
    return int((bottom - top) * (right - left))


def _likely_shape(result: Sequence[Region]) -> tuple[int, int]:
    shapes = Counter(shape for region in result if (shape := _shape(region)))
    if not shapes:
        raise RegionError("No region says how large the image is; pass the image's shape.")
    return shapes.most_common(1)[0][0]


def _shape(region: Region) -> tuple[int, int] | None:
    if not isinstance(region, dict):
        return None
    height, width = region.get("original_height"), region.get("original_width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0 else None


def _image_key(region: Region, config: LabelConfig) -> str:
    """Key of the image that a region lies on: its control's, or that of its ``to_name`` if the control is gone."""
    if not isinstance(region, dict) or not isinstance(region.get("value"), dict):
        raise RegionError("it is no region with a value.")
    from_name, to_name = region.get("from_name"), region.get("to_name")
    drawn_with = [control for control in config.controls if control.name == from_name]
    drawn_on = [control for control in config.controls if control.to_name == to_name]
    for control in (*drawn_with, *drawn_on):
        return control.image_key
    raise RegionError(f"its to_name {to_name!r} is no image that the label config segments.")


def _label(region: Region, config: LabelConfig) -> tuple[str, int | None]:
    """The name of a region's label, and the class id that it counts as; None if no label of the config is like it."""
    values = region["value"].get(str(region.get("type")))
    names = [value for value in values if isinstance(value, str)] if isinstance(values, list) else []
    if not names:
        raise RegionError("it has no label.")
    name = next((name for name in names if name in config.class_names), names[0])
    return name, _class_id(name, config)


@lru_cache(maxsize=1024)
def _class_id(name: str, config: LabelConfig) -> int | None:
    return ClassMapping.of(config.labels, [name]).owners[0]


def _what_became_of(label: str, config: LabelConfig) -> str:
    class_id = _class_id(label, config)
    if class_id is not None:
        return f"Regions labelled {label!r}, which is no label any more, count as {config.class_names[class_id]!r}."
    return (
        f"Regions labelled {label!r} are left out, for there is no such label. Where another took its place, say so in "
        f'the label config: predicted_values="{label}".'
    )


def _mask(region: Region, shape: tuple[int, int]) -> Mask:
    height, width = shape
    if _shape(region) != shape:
        size = f"{region.get('original_width')}×{region.get('original_height')}"
        raise RegionError(f"it was drawn on an image of {size} pixels, but the image has {width}×{height}.")
    if region.get("image_rotation"):
        raise RegionError("the image was rotated in the editor; rotate it back, or rotate the file.")
    value, kind = region["value"], region["type"]
    if kind == "brushlabels":
        return rle.decode(value.get("rle"), shape) >= _OPAQUE
    if kind == "polygonlabels":
        points = value.get("points")
        if (
            not isinstance(points, list)
            or len(points) < 3
            or not all(isinstance(p, list) and len(p) == 2 for p in points)
        ):
            raise RegionError("its polygon has no three points.")
        corners = [(_pixels(x, width, "points"), _pixels(y, height, "points")) for x, y in points]
        return fill_polygon(np.array(corners), shape)

    def pixels(key: str, extent: int) -> float:
        return _pixels(value.get(key), extent, key)

    x, y, rotation = pixels("x", width), pixels("y", height), _number(value.get("rotation", 0), "rotation")
    if kind == "rectanglelabels":
        return fill_polygon(rectangle(x, y, pixels("width", width), pixels("height", height), rotation), shape)
    return fill_ellipse((x, y), (pixels("radiusX", width), pixels("radiusY", height)), rotation, shape)


def _pixels(percent: object, extent: int, key: str) -> float:
    return _number(percent, key) / 100 * extent


def _number(value: object, key: str) -> float:
    """A number that arithmetic can't overflow on; shapes may reach beyond the image, though not by much."""
    if not isinstance(value, int | float) or not abs(value) <= 1e6:
        raise RegionError(f"its {key} has {value!r} where a number belongs.")
    return value

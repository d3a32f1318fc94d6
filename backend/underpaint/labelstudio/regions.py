"""Label Studio's regions: class maps to regions for predictions, and regions to class maps for learning."""

from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from underpaint.labelstudio import rle
from underpaint.labelstudio.geometry import (
    Mask,
    Piece,
    fill_ellipse,
    fill_polygon,
    outline,
    pieces,
    rectangle,
    simplify,
)
from underpaint.labelstudio.label_config import PREDICTED, READ, Control, LabelConfig, Options
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
    confidence: NDArray[np.float32],
    space: LabelSpace,
    image_key: str | None = None,
) -> tuple[list[Region], float]:
    """Turns a class map into the regions of a prediction, and its score.

    Args:
        class_map: (H, W) ids of ``space.classes``, 255 for none, at the natural size of the image as browsers show it,
            that is, after its EXIF orientation was applied.
        confidence: (H, W), 0–1, of each pixel's class.
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
    predicted = np.zeros(class_map.shape, bool)
    ranked: list[tuple[int, int, Region]] = []
    for target in space.targets:
        if target.control.image_key != image_key:
            continue
        mask = np.isin(np.arange(256), [*target.class_ids])[class_map]
        predicted |= mask
        for piece in _pieces_to_draw(mask, target.control):
            score = float(confidence[piece.window][piece.mask].mean())
            if score >= target.control.options.score_threshold:
                region = _region(target, piece, mask.shape, score)
                ranked.append((-PREDICTED.index(target.control.type), -piece.mask.size, region))
    ranked.sort(key=lambda item: item[:2])
    score = float(confidence[predicted].mean()) if predicted.any() else 0.0
    return [region for *_, region in ranked], score


def rasterise(
    result: Sequence[Region],
    config: LabelConfig,
    shape: tuple[int, int] | None = None,
    image_key: str | None = None,
) -> tuple[NDArray[np.uint8], list[str]]:
    """Draws the regions of an annotation, each over those before it.

    Args:
        result: the annotation's ``result``; what covers no pixels in it (choices, text, relations, …) is passed over.
        config: the project's label config.
        shape: (H, W) of the image, after its EXIF orientation was applied; without it, what most regions say.
        image_key: which of a task's images to draw, where the label config has several; the first without it.

    Returns:
        Class map: uint8 (H, W) ids of ``config.class_names``, 255 where no region is.
        Problems: a sentence on each region that was left out, and why.

    Raises:
        RegionError: the image's size is unknown, or absurd.
    """
    image_key = image_key or config.image_keys[0]
    height, width = shape or _likely_shape(result)
    if not 0 < height * width <= MAX_PIXELS:
        raise RegionError(f"An image of {width}×{height} pixels can't be drawn; at most {MAX_PIXELS:,} can.")
    class_map = np.full((height, width), UNLABELLED, np.uint8)
    class_ids = {name: class_id for class_id, name in enumerate(config.class_names)}
    controls = {control.name: control for control in config.controls}
    problems = []
    for number, region in enumerate(result):
        if isinstance(region, dict) and "type" in region and region["type"] not in _DRAWN:
            continue
        try:
            control = _control(region, controls)
            if control.image_key == image_key:
                class_id = class_ids[_label(region, control)]
                class_map[_mask(region, (height, width))] = class_id
        except (RegionError, rle.RleError) as error:
            name = region.get("id", number) if isinstance(region, dict) else number
            problems.append(f"Region {name} is left out: {error}")
    return class_map, problems


def _pieces_to_draw(mask: Mask, control: Control) -> list[Piece]:
    found = pieces(mask, control.options.min_area / 100 * mask.size)
    if control.type != "BrushLabels" or not found:
        return found
    kept = np.zeros_like(mask)
    for piece in found:
        kept[piece.window] |= piece.mask
    return [Piece(0, 0, kept)]


def _region(target: Target, piece: Piece, shape: tuple[int, ...], score: float) -> Region:
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
        "value": {**_value(piece, kind, (height, width), control.options), kind: [target.label.value]},
        "score": score,
    }


def _value(piece: Piece, kind: str, shape: tuple[int, int], options: Options) -> dict[str, Any]:
    height, width = shape
    percent = 100 / np.array((width, height))
    if kind == "brushlabels":
        return {"format": "rle", "rle": rle.encode(piece.mask)}
    if kind == "polygonlabels":
        points = simplify(outline(piece), options.polygon_tolerance, options.polygon_points)
        return {"points": (points * percent).round(4).tolist(), "closed": True}
    piece_height, piece_width = piece.mask.shape
    x, y = (percent * (piece.left, piece.top)).tolist()
    box_width, box_height = (percent * (piece_width, piece_height)).tolist()
    return {"x": x, "y": y, "width": box_width, "height": box_height, "rotation": 0}


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


def _control(region: Region, controls: dict[str, Control]) -> Control:
    if not isinstance(region, dict) or not isinstance(region.get("value"), dict):
        raise RegionError("it is no region with a value.")
    from_name, kind = region.get("from_name"), region.get("type")
    control = controls.get(from_name) if isinstance(from_name, str) else None
    if control is None:
        raise RegionError(f"its from_name {from_name!r} is no control of the label config that segments an image.")
    if kind != control.type.lower():
        raise RegionError(f"its type is {kind!r}, but {from_name!r} is {control.type}.")
    return control


def _label(region: Region, control: Control) -> str:
    known = {label.value for label in control.labels}
    values = region["value"].get(region["type"])
    for value in values if isinstance(values, list) else []:
        if isinstance(value, str) and value in known:
            return value
    raise RegionError(f"its labels {values!r} are not among those of {control.name!r}.")


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

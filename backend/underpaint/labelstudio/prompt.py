"""What a person drew in Label Studio's editor to ask for a region: smart key points, rectangles, brush strokes, …"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from underpaint.labelstudio import rle
from underpaint.labelstudio.geometry import Mask, fill_polygon, rectangle
from underpaint.labelstudio.label_config import PREDICTED, Control, LabelConfig
from underpaint.labelstudio.regions import MAX_PIXELS, Region, RegionError

_OPAQUE = 128  # alpha, of 255, from which a pixel of a soft-edged stroke belongs to it
_ELLIPSE_CORNERS = 64


@dataclass(frozen=True, eq=False)
class Prompt:
    """What is to be found, and where. Coordinates are parts (0–1) of the image's width and height."""

    label: str
    """The value of a label of ``control``."""
    control: Control
    """The predicted control whose region answers."""
    outlines: tuple[NDArray[np.float64], ...] = ()
    """Polygons (N, 2) of x, y, around all that is meant: rectangles, ellipses and polygons, all as polygons."""
    positive: tuple[tuple[float, float], ...] = ()
    """Points x, y on what is meant."""
    negative: tuple[tuple[float, float], ...] = ()
    """Points x, y beside it."""
    strokes: tuple[Mask, ...] = field(default=(), repr=False)
    """Masks (H, W), each at the size it was drawn at, on what is meant."""

    def area(self, shape: tuple[int, int]) -> Mask | None:
        """The pixels in any outline, for an image of ``shape`` (H, W); None without outlines, which is everywhere."""
        if not self.outlines:
            return None
        height, width = shape
        filled = [fill_polygon(outline * (width, height), shape) for outline in self.outlines]
        return np.asarray(np.logical_or.reduce(filled))

    def seeds(self, shape: tuple[int, int]) -> tuple[Mask, Mask]:
        """The pixels, at ``shape`` (H, W), that points and strokes say are meant, and those that they say aren't."""
        meant, other = np.zeros(shape, bool), np.zeros(shape, bool)
        for stroke in self.strokes:
            shrunk = cv2.resize(stroke.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA)
            # A stroke that is thinner than a pixel is there all the same.
            meant |= shrunk >= min(0.5, float(shrunk.max()) / 2 or 1)
        for mask, points in ((meant, self.positive), (other, self.negative)):
            for x, y in points:
                mask[_index(y, shape[0]), _index(x, shape[1])] = True
        return meant & ~other, other


def read(context: Mapping[str, Any] | None, config: LabelConfig) -> tuple[Prompt | None, list[str]]:
    """Reads the ``context`` of an interactive /predict.

    All regions of the last one's label on its image count together; what came from a prediction is no prompt (a smart
    brush sends the label's other brush regions along with a stroke).

    Returns:
        Prompt: None where nothing was drawn that could be answered.
        Problems: a sentence on each region that was left out, and why.
    """
    drawn = (context or {}).get("result")
    usable: list[tuple[Control, str, dict[str, Any]]] = []
    problems: list[str] = []
    for number, region in enumerate(drawn if isinstance(drawn, list) else ()):
        try:
            if not _predicted(region):
                usable.append(_read(region, config))
        except (RegionError, rle.RleError) as error:
            name = region.get("id", number) if isinstance(region, dict) else number
            problems.append(f"What was drawn as {name} is left out: {error}")
    if not usable:
        return None, problems
    control, label, _ = usable[-1]
    parts: dict[str, list[Any]] = {"outlines": [], "positive": [], "negative": [], "strokes": []}
    for own_control, own_label, found in usable:
        if (own_control.image_key, own_label) == (control.image_key, label):
            for name, value in found.items():
                parts[name].append(value)
        else:
            problems.append(f"What was drawn as {own_label!r} is left out: the last region drawn is {label!r}.")
    if not any(parts[name] for name in ("outlines", "positive", "strokes")):
        return None, [*problems, f"Nothing says where {label!r} is: draw a positive key point too."]
    return Prompt(label, control, **{name: tuple(values) for name, values in parts.items()}), problems


def labels(context: Mapping[str, Any] | None) -> set[str]:
    """The labels of all that was drawn, whether or not it can be answered."""
    drawn = (context or {}).get("result")
    regions = [each for each in drawn if not _predicted(each)] if isinstance(drawn, list) else []
    return {label for region in regions if _has_value(region) for label in _labels(region)}


def _predicted(region: object) -> bool:
    return isinstance(region, dict) and (
        region.get("origin") in ("prediction", "prediction-changed") or region.get("score") is not None
    )


def _has_value(region: object) -> bool:
    return isinstance(region, dict) and isinstance(region.get("value"), dict)


def _read(region: Region, config: LabelConfig) -> tuple[Control, str, dict[str, Any]]:
    """The control that answers, its label, and what the region adds to the prompt, by the name of Prompt's field."""
    if not _has_value(region):
        raise RegionError("it is no region with a value.")
    if region.get("image_rotation"):
        raise RegionError("the image was rotated in the editor; rotate it back, or rotate the file.")
    value, kind = region["value"], str(region.get("type")).lower().removesuffix("labels")
    control, label = _answering(region, config)
    if kind == "keypoint":
        positive = region.get("is_positive", value.get("is_positive", True))
        return control, label, {"positive" if positive else "negative": (_part(value, "x"), _part(value, "y"))}
    if kind == "brush":
        return control, label, {"strokes": _stroke(region)}
    if kind in ("rectangle", "ellipse", "polygon"):
        outline = {"rectangle": _rectangle, "ellipse": _ellipse, "polygon": _polygon}[kind](region)
        if np.ptp(outline, axis=0).min() <= 0:
            raise RegionError("it covers nothing.")
        return control, label, {"outlines": outline}
    raise RegionError(f"{region.get('type')!r} doesn't say where a region is; draw a key point or a rectangle.")


def _answering(region: Region, config: LabelConfig) -> tuple[Control, str]:
    """The predicted control that has the region's label on its image: a brush if there is one, else a polygon."""
    drawn = list(_labels(region))
    for label in drawn:
        able = [
            control
            for control in config.controls
            if control.predicted
            and control.to_name == region.get("to_name")
            and label in (own.value for own in control.labels)
        ]
        if able:
            return min(able, key=lambda control: PREDICTED.index(control.type)), label
    raise RegionError(
        f"its labels {drawn!r} are of no control that is predicted for {region.get('to_name')!r}; "
        "give a <BrushLabels> of that image the same label."
    )


def _labels(region: Region) -> Iterator[str]:
    """Label values; a smart key point carries them under "labels" as well."""
    for key in (str(region.get("type")).lower(), "labels"):
        values = region["value"].get(key)
        yield from (value for value in (values if isinstance(values, list) else ()) if isinstance(value, str))


def _rectangle(region: Region) -> NDArray[np.float64]:
    x, y, width, height = (_part(region["value"], key) for key in ("x", "y", "width", "height"))
    return _turned(rectangle(0, 0, width, height), (x, y), region)


def _ellipse(region: Region) -> NDArray[np.float64]:
    x, y, across, down = (_part(region["value"], key) for key in ("x", "y", "radiusX", "radiusY"))
    angle = np.linspace(0, 2 * math.pi, _ELLIPSE_CORNERS, endpoint=False)
    return _turned(np.column_stack([across * np.cos(angle), down * np.sin(angle)]), (x, y), region)


def _polygon(region: Region) -> NDArray[np.float64]:
    points = region["value"].get("points")
    if not isinstance(points, list) or len(points) < 3 or not all(isinstance(p, list) and len(p) == 2 for p in points):
        raise RegionError("its polygon has no three points.")
    return np.array([[_part(dict(enumerate(point)), axis) for axis in (0, 1)] for point in points])


def _turned(points: NDArray[np.float64], centre: tuple[float, float], region: Region) -> NDArray[np.float64]:
    """Points about the origin, turned clockwise by the region's rotation in the image's own pixels, and moved."""
    rotation = math.radians(_number(region["value"].get("rotation", 0), "rotation"))
    size = np.array(_size(region)[::-1] if rotation else (1, 1))
    cos, sin = math.cos(rotation), math.sin(rotation)
    turned: NDArray[np.float64] = (points * size) @ np.array([(cos, sin), (-sin, cos)]) / size + centre
    return turned


def _stroke(region: Region) -> Mask:
    height, width = _size(region)
    if height * width > MAX_PIXELS:
        raise RegionError(f"an image of {width}×{height} pixels can't be drawn on; at most {MAX_PIXELS:,} can.")
    stroke = rle.decode(region["value"].get("rle"), (height, width)) >= _OPAQUE
    if not stroke.any():
        raise RegionError("the stroke covers nothing.")
    return stroke


def _size(region: Region) -> Sequence[int]:
    """(H, W) of the image that was drawn on."""
    height, width = region.get("original_height"), region.get("original_width")
    if not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
        raise RegionError(f"it doesn't say how large the image is, but {width!r}×{height!r}.")
    return height, width


def _part(value: Mapping[Any, Any], key: object) -> float:
    """A percentage as a part of 1."""
    return _number(value.get(key), key) / 100


def _number(value: object, key: object) -> float:
    if not isinstance(value, int | float) or not abs(value) <= 1e6:
        raise RegionError(f"its {key} has {value!r} where a number belongs.")
    return value


def _index(part: float, extent: int) -> int:
    return min(max(math.floor(part * extent), 0), extent - 1)

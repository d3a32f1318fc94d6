"""A project's label config: which control tags label which image, with which labels and options."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from xml.etree import ElementTree

from underpaint.taxonomy import UNLABELLED

PREDICTED = ("BrushLabels", "PolygonLabels", "RectangleLabels")
"""Control tags that predictions are made for."""

READ = (*PREDICTED, "EllipseLabels")
"""Control tags whose regions are learned from."""


class LabelConfigError(ValueError):
    """The label config can't be worked with; the message says what to change in it."""


@dataclass(frozen=True)
class Label:
    """A ``<Label>``."""

    value: str
    """What regions carry: the tag's ``alias`` where it has one, else its ``value``, as in Label Studio."""
    predicted_values: tuple[str, ...] = ()
    """Model classes that map to this label, from ``predicted_values="sky, clouds"``; empty for those named like it."""
    shown: str = ""
    """What people see, where the tag has an ``alias``: its ``value``, which is a name for it too."""


@dataclass(frozen=True)
class Options:
    """How regions are made for a control, from attributes on its tag: ``model_`` and the field's name."""

    score_threshold: float = 0.0
    """Regions whose mean confidence is lower are dropped; 0–1."""
    min_area: float = 0.02
    """Connected pieces smaller than this percentage (0–100) of the image are dropped. A share, since a finer scan of
    the same painting has larger specks: 0.02 is 13 pixels of 256×256 and 157 of 1024×768."""
    polygon_tolerance: float = 1.0
    """How far a polygon may stray from the mask's outline, in pixels of the image at its natural size."""
    polygon_points: int = 200
    """Most points one polygon may have, 4 or more; the tolerance grows until they suffice."""


@dataclass(frozen=True)
class Control:
    """A control tag that segments an image, such as ``<BrushLabels>``."""

    type: str
    name: str
    to_name: str
    image_key: str
    """Key of the task's data that holds the image's URL."""
    labels: tuple[Label, ...]
    options: Options
    asks: bool = False
    """Whether it is there to ask with: a smart tool (``smart="true"``) beside another control that has its labels."""

    @property
    def predicted(self) -> bool:
        """Whether regions of this control are predicted, or only read."""
        return self.type in PREDICTED and not self.asks


@dataclass(frozen=True)
class LabelConfig:
    """The segmenting part of a label config."""

    controls: tuple[Control, ...]

    @property
    def labels(self) -> tuple[Label, ...]:
        """Labels over all controls, each value once, in order of appearance, with all their ``predicted_values``."""
        found: dict[str, Label] = {}
        for label in (label for control in self.controls for label in control.labels):
            other = found.setdefault(label.value, label)
            predicted = dict.fromkeys((*other.predicted_values, *label.predicted_values))
            found[label.value] = replace(other, predicted_values=tuple(predicted))
        return tuple(found.values())

    @property
    def class_names(self) -> tuple[str, ...]:
        """Values of ``labels``."""
        return tuple(label.value for label in self.labels)

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Keys of the task's data that hold segmented images, each once, in order of appearance."""
        return tuple(dict.fromkeys(control.image_key for control in self.controls))


@lru_cache(maxsize=1024)
def parse(xml: str) -> LabelConfig:
    """Reads a label config; tags that don't segment images are ignored.

    Raises:
        LabelConfigError: it isn't XML, declares a DOCTYPE or entities, has no image, has no control tag of an image to
            predict for, or has one without a name, without labels, or with an option that is out of range; or it has
            more labels than a class map can tell apart (255).
    """
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", xml, re.IGNORECASE):
        raise LabelConfigError("The label config declares a DOCTYPE or an entity; remove the declaration.")
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise LabelConfigError(f"The label config is not well-formed XML ({error}); correct it there.") from error

    images = {tag.get("name", ""): tag for tag in root.iter("Image")}
    if not images:
        raise LabelConfigError('The label config has no <Image>; add <Image name="image" value="$image"/>.')
    tags = [tag for tag in root.iter() if tag.tag in READ and tag.get("toName") in images]
    controls = tuple(_control(tag, images) for tag in tags)
    smart = {
        control.name for control, tag in zip(controls, tags, strict=True) if tag.get("smart", "").lower() == "true"
    }
    controls = tuple(replace(each, asks=each.name in smart and _answered(each, controls)) for each in controls)
    if not any(control.predicted for control in controls):
        named = ", ".join(f'"{image}"' for image in images)
        raise LabelConfigError(
            f"The label config has nothing to segment its image with; add one of {_tags(PREDICTED)}, "
            f"with toName set to one of: {named}."
        )
    config = LabelConfig(controls)
    if len(config.class_names) > UNLABELLED:
        raise LabelConfigError(f"The label config has {len(config.class_names)} labels; keep to {UNLABELLED} at most.")
    return config


def _control(tag: ElementTree.Element, images: dict[str, ElementTree.Element]) -> Control:
    name, to_name = tag.get("name", ""), tag.get("toName", "")
    where = f'<{tag.tag} name="{name}">'
    if not name:
        raise LabelConfigError(f"A <{tag.tag}> has no name; give it one.")
    labels = tuple(_labels(tag, where))
    if not labels:
        raise LabelConfigError(
            f'{where} has no labels; put <Label value="…"/> tags in it (labels taken from the task aren\'t supported).'
        )
    return Control(str(tag.tag), name, to_name, _image_key(images[to_name]), labels, _options(tag, where))


def _answered(control: Control, controls: tuple[Control, ...]) -> bool:
    """Whether another control, which draws more exactly, has all of its labels."""
    exact = PREDICTED[: PREDICTED.index(control.type)] if control.type in PREDICTED else PREDICTED
    values = {label.value for label in control.labels}
    return any(
        other.type in exact and other.to_name == control.to_name and values <= {label.value for label in other.labels}
        for other in controls
    )


def _labels(tag: ElementTree.Element, where: str) -> Iterator[Label]:
    for label in tag.iter("Label"):
        alias, shown = label.get("alias"), label.get("value", "")
        if not (alias or shown):
            raise LabelConfigError(f"{where} has a <Label> without a value; give it one.")
        predicted = (name.strip() for name in label.get("predicted_values", "").split(","))
        yield Label(alias or shown, tuple(name for name in predicted if name), shown if alias else "")


def _image_key(image: ElementTree.Element) -> str:
    value = image.get("value", "")
    # Label Studio's server takes all that follows the $ for the key; brackets and braces lead into a value.
    if not re.fullmatch(r"\$[\w .-]+", value):
        raise LabelConfigError(
            f'<Image name="{image.get("name", "")}"> has value="{value}"; '
            'set it to one plain key of the task\'s data, such as value="$image".'
        )
    return value.removeprefix("$")


def _options(tag: ElementTree.Element, where: str) -> Options:
    def number(option: str, default: float, low: float, high: float) -> float:
        attribute = f"model_{option}"
        text = tag.get(attribute, str(default))
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise LabelConfigError(f'{where} has {attribute}="{text}"; set it to a number from {low:g} to {high:g}.')
        return value

    return Options(
        score_threshold=number("score_threshold", Options.score_threshold, 0, 1),
        min_area=number("min_area", Options.min_area, 0, 100),
        polygon_tolerance=number("polygon_tolerance", Options.polygon_tolerance, 0, 1000),
        polygon_points=int(number("polygon_points", Options.polygon_points, 4, 100_000)),
    )


def _tags(names: tuple[str, ...]) -> str:
    return ", ".join(f"<{name}>" for name in names)

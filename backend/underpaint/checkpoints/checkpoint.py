"""A checkpoint: the weights of a segmenter and the card that says what they are. It never changes once made."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch takes seconds to import, and whoever only moves checkpoints about never needs it
    from torch import nn

FORMAT = 2
_ADDED = {"channels": 2, "options": 2}  # by the format that brought a field


class CardError(ValueError):
    """A card cannot be read; the message says why and what to do."""


def _underpaint_version() -> str:
    try:
        return installed_version("underpaint")
    except PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a checkpoint is, how it was made and how well it did."""

    architecture: str
    """Name of the architecture in segmentation-models-pytorch, such as ``FPN``, or ``Hypercolumn``."""
    encoder: str
    """Name of the encoder in segmentation-models-pytorch, such as ``tu-tf_efficientnet_lite0``."""
    classes: tuple[str, ...]
    """Names of the classes; the position is the class id."""
    image_size: int
    """Longer side, in pixels, at which the segmenter sees a painting."""
    mean: tuple[float, ...]
    """Mean of each channel, such as red, green and blue, that is taken from an image; full scale (255, 65535) is 1."""
    std: tuple[float, ...]
    """Standard deviation of the channels, in the same units, that an image is divided by."""
    channels: int = 3
    """Channels of an image: 3 are red, green and blue."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the architecture, such as ``decoder_pyramid_channels``; JSON values."""
    parent: str | None = None
    """Version of the checkpoint that training started from."""
    snapshot: str = ""
    """Fingerprint of the labels that training saw."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """What the checkpoint scored on its validation paintings."""
    seconds: float = 0.0
    """How long training took."""
    device: str = "cpu"
    """Device that trained it."""
    created: str = ""
    """When it was made, ISO 8601 in UTC."""
    licences: str = ""
    """Terms of what the weights were made from."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the training run."""
    underpaint: str = field(default_factory=_underpaint_version)
    """Version of Underpaint that wrote the card."""
    format: int = FORMAT
    """Format of the card itself."""

    def to_json(self) -> str:
        """The card as canonical JSON: sorted keys, no spaces, so that equal cards are equal text.

        Raises:
            ValueError: a value is not JSON, NaN and infinity included.
        """
        # A card of an older format is written as it was read, or its checkpoint's version would change.
        values = {name: value for name, value in asdict(self).items() if _ADDED.get(name, 1) <= self.format}
        return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Card:
        """The card in `text`, as ``to_json`` wrote it.

        Raises:
            CardError: `text` is no card, or was written by a newer Underpaint.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise CardError(f"The card is not JSON ({error}): restore it from a backup, or train again.") from error
        if not isinstance(values, dict):
            raise CardError("The card is not a JSON object: restore it from a backup, or train again.")
        number = values["format"] if isinstance(values.get("format"), int) else FORMAT
        if number > FORMAT:
            raise CardError(
                f"The card has format {number}, written by Underpaint {values.get('underpaint', 'unknown')}, "
                f"and this Underpaint {_underpaint_version()} reads formats up to {FORMAT}: "
                "upgrade with `pip install --upgrade underpaint`."
            )
        wanted = {each.name for each in fields(cls) if _ADDED.get(each.name, 1) <= number}
        if values.keys() != wanted:
            raise CardError(
                f"The card lacks {sorted(wanted - values.keys())} and has unknown {sorted(values.keys() - wanted)}: "
                "restore it from a backup, or train again."
            )
        try:
            card = cls(**values | {name: tuple(values[name]) for name in ("classes", "mean", "std")})
        except TypeError as error:
            raise CardError(f"The card has a bad value ({error}): restore it from a backup, or train again.") from error
        if not len(card.mean) == len(card.std) == card.channels:
            raise CardError(
                f"The card has means of {len(card.mean)} and deviations of {len(card.std)} channels, and an image has "
                f"{card.channels}: restore it from a backup, or train again."
            )
        return card


@dataclass(frozen=True)
class Checkpoint:
    """Weights and their card."""

    card: Card
    weights: bytes = field(repr=False)
    """The net's parameters and buffers as safetensors."""

    @cached_property
    def version(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical card and the weights."""
        digest = hashlib.sha256(self.card.to_json().encode())
        digest.update(b"\n")
        digest.update(self.weights)
        return digest.hexdigest()[:12]

    @classmethod
    def from_module(cls, module: nn.Module, card: Card, half: bool = False) -> Checkpoint:
        """The weights that `module` has now, under `card`. Equal weights give equal bytes on every machine.

        With `half`, they take half the room, as float16.

        Raises:
            ValueError: `half`, and a weight that was finite is beyond float16's range.
        """
        from safetensors.torch import save

        weights = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
        if half:
            for name, value in weights.items():
                if value.is_floating_point():
                    weights[name] = value.half()
                    if not weights[name].isfinite().equal(value.isfinite()):
                        raise ValueError(f"{name} has values beyond float16's 65504: save it with half=False.")
        return cls(card, save(weights))

    def module(self) -> nn.Module:
        """The net, built anew with these weights in float32, on the CPU and in evaluation mode.

        Raises:
            ValueError: the architecture or encoder is unknown here, or the weights do not fit them.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        from underpaint.segmenter.architecture import Architecture, build

        # The licence was asked about when the checkpoint was trained or imported; what exists is served.
        module = build(Architecture.of(self.card), allow_noncommercial=True)
        try:
            module.load_state_dict(load(self.weights), strict=True)
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(
                f"The weights of checkpoint {self.version} do not fit {self.card.architecture} with "
                f"{self.card.encoder}: use the segmentation-models-pytorch and timm they were made with, "
                f"or train again. ({error})"
            ) from error
        return module.eval()

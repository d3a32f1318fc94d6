"""Which net a segmenter is, and how it is built."""

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from underpaint.segmenter.hypercolumn import Hypercolumn

if TYPE_CHECKING:
    from underpaint.checkpoints.checkpoint import Card

MAX_CLASSES = 255  # 255 means unlabelled, which leaves the ids 0–254

_ARCHITECTURES: dict[str, type[nn.Module]] = {**smp.MODEL_ARCHITECTURES_MAPPING, "hypercolumn": Hypercolumn}

# What Architecture itself says, and what would turn logits into something else.
_NO_OPTIONS = {"encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params", "kwargs"}
# Of timm's own options those that shape a net; others would have timm read files that a stranger's card names.
_TIMM_OPTIONS = {"img_size", "dynamic_img_size", "strict_img_size", "window_size", "drop_rate", "drop_path_rate"}

_PERMISSIVE = {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0"}
# segmentation-models-pytorch doesn't state the terms of its own encoders; these are not permissive, by how names start.
_RESTRICTED = {
    "mit_b": "NVIDIA's source code licence is non-commercial",
    "mobileone": "Apple's own terms apply",
    **dict.fromkeys(
        ("resnext101_32x4d", "resnext101_32x16d", "resnext101_32x32d", "resnext101_32x48d"),
        "its only weights, Facebook's, are CC-BY-NC-4.0",
    ),
}


class ArchitectureError(ValueError):
    """No such net can be built; the message names what can."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A net by its names in segmentation-models-pytorch."""

    name: str = "FPN"
    """Architecture, such as ``FPN`` or ``Unet``, or our ``Hypercolumn``; upper and lower case are the same."""
    encoder: str = "tu-tf_efficientnet_lite0"
    """Encoder; ``tu-NAME`` is timm's NAME."""
    classes: tuple[str, ...]
    """Names of the classes, 1 to 255 of them; the position is the class id."""
    channels: int = 3
    """Channels of an image."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the architecture, such as ``decoder_pyramid_channels``; JSON values."""

    @classmethod
    def of(cls, card: "Card") -> "Architecture":
        """The net that a checkpoint's card names."""
        return cls(
            name=card.architecture,
            encoder=card.encoder,
            classes=card.classes,
            channels=card.channels,
            options=card.options,
        )


def least_side(name: str) -> int:
    """Shortest side, in pixels, of an image that the architecture `name` can take."""
    return 128 if name.lower() == "pan" else 32  # PAN pools the last features three times more


def build(architecture: Architecture, allow_noncommercial: bool = False) -> nn.Module:
    """The net with random weights, from float (N, channels, H, W) to logits (N, classes, H, W).

    H and W are multiples of 32 and at least ``least_side``.

    Raises:
        ArchitectureError: unknown architecture, encoder or option; an encoder whose weights have no permissive licence;
            no classes, equal or too many; or parts that don't go together.
    """
    if not 1 <= len(architecture.classes) <= MAX_CLASSES:
        raise ArchitectureError(f"A segmenter has 1 to {MAX_CLASSES} classes, not {len(architecture.classes)}.")
    if len(set(architecture.classes)) < len(architecture.classes):
        raise ArchitectureError(f"Two classes have the same name in {architecture.classes}: rename one.")
    if architecture.channels < 1:
        raise ArchitectureError(f"An image has at least one channel, not {architecture.channels}.")
    if architecture.name.lower() not in _ARCHITECTURES:
        near = _near(architecture.name.lower(), list(_ARCHITECTURES))
        raise ArchitectureError(f"There is no architecture {architecture.name!r}: {near}.")
    _check_encoder(architecture.encoder)
    if not allow_noncommercial:
        _check_licence(architecture.encoder)
    _check_options(architecture)
    try:
        return _build(architecture)
    except Exception as error:  # what doesn't go together fails in as many ways as there are encoders
        raise ArchitectureError(
            f"{architecture.name} cannot be built with encoder {architecture.encoder!r} and options "
            f"{dict(architecture.options)} ({error}): every architecture takes tu-tf_efficientnet_lite0, FPN and Unet "
            "take most encoders, and vision transformers such as tu-vit_tiny_patch16_224 go with DPT and the option "
            "dynamic_img_size=true."
        ) from error


def _build(architecture: Architecture) -> nn.Module:
    arguments = {"in_channels": architecture.channels, "classes": len(architecture.classes), **architecture.options}
    model: nn.Module
    if architecture.name.lower() == "hypercolumn":
        model = Hypercolumn(architecture.encoder, **arguments)
    else:
        model = smp.create_model(architecture.name, architecture.encoder, encoder_weights=None, **arguments)
    # Some nets are made without complaint and take images of one size only; better to hear of it before training.
    side = max(64, least_side(architecture.name))
    with torch.no_grad():
        logits = model.eval()(torch.zeros(1, architecture.channels, side, side + 32))
    if logits.shape != (1, len(architecture.classes), side, side + 32):
        raise ValueError(f"its logits would have the shape {tuple(logits.shape)} for an image of {side + 32}×{side}")
    return model.train()


def _check_encoder(encoder: str) -> None:
    if encoder.startswith("tu-"):
        name = encoder.removeprefix("tu-")
        if not timm.is_model(name):
            raise ArchitectureError(f"timm has no model {name!r}: {_near(name, timm.list_models(), 'tu-')}.")
        model, _, tag = name.partition(".")
        if tag and name not in (tagged := timm.list_pretrained(f"{model}.*")):
            raise ArchitectureError(f"timm has no weights {name!r}: it has {', '.join(tagged) or f'none of {model}'}.")
    elif encoder not in (known := smp.encoders.get_encoder_names()):
        raise ArchitectureError(
            f"There is no encoder {encoder!r}: {_near(encoder, known)}; or tu-NAME for timm's NAME."
        )


def _check_licence(encoder: str) -> None:
    if encoder.startswith("tu-"):
        weights = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
        if weights is None or not weights.has_weights or weights.license in _PERMISSIVE:
            return
        terms: str | None = f"timm gives the licence of its weights as {weights.license or 'unknown'}"
    else:
        terms = next((terms for start, terms in _RESTRICTED.items() if encoder.startswith(start)), None)
    if terms:
        raise ArchitectureError(
            f"Encoder {encoder!r} is refused, for {terms}: use tu-tf_efficientnet_lite0, resnet34 or another "
            "permissive encoder, or set UNDERPAINT_ALLOW_NONCOMMERCIAL=true if those terms suit you."
        )


def _check_options(architecture: Architecture) -> None:
    known = set(inspect.signature(_ARCHITECTURES[architecture.name.lower()]).parameters) - _NO_OPTIONS
    if architecture.encoder.startswith("tu-"):
        known |= _TIMM_OPTIONS
    for option in architecture.options:
        if option not in known:
            raise ArchitectureError(
                f"{architecture.name} with {architecture.encoder} has no option {option!r}: "
                f"{_near(option, sorted(known))}."
            )


def _near(name: str, known: list[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, known, cutoff=0.4)
    return (
        f"did you mean {' or '.join(prefix + each for each in near)}" if near else f"known are {', '.join(known[:12])}"
    )

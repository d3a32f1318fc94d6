"""Which net a segmenter is, and how it is built."""

import difflib
from dataclasses import dataclass

import segmentation_models_pytorch as smp
import timm
from torch import nn

MAX_CLASSES = 255  # 255 means unlabelled, which leaves the ids 0–254

# Terms of the encoders whose code or weights may not be used commercially, by how their names start.
_NONCOMMERCIAL = {"mit_b": "NVIDIA's source code licence is non-commercial", "mobileone": "Apple's own terms apply"}


class ArchitectureError(ValueError):
    """No such net can be built; the message names what can."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A net by its names in segmentation-models-pytorch."""

    name: str = "FPN"
    """Architecture, such as ``FPN`` or ``Unet``; upper and lower case are the same."""
    encoder: str = "tu-tf_efficientnet_lite0"
    """Encoder; ``tu-NAME`` is timm's NAME."""
    classes: tuple[str, ...]
    """Names of the classes, 1 to 255 of them; the position is the class id."""


def build(architecture: Architecture, allow_noncommercial: bool = False) -> nn.Module:
    """The net with random weights, from float (N, 3, H, W) to logits (N, classes, H, W), H and W multiples of 32.

    Raises:
        ArchitectureError: unknown or non-commercial encoder, unknown architecture, or no classes, equal or too many.
    """
    if not 1 <= len(architecture.classes) <= MAX_CLASSES:
        raise ArchitectureError(f"A segmenter has 1 to {MAX_CLASSES} classes, not {len(architecture.classes)}.")
    if len(set(architecture.classes)) < len(architecture.classes):
        raise ArchitectureError(f"Two classes have the same name in {architecture.classes}: rename one.")
    known = list(smp.MODEL_ARCHITECTURES_MAPPING)
    if architecture.name.lower() not in known:
        raise ArchitectureError(
            f"There is no architecture {architecture.name!r}: {_near(architecture.name.lower(), known)}."
        )
    _check_encoder(architecture.encoder, allow_noncommercial)
    model: nn.Module = smp.create_model(
        architecture.name, architecture.encoder, encoder_weights=None, classes=len(architecture.classes)
    )
    return model


def _check_encoder(encoder: str, allow_noncommercial: bool) -> None:
    for start, terms in _NONCOMMERCIAL.items():
        if encoder.removeprefix("tu-").startswith(start) and not allow_noncommercial:
            raise ArchitectureError(
                f"Encoder {encoder!r} is refused, for {terms}: use tu-tf_efficientnet_lite0, resnet34 or another "
                "permissive encoder, or set UNDERPAINT_ALLOW_NONCOMMERCIAL=true if those terms suit you."
            )
    if encoder.startswith("tu-"):
        name = encoder.removeprefix("tu-")
        if not timm.is_model(name):
            raise ArchitectureError(f"timm has no model {name!r}: {_near(name, timm.list_models(), 'tu-')}.")
    elif encoder not in (known := smp.encoders.get_encoder_names()):
        raise ArchitectureError(
            f"There is no encoder {encoder!r}: {_near(encoder, known)}; or tu-NAME for timm's NAME."
        )


def _near(name: str, known: list[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, known, cutoff=0.4)
    return (
        f"did you mean {' or '.join(prefix + each for each in near)}" if near else f"known are {', '.join(known[:12])}"
    )

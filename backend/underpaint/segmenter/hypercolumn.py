"""Features of all strides at a pixel, and what can be told from them."""

from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional

_GROUPS = 16


class _Concatenation(nn.Module):
    """Features of all strides, normalised, at the first one's size; it has no parameters."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        # Stages differ in their scale by orders of magnitude, and one rate would not suit their weights.
        self.norms = nn.ModuleList(nn.GroupNorm(1, each, affine=False) for each in channels)

    def forward(self, features: list[Tensor]) -> Tensor:
        size = features[0].shape[-2:]
        return torch.cat([_grow(norm(each), size) for norm, each in zip(self.norms, features, strict=True)], dim=1)


class _Projection(nn.Module):
    """One hidden layer over the features of all strides and the mean of the last, at the first one's size.

    The mean tells what kind of scene it is: a field in summer or in snow, a coast or a river (after ParseNet's global
    context; Liu, Rabinovich and Berg, 2015).
    """

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        # One layer over the concatenation, cut by stage, so that each part is worked out at its stage's own size.
        self.projections = nn.ModuleList(nn.Conv2d(each, width, kernel_size=1) for each in channels)
        self.context = nn.Linear(channels[-1], width)
        self.norm = nn.GroupNorm(_GROUPS, width)

    def forward(self, features: list[Tensor]) -> Tensor:
        size = features[0].shape[-2:]
        hidden = self.context(features[-1].mean(dim=(2, 3)))[:, :, None, None]
        for project, each in zip(self.projections, features, strict=True):
            hidden = hidden + _grow(project(each), size)
        return functional.relu(self.norm(hidden))


class Hypercolumn(nn.Module):
    """A small classifier of what every stage of an encoder sees at a pixel.

    After Hariharan et al., "Hypercolumns for Object Segmentation and Fine-grained Localization", CVPR 2015; with its
    one hidden layer it is near the all-MLP decoder of SegFormer (Xie et al., NeurIPS 2021). So little outside the
    encoder is untrained that few labels suffice. Its parts have the names that segmentation-models-pytorch gives them.
    """

    def __init__(
        self,
        encoder_name: str,
        in_channels: int = 3,
        classes: int = 1,
        decoder_channels: int = 128,
        decoder_dropout: float = 0.2,
        **encoder_options: Any,
    ) -> None:
        """A hidden layer of `decoder_channels`, a multiple of 16; with 0 there is none, and the last layer is a linear
        classifier of the encoder's own features. In training, it does without `decoder_dropout` (0–1) of its inputs.
        """
        super().__init__()
        if decoder_channels % _GROUPS:
            raise ValueError(f"decoder_channels is a multiple of {_GROUPS}, not {decoder_channels}.")
        self.encoder = smp.encoders.get_encoder(encoder_name, in_channels=in_channels, weights=None, **encoder_options)
        channels = list(self.encoder.out_channels[2:])
        features = _Projection(channels, decoder_channels) if decoder_channels else _Concatenation(channels)
        self.decoder = nn.Sequential(features, nn.Dropout2d(decoder_dropout))
        self.segmentation_head = nn.Sequential(
            nn.Conv2d(decoder_channels or sum(channels), classes, kernel_size=1),
            nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes, H, W) of images float (N, channels, H, W), H and W multiples of 32."""
        logits: Tensor = self.segmentation_head(self.decoder(self.encoder(images)[2:]))
        return logits


def _grow(features: Tensor, size: torch.Size) -> Tensor:
    return functional.interpolate(features, size, mode="bilinear", align_corners=False)

"""Where a training run starts: at a parent's weights, or at ImageNet's."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from underpaint.checkpoints.checkpoint import Card, Checkpoint
from underpaint.labelstudio.class_mapping import ClassMapping
from underpaint.segmenter.architecture import Architecture, build
from underpaint.segmenter.channels import statistics
from underpaint.segmenter.encoder_weights import load_imagenet
from underpaint_workers.dataset import RGB, Item
from underpaint_workers.strategies import Strategy, add_layer, last_layer, unite


def is_net(card: Card, name: str, encoder: str) -> bool:
    """Whether `card` is of the architecture `name`, in upper or lower case, with this `encoder`."""
    return (card.architecture.casefold(), card.encoder) == (name.casefold(), encoder)


def fits(card: Card, name: str, encoder: str, options: dict[str, object], channels: int) -> bool:
    """Whether a checkpoint with this `card` gives weights to such a net; no `options` means the checkpoint's own."""
    return is_net(card, name, encoder) and card.channels == channels and options in ({}, card.options)


def from_parent(
    parent: Checkpoint,
    classes: tuple[str, ...],
    strategy: Strategy,
    image_size: int,
    paintings: Sequence[Item],
    mapping: ClassMapping,
) -> tuple[nn.Module, Card]:
    """The parent's net with a last layer for `classes`: its rows for those it knows, new ones for the others.

    `mapping` is that of the parent's classes to `classes`.
    """
    mean, std = _normalisation(paintings, parent.card.mean, parent.card.std)
    card = Card(
        architecture=parent.card.architecture,
        options=parent.card.options,
        encoder=parent.card.encoder,
        classes=classes,
        image_size=image_size,
        channels=parent.card.channels,
        mean=mean,
        std=std,
        parent=parent.version,
        licences=parent.card.licences,
    )
    module = parent.module()
    if strategy == "extra":
        add_layer(module, mapping.sources)
        return module, card
    fresh = build(
        Architecture.of(card), allow_noncommercial=True
    )  # the licence was asked about when the parent was trained
    weights = module.state_dict()
    name, layer = last_layer(fresh)
    for part, rows in layer.state_dict().items():
        weights[f"{name}.{part}"] = _cut(weights[f"{name}.{part}"], rows, mapping.sources)
    fresh.load_state_dict(weights)
    return fresh, card


def from_imagenet(
    card: Card, strategy: Strategy, paintings: Sequence[Item], allow_noncommercial: bool
) -> tuple[nn.Module, Card]:
    """The net that `card` names with ImageNet's encoder, and the card with how images are normalised for it.

    Raises:
        ArchitectureError: there is no such net, or its encoder is refused.
        EncoderWeightsError: there are no ImageNet weights for its encoder.
    """
    if strategy == "final":
        # Above a decoder that nobody trained, one layer cannot learn: it gets the encoder's own features.
        card = replace(card, architecture="Hypercolumn", options={"decoder_channels": 0})
    module = build(Architecture.of(card), allow_noncommercial)
    pretraining = load_imagenet(module.get_submodule("encoder"), card.encoder, card.channels)
    mean, std = _normalisation(paintings, pretraining.mean, pretraining.std)
    return module, replace(card, mean=mean, std=std, licences=pretraining.licences)


def _normalisation(
    paintings: Sequence[Item], mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`mean` and `std` for 8-bit RGB; rasters have their own, for pictures say nothing about them."""
    first, _ = paintings[0]
    if first.dtype == np.uint8 and first.shape[2] == RGB:
        return mean, std
    return statistics(image for image, _ in paintings)


def _cut(old: Tensor, fresh: Tensor, sources: Sequence[tuple[int, ...]]) -> Tensor:
    """Rows of `old` by `sources`, united where there are several, and of `fresh` where there are none."""
    return torch.stack([unite(old[[*ids]]) if ids else row for row, ids in zip(fresh, sources, strict=True)])

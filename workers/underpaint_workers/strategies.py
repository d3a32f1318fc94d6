"""How much of a net learns: strategies of transfer, from its last layer alone to all of it."""

import math
from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from underpaint.segmenter.segmenter import STRIDE

Strategy = Literal["final", "extra", "head", "stage4", "all"]
"""What learns.

- ``final``: the last layer;
- ``extra``: a new last layer on top of the parent's classes, the rest frozen;
- ``head``: the decoder and the last layer;
- ``stage4``: the last stage of the encoder too (Gonthier et al., "An analysis of the transfer learning of convolutional
  neural networks for artistic images", 2020, and the Mask R-CNN-on-art recipe);
- ``all``: everything.
"""
FEW = 5
"""Paintings from which on a parent's encoder learns too, and nothing goes back to the parent."""
SEEN = 2 / 3
"""Share (0–1) of the parent's classes that the labels must hold pixels of for that."""
MANY = 15
"""Paintings from which on all of the encoder learns, from ImageNet's weights."""
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


def choose(wanted: Strategy | Literal["auto"], paintings: int, parent: bool, seen: float = 1.0) -> Strategy:
    """The strategy to train with: the one wanted, or what ``auto`` stands for.

    From a parent that is ``all``, unless there are fewer than five paintings, or fewer than two thirds of its classes
    are `seen` (0–1) among their pixels: ``head`` forgets less. The base has an mIoU of 0.45 on 14 painted scenes in
    manners new to it, with one class renamed; after one painting it was 0.26 with ``all`` and 0.40 with ``head``, after
    four 0.41 and 0.43, after ten 0.52 with ``all``. Classes without a pixel lose most: after one painting water lost
    0.52 with ``all`` and 0.15 with ``head``, boats 0.36 and 0.13 (a run each).

    From ImageNet's weights, which know no classes, it is ``stage4`` with fewer than fifteen paintings: after five and
    ten, mIoU was 0.467 and 0.495 with that, 0.467 and 0.496 with ``all``, which took 1.5 and 1.7 times as long; after
    twenty and forty, 0.553 and 0.591, and 0.589 and 0.621 with ``all`` (means of three seeds, scenes first).

    Raises:
        ValueError: ``extra`` is wanted without a parent, whose classes it would build on.
    """
    if wanted == "extra" and not parent:
        raise ValueError(
            "Strategy extra puts a layer on top of a parent's classes, and ImageNet's weights have none: name a "
            "parent, or use --strategy final."
        )
    if wanted != "auto":
        return wanted
    if parent:
        return "all" if paintings >= FEW and seen >= SEEN else "head"
    return "all" if paintings >= MANY else "stage4"


class HalfWay:
    """Moves a net's weights half-way back to those that it started from, its parent's.

    There it keeps most of what it knew and has most of what it learned from few paintings (Wortsman et al., "Robust
    fine-tuning of zero-shot models", CVPR 2022). The base has an mIoU of 0.438 on 14 painted scenes in manners new to
    it. Means of three seeds, ``head``, as learned and half-way: after one painting 0.375 and 0.439, after two 0.369 and
    0.464, after four 0.445 and 0.479. With more it costs: after six, ``all``, two seeds, 0.565 and 0.520.
    """

    def __init__(self, module: nn.Module, sources: Sequence[tuple[int, ...]]) -> None:
        """Remember the weights of `module`; `sources` are the parent's classes of each row of its last layer.

        Rows without any stay as they are learned.
        """
        self._start = {name: value.clone() for name, value in module.state_dict().items()}
        self._last = last_layer(module)[0]
        self._fresh = [row for row, ids in enumerate(sources) if not ids]

    @torch.no_grad()
    def __call__(self, module: nn.Module) -> None:
        """Move the weights of `module`, which has the parts of the one that this was made of."""
        for name, weights in module.state_dict().items():
            if weights.is_floating_point():
                learned = weights[self._fresh] if name.startswith(self._last) else None
                weights.lerp_(self._start[name], 0.5)
                if learned is not None:
                    weights[self._fresh] = learned


def select(module: nn.Module, strategy: Strategy) -> None:
    """Let just those parameters of a net require gradients that `strategy` names."""
    module.requires_grad_(strategy == "all")
    last_layer(module)[1].requires_grad_(True)
    if strategy in ("head", "stage4"):
        for name, parameter in module.named_parameters():
            if not name.startswith("encoder."):
                parameter.requires_grad_(True)
    if strategy == "stage4":
        for parameter in last_stage(module.get_submodule("encoder")):
            parameter.requires_grad_(True)


def last_stage(encoder: nn.Module) -> list[nn.Parameter]:
    """The parameters that the encoder's last feature map depends on and the one before it does not."""
    parameters = list(encoder.parameters())
    wanted = [parameter.requires_grad for parameter in parameters]
    channels = next(parameter for parameter in parameters if parameter.ndim == 4).shape[1]
    modes = [(each, each.training) for each in encoder.modules()]
    encoder.requires_grad_(True).eval()
    features = encoder(torch.zeros(1, channels, 2 * STRIDE, 2 * STRIDE, device=parameters[0].device))
    deepest, before = (
        torch.autograd.grad(feature.sum(), parameters, allow_unused=True, retain_graph=True)
        for feature in (features[-1], features[-2])
    )
    for parameter, was in zip(parameters, wanted, strict=True):
        parameter.requires_grad_(was)
    for each, mode in modes:
        each.training = mode
    return [
        parameter
        for parameter, reached, earlier in zip(parameters, deepest, before, strict=True)
        if reached is not None and earlier is None
    ]


def set_training(module: nn.Module) -> None:
    """Training mode for what learns; the encoder's BatchNorm and whatever is frozen keep their statistics.

    A few paintings cannot estimate better statistics than those the encoder came with.
    """
    module.train()
    encoder = module.get_submodule("encoder")
    if not any(parameter.requires_grad for parameter in encoder.parameters()):
        encoder.eval()
    in_encoder = set(encoder.modules())
    for each in module.modules():
        frozen = not any(parameter.requires_grad for parameter in each.parameters())
        if isinstance(each, _BatchNorm) and (frozen or each in in_encoder):
            each.eval()


def last_layer(module: nn.Module) -> tuple[str, nn.Conv2d]:
    """A net's last convolution, whose rows are its classes, and the name it has in the net."""
    head = module.get_submodule("segmentation_head")
    return [(f"segmentation_head.{name}", each) for name, each in head.named_modules() if isinstance(each, nn.Conv2d)][
        -1
    ]


def unite(rows: Tensor) -> Tensor:
    """One row of a last layer for the union of several classes' (n, …), which are weights or biases (n,).

    The logit of a union is the logarithm of the sum of its classes' exponentials, and never less than their mean plus
    log n, which is linear. In five unions of the base's classes, that had mIoU 0.607 to 0.667 on 14 Monets before any
    training, where 0.619 to 0.676 is what the union of what it predicts has; the mean alone had 0.582 to 0.655, and the
    first class's row in place of all 0.492 to 0.655.
    """
    united = rows.mean(dim=0)
    return united + math.log(len(rows)) if rows.ndim == 1 else united


def add_layer(module: nn.Module, sources: Sequence[tuple[int, ...]]) -> None:
    """Put a new last layer on the net's classes: its row i starts as those of ``sources[i]``, or as noise if none."""
    name, old = last_layer(module)
    new = nn.Conv2d(old.out_channels, len(sources), 1)
    same = torch.eye(old.out_channels).view(-1, old.out_channels, 1, 1)
    with torch.no_grad():
        new.weight.mul_(0.1)
        for row, ids in enumerate(sources):
            if ids:
                new.weight[row] = unite(same[[*ids]])
                cast(Tensor, new.bias)[row] = unite(torch.zeros(len(ids)))
    module.set_submodule(name, nn.Sequential(old, new))


def fold_layer(module: nn.Module) -> None:
    """Multiply the layer that ``add_layer`` put on into the one below it, which gives the same net without it."""
    name, new = last_layer(module)
    name = name.removesuffix(".1")
    old = cast(nn.Conv2d, module.get_submodule(f"{name}.0"))
    folded = nn.Conv2d(old.in_channels, new.out_channels, old.kernel_size, padding=old.padding)  # type: ignore[arg-type]
    mix = new.weight.flatten(1)
    with torch.no_grad():
        folded.weight.copy_(torch.einsum("no,oihw->nihw", mix, old.weight))
        cast(Tensor, folded.bias).copy_(mix @ cast(Tensor, old.bias) + cast(Tensor, new.bias))
    module.set_submodule(name, folded)

"""What training minimises: cross-entropy, Lovász-softmax and soft Dice, over the labelled pixels of a batch."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from underpaint.taxonomy import UNLABELLED

_LEAST_SHARE = 1e-3  # rarer classes weigh no more than this makes them


class Loss(nn.Module):
    """A weighted sum of losses of logits (N, C, H, W) and class maps (N, H, W), uint8 or long, 255 unlabelled.

    Cross-entropy, in which class weights count for pixels: the share `smoothing` (0–1) of each pixel's label is spread
    over all classes evenly. (torch weighs what it spreads by class too, so that every pixel is drawn to rare classes.)
    Plus `lovasz` times Lovász-softmax and `dice` times soft Dice. Without any labelled pixel, it is zero.
    """

    weight: Tensor | None

    def __init__(
        self, weight: Tensor | None = None, smoothing: float = 0.0, lovasz: float = 0.0, dice: float = 0.0
    ) -> None:
        """Weigh classes by `weight` (C,), all alike without."""
        super().__init__()
        self.register_buffer("weight", weight)
        self.smoothing, self.lovasz, self.dice = smoothing, lovasz, dice

    def forward(self, logits: Tensor, class_maps: Tensor) -> Tensor:
        """The loss, a float32 scalar."""
        logits, class_maps = logits.float(), class_maps.long()
        loss = cross_entropy(logits, class_maps, self.weight, self.smoothing)
        if self.lovasz:
            # On a CPU, sorting all pixels for each class would take a good part of a step. A quarter of them does as
            # well: nets work out logits at a quarter of the size or less, so that neighbours are alike.
            loss = loss + self.lovasz * lovasz_softmax(logits[..., ::2, ::2].softmax(1), class_maps[..., ::2, ::2])
        if self.dice:
            loss = loss + self.dice * soft_dice(logits.softmax(1), class_maps)
        return loss


def cross_entropy(logits: Tensor, class_maps: Tensor, weight: Tensor | None, smoothing: float) -> Tensor:
    """Mean cross-entropy of the labelled pixels, each weighted by its class; long class maps (N, H, W)."""
    losses = functional.cross_entropy(
        logits, class_maps, ignore_index=UNLABELLED, label_smoothing=smoothing, reduction="none"
    )
    labelled = class_maps != UNLABELLED
    weights = labelled.to(losses) if weight is None else weight[class_maps.where(labelled, 0)] * labelled
    return (losses * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def lovasz_softmax(probabilities: Tensor, class_maps: Tensor) -> Tensor:
    """Lovász-softmax (Berman et al., CVPR 2018), the mean over the classes present in the batch.

    It extends 1 - IoU, which it equals where the probabilities (N, C, H, W) are 0 or 1, to those between.
    """
    labelled = class_maps != UNLABELLED
    ids = class_maps[labelled]
    present = torch.bincount(ids).nonzero()[:, 0]
    if not len(present):
        return probabilities.sum() * 0
    truth = ids == present[:, None]
    errors = (truth.float() - probabilities.movedim(1, 0)[:, labelled][present]).abs()
    errors, order = errors.sort(dim=1, descending=True)
    truth = truth.gather(1, order)
    # Jaccard loss of each class when the k worst pixels are wrong, and by how much the k-th raises it.
    wrong = torch.arange(1, len(ids) + 1, device=ids.device)
    missed = truth.cumsum(1)
    positives = missed[:, -1:]
    jaccard = 1 - (positives - missed) / (positives + wrong - missed)
    steps = torch.cat([jaccard[:, :1], jaccard.diff(dim=1)], dim=1)
    return (errors * steps).sum(dim=1).mean()


def soft_dice(probabilities: Tensor, class_maps: Tensor) -> Tensor:
    """1 - Dice (Milletari et al., 3DV 2016), not squared, the mean over the classes present in the batch."""
    labelled = class_maps != UNLABELLED
    ids, predicted = class_maps[labelled], probabilities.movedim(1, -1)[labelled]
    positives = torch.bincount(ids, minlength=probabilities.shape[1])
    if not len(ids):
        return probabilities.sum() * 0
    right = torch.zeros_like(predicted[0]).index_add(0, ids, predicted.gather(1, ids[:, None])[:, 0])
    dice: Tensor = 2 * right / (predicted.sum(0) + positives).clamp(min=1)
    return 1 - dice[positives > 0].mean()


def class_shares(class_maps: Iterable[Tensor], classes: int) -> Tensor:
    """Share (0–1) of each class among the labelled pixels of class maps uint8, 255 unlabelled: double (classes,).

    Zeros, where nothing is labelled.
    """
    counts = sum(
        (torch.bincount(each.flatten(), minlength=256)[:classes].double() for each in class_maps),
        torch.zeros(classes, dtype=torch.double),
    )
    return counts / counts.sum().clamp(min=1)


def class_weights(shares: Tensor, power: float = 0.5) -> Tensor:
    """Weights float32 (classes,) by the `shares` of the classes, to minus `power`; 1 for the average labelled pixel.

    Power 0 weighs all alike, 1 by the inverse of the frequency.
    """
    if not shares.any():
        return torch.ones(len(shares))
    weight = shares.clamp(min=_LEAST_SHARE) ** -power
    return (weight / (shares * weight).sum()).float()

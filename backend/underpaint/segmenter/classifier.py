"""From the pixels of an image to probabilities of the classes: the part that every runtime runs as one graph."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from underpaint.segmenter.channels import full_scale
from underpaint.segmenter.refinement import CELL


class Classifier(nn.Module):
    """A net with what goes before and after it."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        """`net` gives logits of images normalised by `mean` and `std`, which are in units of full scale."""
        super().__init__()
        self.net = net
        self.precision = torch.float32
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def cast(self, precision: torch.dtype) -> "Classifier":
        """Have the net compute in `precision`; what goes before and after it stays in float32."""
        self.net.to(precision)
        self.precision = precision
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What ``refine`` takes of images (N, h, w, channels), uint8 or finite float32, h and w even: cells of 2 by 2.

        Returns:
            Probabilities: float32 (N, classes, h/2, w/2), those of a cell's mean logits.
            Pictures: float32 (N, channels, h/2, w/2), the images normalised.
        """
        pixels = images.permute(0, 3, 1, 2).float() / full_scale(images.dtype)
        normalised = (pixels - self.mean) / self.std
        logits = self.net(normalised.to(self.precision)).float()
        return functional.avg_pool2d(logits, CELL).softmax(dim=1), functional.avg_pool2d(normalised, CELL)

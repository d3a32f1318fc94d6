"""Large images looked at piece by piece: overlapping tiles, joined without seams."""

from collections.abc import Iterator

import torch
from torch import Tensor

Tile = tuple[slice, slice]
"""Rows and columns."""


def tiles(height: int, width: int, side: int) -> Iterator[Tile]:
    """Tiles of at most `side` (even) rows and columns that cover an image and overlap by half or more."""
    for top in _starts(height, side):
        for left in _starts(width, side):
            yield slice(top, min(top + side, height)), slice(left, min(left + side, width))


def _starts(length: int, side: int) -> list[int]:
    steps = -(-max(0, length - side) // (side // 2))
    # Even, so that cells of two pixels don't straddle a tile's border.
    return [2 * round((length - side) * step / steps / 2) for step in range(steps)] + [max(0, length - side)]


def blend(whole: Tensor, parts: list[tuple[Tile, Tensor]], share: float) -> Tensor:
    """Probabilities (classes, h, w) of a `whole` view and of tiles, joined.

    They are averaged as logarithms, so that one that is sure outweighs one that is not: `share` (0–1) is the tiles',
    each of which fades out towards its borders, and the rest the whole's.
    """
    tiny = torch.finfo(torch.float32).tiny
    total = torch.zeros_like(whole)
    weights = torch.zeros_like(whole[:1])
    for (rows, columns), part in parts:
        window = torch.outer(*(_fading(size, whole.device) for size in part.shape[1:]))
        total[:, rows, columns] += window * part.clamp(min=tiny).log()
        weights[:, rows, columns] += window
    logits = (1 - share) * whole.clamp(min=tiny).log() + share * total / weights
    return logits.softmax(dim=0)


def _fading(size: int, device: torch.device) -> Tensor:
    """Weights (`size`,) of half a sine wave, all above 0."""
    return torch.sin(torch.pi * (torch.arange(size, device=device) + 0.5) / size)

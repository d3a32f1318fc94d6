"""Class boundaries moved to the edges that the painting shows.

A net decides in cells of four pixels, whose boundaries lie near edges, not on them, and it speckles what it is unsure
of. Here the probabilities take a random walk: each step, those of a place become the mean of its neighbours', weighted
by how alike the colours are, so classes spread within a stroke and stop at its edge. This is pixel-adaptive mask
refinement (Araslanov and Roth, "Single-stage semantic segmentation from image labels", CVPR 2020), with strides that
shorten from step to step (as in the à-trous wavelets of Dammertz et al., "Edge-avoiding À-Trous wavelet transform",
HPG 2010), at a small part of what a dense CRF costs.

It is written twice: in torch for GPUs, and for CPUs, where torch takes many times as long, in loops whose values stay
in a core's cache.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from underpaint.compiled import compiled

CELL = 2
"""Side, in pixels, of what is refined as one."""

_WALK = (9, 5, 3, 2, 1, 1)  # how far each step goes, in cells
_DISTANCES = tuple(dict.fromkeys(_WALK))
_RINGS = tuple(_DISTANCES.index(distance) for distance in _WALK)  # of eight neighbours each
_NEIGHBOURS = 8 * len(_DISTANCES)
_REACH = max(_DISTANCES)
_ALIKE = 0.15  # colours that differ by this part of the mean difference to the neighbours are alike
_STAYING = 0.1  # what a place keeps of its own, where a neighbour of its very colour gives 1
_SHARPENING = 1.2  # means are less confident than they are right; this power gives back what the walk took
_LEAST = (1e-18, 1e-12)  # weight and probability: less has no effect, but products that are no normal floats take long
_TINY = 1e-30  # a picture of one colour has no difference to divide by, and the least float's inverse is infinite

Floats = NDArray[np.float32]


def refine(probabilities: Tensor, pictures: Tensor) -> Tensor:
    """Probabilities float32 (N, classes, h, w), 0–1, with their boundaries moved to the edges of `pictures`.

    The pictures are finite float32 (N, channels, h, w) in any unit: a difference counts in proportion to those around
    it. The result has the shape of `probabilities` and sums to 1 over the classes. On the CPU, equal input gives equal
    results, whatever else is in the batch. Beside the result, memory is about as much again, and 40 values a place; on
    a GPU, 80.
    """
    if probabilities.device.type != "cpu":
        return refine_in_torch(probabilities, pictures)
    pairs = zip(probabilities.detach().numpy(), pictures.detach().numpy(), strict=True)
    return torch.from_numpy(np.stack([_refine_one(*pair) for pair in pairs]))


def refine_in_torch(probabilities: Tensor, pictures: Tensor) -> Tensor:
    """``refine`` in torch's own operations, which every device has."""
    rings = [
        torch.cat([(each - pictures).square().sum(dim=1, keepdim=True) for each in _neighbours(pictures, distance)], 1)
        for distance in _DISTANCES
    ]
    usual = torch.cat(rings, 1).mean(dim=1, keepdim=True).clamp(min=_TINY)
    weights = [(ring / (-2 * _ALIKE**2 * usual)).exp() for ring in rings]
    for distance, ring in zip(_WALK, _RINGS, strict=True):
        walked = probabilities * _STAYING
        for weight, each in zip(weights[ring][:, :, None].unbind(1), _neighbours(probabilities, distance), strict=True):
            walked = torch.addcmul(walked, each, weight)
        probabilities = walked / (weights[ring].sum(dim=1, keepdim=True) + _STAYING)
    sharpened = probabilities.pow(_SHARPENING)
    return sharpened / sharpened.sum(dim=1, keepdim=True)


def _neighbours(values: Tensor, far: int) -> list[Tensor]:
    """For each of the eight directions, what lies `far` from each place of `values`, at the rim what is nearest."""
    height, width = values.shape[2:]
    padded = functional.pad(values, (far, far, far, far), mode="replicate")
    return [
        padded[:, :, far + down : far + down + height, far + right : far + right + width]
        for down in (-far, 0, far)
        for right in (-far, 0, far)
        if down or right
    ]


def _refine_one(probabilities: Floats, picture: Floats) -> Floats:
    """Probabilities (classes, h, w), refined."""
    weights = _differences(np.ascontiguousarray(picture))
    # The exponential and the power are NumPy's, which has them for many numbers at once.
    np.exp(weights, out=weights)
    walked = _walk(np.ascontiguousarray(probabilities), weights)
    np.power(walked, np.float32(_SHARPENING), out=walked)
    walked /= walked.sum(axis=0)
    return walked


@compiled
def _differences(picture: Floats) -> Floats:
    """Logarithms (40, h, w), at most 0, of how alike the neighbours of each place of `picture` (channels, h, w) are."""
    least = np.float32(np.log(_LEAST[0]))
    channels, height, width = picture.shape
    padded = np.empty((channels, height + 2 * _REACH, width + 2 * _REACH), np.float32)
    _pad(picture, padded)
    found = np.zeros((_NEIGHBOURS, height, width), np.float32)
    usual = np.empty(width, np.float32)
    for y in range(height):
        for x in range(width):
            usual[x] = 0
        number = 0
        for distance in _DISTANCES:
            for down in (-distance, 0, distance):
                for right in (-distance, 0, distance):
                    if down == right == 0:
                        continue
                    values = found[number, y]
                    for channel in range(channels):
                        here, there = picture[channel, y], padded[channel, y + _REACH + down]
                        for x in range(width):
                            difference = there[x + _REACH + right] - here[x]
                            values[x] += difference * difference
                    for x in range(width):
                        usual[x] += values[x]
                    number += 1
        for x in range(width):
            mean = max(usual[x] / np.float32(_NEIGHBOURS), np.float32(_TINY))
            usual[x] = np.float32(-1 / (2 * _ALIKE**2)) / mean
        for number in range(_NEIGHBOURS):
            values = found[number, y]
            for x in range(width):
                values[x] = max(values[x] * usual[x], least)
    return found


@compiled
def _walk(probabilities: Floats, weights: Floats) -> Floats:
    """`probabilities` (classes, h, w) after all steps, with weights (40, h, w) of the neighbours."""
    classes, height, width = probabilities.shape
    walked = np.maximum(probabilities, np.float32(_LEAST[1]))
    padded = np.empty((classes, height + 2 * _REACH, width + 2 * _REACH), np.float32)
    share = np.empty(width, np.float32)
    for step in range(len(_WALK)):
        far, first = _WALK[step], 8 * _RINGS[step]
        _pad(walked, padded)
        for y in range(height):
            # A name for each row, or the loops would be compiled for one number at a time.
            nw, n, ne = weights[first, y], weights[first + 1, y], weights[first + 2, y]
            w, e = weights[first + 3, y], weights[first + 4, y]
            sw, s, se = weights[first + 5, y], weights[first + 6, y], weights[first + 7, y]
            for x in range(width):
                total = (nw[x] + n[x] + ne[x]) + (w[x] + e[x]) + (sw[x] + s[x] + se[x])
                share[x] = np.float32(1) / (total + np.float32(_STAYING))
            for one in range(classes):
                above, below = padded[one, y + _REACH - far], padded[one, y + _REACH + far]
                level, values = padded[one, y + _REACH], walked[one, y]
                for x in range(width):
                    left, here, right = x + _REACH - far, x + _REACH, x + _REACH + far
                    total = (
                        (nw[x] * above[left] + n[x] * above[here] + ne[x] * above[right])
                        + (w[x] * level[left] + np.float32(_STAYING) * level[here] + e[x] * level[right])
                        + (sw[x] * below[left] + s[x] * below[here] + se[x] * below[right])
                    )
                    values[x] = total * share[x]
    return walked


@compiled
def _pad(values: Floats, padded: Floats) -> None:
    """Fill `padded` with `values`, which lack its rim of 9, and the rim with the nearest of them."""
    count, height, width = values.shape
    for index in range(count):
        for y in range(height + 2 * _REACH):
            line, source = padded[index, y], values[index, min(max(y - _REACH, 0), height - 1)]
            for x in range(_REACH):
                line[x] = source[0]
                line[x + _REACH + width] = source[width - 1]
            for x in range(width):
                line[x + _REACH] = source[x]

"""From probabilities at the size the net works at to a class map at the painting's own."""

import numpy as np
from numpy.typing import NDArray

from underpaint.compiled import compiled

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Indices = NDArray[np.uint32]


def to_natural_size(probabilities: Floats, height: int, width: int) -> tuple[Bytes, Bytes]:
    """The likeliest class of each pixel, and how likely it is, after bilinear interpolation.

    Args:
        probabilities: float32 (classes, h, w), 0–1, at most 255 classes.
        height: rows of the image.
        width: columns of the image.

    Returns:
        Class map: uint8 (`height`, `width`) indices of classes, the lowest where several are equally likely.
        Confidence: uint8 (`height`, `width`), that class's probability in 255ths, rounded.

    As ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`` and ``max`` over the classes, but in
    one pass that holds nothing else at the image's size. Runs without the interpreter lock.
    """
    samples = np.ascontiguousarray(probabilities, np.float32)
    _, rows, columns = samples.shape
    above, down = _positions(height, rows)
    before, across = _positions(width, columns)
    first = np.searchsorted(before, np.arange(columns + 1)).astype(np.uint32)
    class_map, confidence = np.empty((height, width), np.uint8), np.empty((height, width), np.uint8)
    _fill(samples, above, down, before, across, first, class_map, confidence)
    return class_map, confidence


def _positions(size: int, samples: int) -> tuple[Indices, Floats]:
    """For each of `size` pixels, the sample before its centre, and how far on the way to the next it lies (0–1)."""
    position = ((np.arange(size) + 0.5) * (samples / size) - 0.5).clip(0, samples - 1)
    before = position.astype(np.uint32)
    return before, (position - before).astype(np.float32)


@compiled
def _fill(
    samples: Floats,
    above: Indices,
    down: Floats,
    before: Indices,
    across: Floats,
    first: Indices,
    class_map: Bytes,
    confidence: Bytes,
) -> None:
    """Fill row by row, and in each by cells, a cell being the square between four neighbouring samples.

    Interpolation weighs the four by numbers that add up to 1, so a class that is the likeliest at all of them is so
    anywhere between, and the others are looked at in the remaining cells only.
    """
    classes, rows, columns = samples.shape
    best = _likeliest(samples)
    corners = np.empty((4, columns), np.float32)
    mixed = np.empty(columns, np.bool_)
    start, step = np.empty(columns, np.float32), np.empty(columns, np.float32)
    starts, ends, rivals = np.empty(classes, np.float32), np.empty(classes, np.float32), np.empty(classes, np.uint8)
    scale, half = np.float32(255), np.float32(0.5)
    for y in range(above.size):
        top, weight = above[y], down[y]
        bottom = min(top + 1, rows - 1)
        if y > 0 and top == above[y - 1]:
            for x in range(before.size):
                class_map[y, x] = class_map[y - 1, x]
        else:
            for cell in range(columns):
                after = min(cell + 1, columns - 1)
                one = best[top, cell]
                mixed[cell] = not (one == best[top, after] == best[bottom, cell] == best[bottom, after])
                corners[0, cell], corners[1, cell] = samples[one, top, cell], samples[one, top, after]
                corners[2, cell], corners[3, cell] = samples[one, bottom, cell], samples[one, bottom, after]
            for x in range(before.size):
                class_map[y, x] = best[top, before[x]]
        for cell in range(columns):
            start[cell] = corners[0, cell] + weight * (corners[2, cell] - corners[0, cell])
            step[cell] = corners[1, cell] + weight * (corners[3, cell] - corners[1, cell]) - start[cell]
        for x in range(before.size):
            cell = before[x]
            confidence[y, x] = np.int32(scale * (start[cell] + across[x] * step[cell]) + half)
        for cell in range(columns):
            if not mixed[cell]:
                continue
            after = min(cell + 1, columns - 1)
            floor = np.float32(0)
            for one in range(classes):
                starts[one] = samples[one, top, cell] + weight * (samples[one, bottom, cell] - samples[one, top, cell])
                ends[one] = samples[one, top, after] + weight * (samples[one, bottom, after] - samples[one, top, after])
                floor = max(floor, min(starts[one], ends[one]))
            # A class that stays below what another has at the least need not be compared pixel by pixel.
            count = 0
            for one in range(classes):
                if max(starts[one], ends[one]) >= floor:
                    starts[count], ends[count], rivals[count] = starts[one], ends[one] - starts[one], one
                    count += 1
            for x in range(first[cell], first[cell + 1]):
                likeliest, value = 0, starts[0] + across[x] * ends[0]
                for one in range(1, count):
                    other = starts[one] + across[x] * ends[one]
                    if other > value:
                        likeliest, value = one, other
                class_map[y, x] = rivals[likeliest]
                confidence[y, x] = np.int32(scale * value + half)


@compiled
def _likeliest(samples: Floats) -> Bytes:
    classes, rows, columns = samples.shape
    best, value = np.zeros((rows, columns), np.uint8), np.empty(columns, np.float32)
    for row in range(rows):
        for column in range(columns):
            value[column] = samples[0, row, column]
        for one in range(1, classes):
            for column in range(columns):
                if samples[one, row, column] > value[column]:
                    best[row, column], value[column] = one, samples[one, row, column]
    return best

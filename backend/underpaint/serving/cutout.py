"""Cutting out of a painting what a person means, by the net's classes, by colours and by edges.

Classes and colours are two ways of putting pixels into bins. What is meant prefers some bins and what surrounds it
prefers others, so every pixel has odds by its bins; a smooth cut through these odds, along edges, says better what is
meant and so which bins it prefers, and so on for some rounds. This is GrabCut (Rother, Kolmogorov and Blake, SIGGRAPH
2004) with the net's classes as a second palette, which helps even where the net takes the label for another class
throughout, and with a mean field for the cut, over the neighbours that ``segmenter.refinement`` had first. Where no
outline says how far to go, the shortest path from the seeds counts as well, whose length grows where colours and
classes change (GeoS: Criminisi, Sharp and Blake, ECCV 2008).
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from underpaint.compiled import compiled
from underpaint.labelstudio.geometry import Mask
from underpaint.labelstudio.prompt import Prompt

Floats = NDArray[np.float32]

_CELLS = 160  # on the longer side of the window that is looked at
_MARGIN = 0.35  # of an outline's size: how much of what surrounds it tells what is not meant
_FULL = 0.7  # how likely a cell within an outline is meant, before anything is known of it
_TRUST = 2.0  # classes are believed from the start where this part of the outline, or more, is the label's
_BINS = 8  # of each colour channel
_BLUR = 1.0  # cells over which colours are averaged before paths are measured
_EDGE = 0.008  # length of a step between two cells of one colour; from black to white it is about 1
_USUAL = 2.0  # steps are shortened where they differ by no more than this many times the mean
_REACH = 0.12  # length of a path after which the odds are smaller by a factor of e
_NEAR, _ALONG = 2.5, 0.7  # log-odds at a point, and along a stroke, which shows by itself how far to go
_AGAINST = 2.0  # weight of a way to what is known not to be meant that is shorter
_CLASSES, _COLOURS, _PATHS = 1.0, 0.7, 0.5  # weights of the log-odds by each
_SMOOTHNESS = 4.0  # log-odds that a cell takes over from neighbours that all agree
_SURE = 0.95  # part of the label's own classes that is taken to be meant
_ROUNDS, _STEPS = 2, 4
_ALIKE = 0.15  # colours that differ by this part of the mean difference to the neighbours are alike
_DISTANCES = (1, 3, 9)  # of those neighbours, in cells


def refine_region(probabilities: Floats, image: NDArray[np.uint8], class_ids: tuple[int, ...], prompt: Prompt) -> Mask:
    """The region that a prompt means.

    Args:
        probabilities: float32 (classes, h, w), 0–1, as the net has them; all alike where it has none.
        image: uint8 (h, w, 3) RGB.
        class_ids: which classes are the prompt's label; none where the net doesn't know it.
        prompt: where it is.

    Returns:
        bool (h, w): within the prompt's outlines if it has any (all of it where nothing in there stands out), else
        connected to its positive points and strokes.
    """
    shape = image.shape[0], image.shape[1]
    area = prompt.area(shape)
    rows, columns = _window(area, shape)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    scale = min(1.0, _CELLS / max(height, width))
    cells = max(1, round(height * scale)), max(1, round(width * scale))

    fixed = np.zeros(cells, np.int8)
    allowed = np.ones(cells, bool)
    if area is not None:
        allowed = _resize(area[rows, columns], cells) >= 0.5
    seeds, others = prompt.seeds(shape)
    fixed[_resize(others[rows, columns], cells) > 0] = -1
    fixed[_resize(seeds[rows, columns], cells) > 0] = 1
    fixed[~allowed] = -1
    if (fixed == -1).all() and area is not None:
        return area
    colours = _resize(image[rows, columns], cells)
    lab = cv2.cvtColor(colours / np.float32(255), cv2.COLOR_RGB2LAB) / np.float32(100)
    classes = _resize(probabilities[:, rows, columns].transpose(1, 2, 0), cells)
    near = None if area is not None else _ALONG if prompt.strokes else _NEAR
    likely = _cut(classes, lab, fixed, class_ids, near)

    found = np.zeros(shape, bool)
    found[rows, columns] = cv2.resize(likely, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
    if area is not None:
        return found & area if (found & area).any() else area
    return _connected(found | seeds, seeds)


def _cut(
    classes: Floats, colours: Floats, fixed: NDArray[np.int8], class_ids: tuple[int, ...], at_seeds: float | None
) -> Floats:
    """How likely (h, w), 0–1, each cell is meant.

    ``classes`` are (h, w, classes), ``colours`` (h, w, 3) in Lab, 100 being 1; ``fixed`` (h, w) is 1 for what is known
    to be meant, -1 for what is known not to be; ``at_seeds`` are the log-odds there, from which they fall off with the
    way, and None where the way doesn't count.
    """
    bins = _bins(colours)
    steps = np.concatenate([cv2.GaussianBlur(colours, (0, 0), _BLUR), classes], axis=2)
    usual = _USUAL * _mean_step(steps)
    own = classes[..., list(class_ids)].sum(axis=2)
    sure = _SURE
    if at_seeds is None:
        near = np.zeros(fixed.shape, np.float32)
        trust = min(1.0, _TRUST * float(own[fixed != -1].mean()))
        likely = trust * own + (1 - trust) * np.float32(_FULL)
    else:
        way = _distance(fixed == 1, steps, usual)
        near = at_seeds - way / np.float32(_REACH)
        if (fixed == -1).any():
            near = np.minimum(near, _AGAINST * (_distance(fixed == -1, steps, usual) - way) / np.float32(_REACH))
            sure *= 1 - float(own[fixed == -1].mean())
        likely = _sigmoid(near)
    likely = np.where(fixed == 0, likely, fixed > 0).astype(np.float32)
    alike = _alike(colours)
    for _ in range(_ROUNDS):
        share = _frequency(classes, likely)
        share /= share + _frequency(classes, 1 - likely)
        for class_id in class_ids:
            share[class_id] = max(share[class_id], sure)
        by_class = (classes @ share).clip(0.02, 0.98)
        by_colour = np.log(_histogram(bins, likely) / _histogram(bins, 1 - likely)).clip(-4, 4)
        odds = _CLASSES * np.log(by_class / (1 - by_class)) + _COLOURS * by_colour + _PATHS * near.clip(-4, 4)
        likely = _smooth(likely, odds.astype(np.float32), fixed, alike)
    return np.asarray(likely, np.float32)


def _frequency(classes: Floats, weights: Floats) -> Floats:
    """How frequent each of `classes` (h, w, classes) is by `weights` (h, w); a part is taken to be as everywhere."""
    counts = np.tensordot(weights, classes, 2) + 0.02 * weights.size * (classes.mean(axis=(0, 1)) + 1e-3)
    return np.asarray(counts / counts.sum(), np.float32)


def _window(area: Mask | None, shape: tuple[int, int]) -> tuple[slice, slice]:
    """The part of an image of `shape` that tells what is in `area` and what isn't."""
    if area is None or not area.any():
        return slice(0, shape[0]), slice(0, shape[1])
    slices = []
    for axis, extent in enumerate(shape):
        covered = np.flatnonzero(area.any(axis=1 - axis))
        first, end = int(covered[0]), int(covered[-1]) + 1
        margin = round(_MARGIN * (end - first)) + 8
        slices.append(slice(max(0, first - margin), min(extent, end + margin)))
    return slices[0], slices[1]


def _resize(values: NDArray[Any], cells: tuple[int, int]) -> Floats:
    """`values` (h, w) or (h, w, n) as float32 means of cells."""
    flat = np.asarray(values, np.float32).reshape(*values.shape[:2], -1)
    # OpenCV takes at most four channels at a time, and drops the axis of a single one.
    fours = (np.ascontiguousarray(flat[..., first : first + 4]) for first in range(0, flat.shape[2], 4))
    resized = np.dstack([cv2.resize(each, cells[::-1], interpolation=cv2.INTER_AREA) for each in fours])
    return np.asarray(resized.reshape(*cells, *values.shape[2:]), np.float32)


def _bins(colours: Floats) -> NDArray[np.int64]:
    """A bin for each cell (h, w), after its colour among those of the image: each channel is cut at its quantiles."""
    cuts = np.linspace(0, 1, _BINS + 1)[1:-1]
    numbers = [np.searchsorted(np.quantile(channel, cuts), channel) for channel in np.moveaxis(colours, 2, 0)]
    return np.asarray((numbers[0] * _BINS + numbers[1]) * _BINS + numbers[2])


def _histogram(bins: NDArray[np.int64], weights: Floats) -> NDArray[np.float64]:
    """For each cell (h, w), how frequent its bin and those beside it are by `weights`."""
    counts: NDArray[Any] = np.bincount(bins.ravel(), weights.ravel(), _BINS**3).reshape(_BINS, _BINS, _BINS)
    for _ in range(3):
        padded = np.pad(counts, ((1, 1), (0, 0), (0, 0)), mode="edge")
        counts = np.moveaxis(padded[:-2] / 4 + padded[1:-1] / 2 + padded[2:] / 4, 0, 2)
    counts = counts + 1e-6
    return np.asarray((counts / counts.sum()).ravel()[bins])


def _mean_step(values: Floats) -> float:
    """By how much neighbours in `values` (h, w, n) differ, in the mean; 0 for a single one."""
    steps = [np.linalg.norm(np.diff(values, axis=axis), axis=2).ravel() for axis in (0, 1)]
    return float(np.concatenate([*steps, [0.0]]).mean())


def _sigmoid(odds: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-odds.clip(-30, 30))), np.float32)


def _connected(mask: Mask, seeds: Mask) -> Mask:
    """The pieces of `mask` that `seeds` lie in."""
    _, pieces = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    return np.asarray(mask & np.isin(pieces, np.unique(pieces[seeds])))


@compiled
def _distance(seeds: Mask, values: Floats, usual: float) -> Floats:
    """Length (h, w) of the shortest path from any of `seeds` through `values` (h, w, n), by four raster scans.

    A step is as long as its ends differ; much shorter where that is less than `usual`, or brushwork would add up.
    """
    height, width, count = values.shape
    lengths = np.where(seeds, np.float32(0), np.float32(1e6))
    for scan in range(4):
        way = 1 - 2 * (scan % 2)
        for line in range(height):
            y = line if way > 0 else height - 1 - line
            for column in range(width):
                x = column if way > 0 else width - 1 - column
                shortest = lengths[y, x]
                for neighbour in range(4):
                    # The four that the scan has been at: three of the line before, and the one before on this line.
                    v = y - way if neighbour < 3 else y
                    u = x + neighbour - 1 if neighbour < 3 else x - way
                    if v < 0 or v >= height or u < 0 or u >= width:
                        continue
                    square = np.float32(0)
                    for index in range(count):
                        difference = values[y, x, index] - values[v, u, index]
                        square += difference * difference
                    step = np.float32(_EDGE) * np.sqrt(np.float32((v - y) * (v - y) + (u - x) * (u - x)))
                    step += square / (np.sqrt(square) + np.float32(usual) + np.float32(1e-6))
                    shortest = min(shortest, lengths[v, u] + step)
                lengths[y, x] = shortest
    return lengths


@compiled
def _alike(colours: Floats) -> Floats:
    """Weights (24, h, w) of each cell's neighbours, by how alike they are; they add up to 1, 0 being beyond the rim."""
    height, width, _ = colours.shape
    weights = np.zeros((24, height, width), np.float32)
    for y in range(height):
        for x in range(width):
            number, usual, count = 0, np.float32(1e-6), 0
            for distance in _DISTANCES:
                for down in range(-distance, distance + 1, distance):
                    for right in range(-distance, distance + 1, distance):
                        if down == right == 0:
                            continue
                        square = np.float32(-1)
                        if 0 <= y + down < height and 0 <= x + right < width:
                            square = np.float32(0)
                            for channel in range(3):
                                difference = colours[y, x, channel] - colours[y + down, x + right, channel]
                                square += difference * difference
                            usual += square
                            count += 1
                        weights[number, y, x] = square
                        number += 1
            usual /= max(count, 1)
            least = np.float32(1e30)
            for number in range(24):
                if weights[number, y, x] >= 0:
                    least = min(least, weights[number, y, x])
            total = np.float32(1e-30)
            for number in range(24):
                square = weights[number, y, x]
                within = square >= 0
                weights[number, y, x] = np.exp((least - square) / (np.float32(2 * _ALIKE**2) * usual)) if within else 0
                total += weights[number, y, x]
            for number in range(24):
                weights[number, y, x] /= total
    return weights


@compiled
def _smooth(likely: Floats, odds: Floats, fixed: NDArray[np.int8], weights: Floats) -> Floats:
    """`likely` (h, w) after some steps in which cells follow their `odds` and their neighbours, by their `weights`."""
    height, width = likely.shape
    for _ in range(_STEPS):
        before = likely.copy()
        for y in range(height):
            for x in range(width):
                if fixed[y, x] != 0:
                    continue
                mean, number = np.float32(0), 0
                for distance in _DISTANCES:
                    for down in range(-distance, distance + 1, distance):
                        for right in range(-distance, distance + 1, distance):
                            if down == right == 0:
                                continue
                            if weights[number, y, x] > 0:
                                mean += weights[number, y, x] * before[y + down, x + right]
                            number += 1
                pull = odds[y, x] + np.float32(_SMOOTHNESS) * (2 * mean - 1)
                likely[y, x] = 1 / (1 + np.exp(-pull))
    return likely

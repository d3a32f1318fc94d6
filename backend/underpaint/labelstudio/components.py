"""The connected components of a class map, found in one pass over its pixels and another over its runs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from underpaint.compiled import compiled
from underpaint.labelstudio.geometry import Mask, Piece

Bytes = NDArray[np.uint8]
Indices = NDArray[np.int64]

NO_LABEL = 255


@dataclass(frozen=True, eq=False)
class Components:
    """The 8-connected components of each label, in the order of their first pixels, which are counted in row order.

    A run is as much of a row as lies in one component without a gap.
    """

    shape: tuple[int, int]
    starts: Indices
    """int64 (runs,), ascending: the first pixel of each run."""
    ends: Indices
    """int64 (runs,): the pixel after its last."""
    owners: Indices
    """int64 (runs,): the component it lies in."""
    labels: Bytes
    """uint8 (components,)."""
    areas: Indices
    """int64 (components,): how many pixels it has."""
    sums: Indices
    """int64 (components,): what the confidence of these adds up to."""
    boxes: Indices
    """int64 (components, 4): top, left, bottom and right, the last two outside it."""
    class_areas: Indices
    """int64 (256,): how many pixels each class has, with or without a label."""
    class_sums: Indices
    """int64 (256,): what the confidence of these adds up to."""

    @classmethod
    def find(cls, class_map: Bytes, confidence: Bytes, label_of: Bytes) -> "Components":
        """The components of a class map, uint8 (H, W), whose class c has the label ``label_of[c]`` of 256."""
        class_map, confidence = np.ascontiguousarray(class_map), np.ascontiguousarray(confidence)
        height, width = class_map.shape
        starts, ends, sums, parents, labels, *classes = _find_runs(class_map, confidence, label_of)
        return cls((height, width), starts, ends, *_merge(starts, ends, sums, parents, labels, width), *classes)

    def edges(self, chosen: Indices) -> Indices:
        """Where the mask of the ``chosen`` components changes; see ``rle.encode_edges``."""
        table = np.zeros(len(self.areas), bool)
        table[chosen] = True
        runs = table[self.owners]
        edges = np.column_stack((self.starts[runs], self.ends[runs])).ravel()
        # What reaches the end of a row may go on in the next.
        joined = np.flatnonzero(edges[1:] == edges[:-1])
        return np.delete(edges, np.concatenate((joined, joined + 1)))

    def piece(self, component: int | np.int64) -> Piece:
        """The mask of a component in its bounding box."""
        top, left, bottom, right = self.boxes[component].tolist()
        mask: Mask = np.zeros((bottom - top, right - left), bool)
        width = self.shape[1]
        rows = slice(*np.searchsorted(self.starts, (top * width, bottom * width)))
        _draw(self.starts[rows], self.ends[rows], self.owners[rows] == component, top * width + left, width, mask)
        return Piece(top, left, mask)


@compiled
def _find_runs(
    class_map: Bytes, confidence: Bytes, label_of: Bytes
) -> tuple[Indices, Indices, Indices, Indices, Bytes, Indices, Indices]:
    """Starts, ends, sums, parents and labels of runs, and areas and sums of classes.

    Every parent but a component's first run, which is its own, comes before its child in the same component.
    """
    height, width = class_map.shape
    most = height
    for y in range(height):
        for x in range(1, width):
            most += class_map[y, x] != class_map[y, x - 1]
    starts, ends, sums = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    parents, labels = np.empty(most, np.int64), np.empty(most, np.uint8)
    class_areas, class_sums = np.zeros(256, np.int64), np.zeros(256, np.int64)
    above, begin, count = 0, 0, 0  # first runs of the row above and of this one, and the next
    for y in range(height):
        above, begin = begin, count
        x = 0
        while x < width:
            start, one, total = x, class_map[y, x], 0
            while x < width and class_map[y, x] == one:
                total += confidence[y, x]
                x += 1
            class_areas[one] += x - start
            class_sums[one] += total
            label = label_of[one]
            if label == NO_LABEL:
                continue
            if count > begin and labels[count - 1] == label and ends[count - 1] == y * width + start:
                ends[count - 1] += x - start
                sums[count - 1] += total
            else:
                starts[count], ends[count], sums[count] = y * width + start, y * width + x, total
                parents[count], labels[count] = count, label
                count += 1
        upper = above
        for run in range(begin, count):
            # Runs touch, be it by a corner, unless one ends more than a pixel before the other starts.
            while upper < begin and ends[upper] + width < starts[run]:
                upper += 1
            other = upper
            while other < begin and starts[other] + width <= ends[run]:
                if labels[other] == labels[run]:
                    _join(parents, other, run)
                other += 1
    return starts[:count], ends[:count], sums[:count], parents[:count], labels[:count], class_areas, class_sums


@compiled
def _join(parents: Indices, one: int, other: int) -> None:
    one, other = _root(parents, one), _root(parents, other)
    parents[max(one, other)] = min(one, other)


@compiled
def _root(parents: Indices, run: int) -> int:
    while parents[run] != run:
        parents[run] = parents[parents[run]]  # halves the way for whoever comes next
        run = parents[run]
    return run


@compiled
def _merge(
    starts: Indices, ends: Indices, sums: Indices, parents: Indices, run_labels: Bytes, width: int
) -> tuple[Indices, Bytes, Indices, Indices, Indices]:
    """Owners of runs, and labels, areas, sums and boxes of the components."""
    owners, count = np.empty_like(parents), 0
    for run in range(parents.size):
        if parents[run] == run:
            owners[run] = count
            count += 1
        else:
            owners[run] = owners[parents[run]]
    labels, areas, totals = np.empty(count, np.uint8), np.zeros(count, np.int64), np.zeros(count, np.int64)
    boxes = np.empty((count, 4), np.int64)
    for run in range(parents.size):
        one, row = owners[run], starts[run] // width
        left, right = starts[run] - row * width, ends[run] - row * width
        if parents[run] == run:
            labels[one] = run_labels[run]
            boxes[one, 0], boxes[one, 1], boxes[one, 3] = row, left, right
        areas[one] += ends[run] - starts[run]
        totals[one] += sums[run]
        boxes[one, 1], boxes[one, 2], boxes[one, 3] = min(boxes[one, 1], left), row + 1, max(boxes[one, 3], right)
    return owners, labels, areas, totals, boxes


@compiled
def _draw(starts: Indices, ends: Indices, chosen: Mask, corner: int, width: int, mask: Mask) -> None:
    """Set the pixels of the `chosen` runs in a `mask` whose top left pixel is the image's pixel `corner`."""
    for run in range(starts.size):
        if chosen[run]:
            row = (starts[run] - corner) // width
            first = starts[run] - corner - row * width
            mask[row, first : first + ends[run] - starts[run]] = True

"""Masks and shapes: which pixels a shape covers, and which shapes cover a mask.

Coordinates are pixels with the origin at the image's top left corner, x to the right and y down, so that the centre of
the pixel in row r and column c is (c + 0.5, r + 0.5). A shape covers the pixels whose centres lie in it. Masks are bool
arrays (H, W), and shapes of images are (H, W).
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Piece:
    """A mask of a part of an image, such as a connected component in its bounding box."""

    top: int
    left: int
    mask: Mask

    @property
    def window(self) -> tuple[slice, slice]:
        """The part of the image that the mask lies on."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def fill_polygon(points: Points, shape: tuple[int, int]) -> Mask:
    """The pixels in a polygon (N, 2) of x, y, by the even-odd rule; it need not lie in the image.

    A centre on an edge is inside on the polygon's left and top, and outside on its right and bottom, so that polygons
    which share an edge never share a pixel.
    """
    height, width = shape
    after = np.roll(points, -1, axis=0)
    # From top to bottom, so that an edge crosses rows at the same places whichever way it runs.
    downward = (points[:, 1] <= after[:, 1])[:, None]
    (x, y), (end_x, end_y) = np.where(downward, points, after).T, np.where(downward, after, points).T

    first_row, end_row = (np.clip(np.ceil(edge - 0.5), 0, height).astype(np.int64) for edge in (y, end_y))
    rows_crossed = end_row - first_row
    edge = np.repeat(np.arange(len(points)), rows_crossed)
    row = first_row[edge] + np.arange(edge.size) - np.repeat(np.cumsum(rows_crossed) - rows_crossed, rows_crossed)
    crossing = x[edge] + (row + 0.5 - y[edge]) * (end_x - x)[edge] / (end_y - y)[edge]
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)

    mask = np.zeros(shape, bool)
    if row.size:
        top, left = row.min(), column.min()
        toggles = np.zeros((row.max() - top + 1, column.max() - left + 1), bool)
        np.logical_xor.at(toggles, (row - top, column - left), True)
        mask[top : row.max() + 1, left : column.max()] = np.logical_xor.accumulate(toggles, axis=1)[:, :-1]
    return mask


def fill_ellipse(
    centre: tuple[float, float], radii: tuple[float, float], rotation: float, shape: tuple[int, int]
) -> Mask:
    """The pixels in an ellipse: centre x, y; radii along x, y; turned clockwise about its centre in degrees."""
    mask = np.zeros(shape, bool)
    reach = max(radii)
    if min(radii) <= 0:
        return mask
    top, left = (max(0, math.floor(middle - reach)) for middle in reversed(centre))
    bottom, right = (max(0, math.ceil(middle + reach)) for middle in reversed(centre))
    window = mask[top:bottom, left:right]
    dy, dx = np.ogrid[top : top + window.shape[0], left : left + window.shape[1]]
    dx, dy = dx + 0.5 - centre[0], dy + 0.5 - centre[1]
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    window[:] = ((dx * cos + dy * sin) / radii[0]) ** 2 + ((dy * cos - dx * sin) / radii[1]) ** 2 <= 1
    return mask


def rectangle(x: float, y: float, width: float, height: float, rotation: float = 0.0) -> Points:
    """The corners (4, 2) of a rectangle that was turned clockwise about its top left corner, in degrees."""
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64)
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    turned: Points = corners @ np.array([(cos, sin), (-sin, cos)]) + (x, y)
    return turned


def outline(piece: Piece) -> Points:
    """A polygon (N, 2) that covers exactly a connected piece and its holes.

    It runs a quarter of a pixel inside the piece's border: each pixel is cut into four, and the contour (Suzuki and Abe
    1985, as in cv2.findContours) goes through the centres of the outermost quarters.
    """
    quarters = cv2.resize(piece.mask.view(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(quarters, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return (contours[0].reshape(-1, 2) + 0.5) / 2 + (piece.left, piece.top)


def simplify(points: Points, tolerance: float, budget: int) -> Points:
    """A polygon (M, 2) that strays at most ``tolerance`` pixels from ``points`` (Douglas and Peucker 1973).

    The tolerance grows until ``budget`` (4 or more) points suffice. What is thinner than the tolerance, and would
    collapse into a line, becomes its rotated bounding box. No point leaves the bounding box of ``points``.
    """
    exact = points.astype(np.float32)
    simple = exact if tolerance == 0 else cv2.approxPolyDP(exact, tolerance, closed=True)
    while len(simple) > budget:
        tolerance = max(1.5 * tolerance, 0.25)
        simple = cv2.approxPolyDP(exact, tolerance, closed=True)
    if len(simple) < 3:
        simple = np.clip(cv2.boxPoints(cv2.minAreaRect(exact)), exact.min(axis=0), exact.max(axis=0))
    return simple.reshape(-1, 2).astype(np.float64)

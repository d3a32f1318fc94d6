import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from underpaint.labelstudio.geometry import Piece, fill_ellipse, fill_polygon, outline, rectangle, simplify

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=16))
coordinates = st.integers(-12, 60).map(lambda quarter: quarter / 4) | st.floats(-3, 15)
polygons = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=9).map(lambda points: np.array(points))


def pieces(mask: NDArray[np.bool_]) -> list[Piece]:
    """The 8-connected pieces of a mask."""
    count, numbers = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return [Piece(0, 0, numbers == number) for number in range(1, count)]


def without_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """All but the background that is 4-connected with the border."""
    _, background = cv2.connectedComponents(np.pad(~mask, 1, constant_values=True).astype(np.uint8), connectivity=4)
    filled: NDArray[np.bool_] = (background != background[0, 0])[1:-1, 1:-1]
    return filled


def is_inside(x: float, y: float, polygon: list[tuple[float, float]]) -> bool:
    """Even-odd rule, by counting the edges to the left of a point (Franklin's PNPOLY)."""
    inside = False
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if (y0 > y) != (y1 > y):
            (x0, y0), (x1, y1) = sorted([(x0, y0), (x1, y1)], key=lambda point: point[1])
            inside ^= x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x
    return inside


@settings(deadline=None)
@given(polygons)
def test_a_pixel_is_filled_iff_its_centre_is_inside(points: NDArray[np.float64]) -> None:
    corners = [(float(x), float(y)) for x, y in points]
    expected = [[is_inside(column + 0.5, row + 0.5, corners) for column in range(12)] for row in range(9)]
    assert fill_polygon(points, (9, 12)).tolist() == expected


@settings(deadline=None)
@given(polygons, coordinates, coordinates)
def test_shared_edges_leave_neither_gap_nor_overlap(points: NDArray[np.float64], x: float, y: float) -> None:
    apex = np.array([(x, y)])
    fan = [fill_polygon(np.vstack([apex, points[[i - 1, i]]]), (12, 12)) for i in range(len(points))]
    assert np.array_equal(np.logical_xor.reduce(fan), fill_polygon(points, (12, 12)))


def test_edges_through_centres_belong_to_one_side() -> None:
    mask = fill_polygon(rectangle(1.5, 1.5, 2, 2), (5, 5))
    assert np.argwhere(mask).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_rectangles_turn_clockwise_about_their_top_left_corner() -> None:
    assert rectangle(4, 1, 3, 2, 90).round(9).tolist() == [[4, 1], [4, 4], [2, 4], [2, 1]]
    assert np.array_equal(fill_polygon(rectangle(4, 1, 3, 2, 90), (6, 6)), fill_polygon(rectangle(2, 1, 2, 3), (6, 6)))


def test_ellipses_turn_clockwise_about_their_centre() -> None:
    rows, columns = np.mgrid[:30, :40] + 0.5
    assert np.array_equal(
        fill_ellipse((20, 15), (12, 5), 0, (30, 40)), ((columns - 20) / 12) ** 2 + ((rows - 15) / 5) ** 2 <= 1
    )
    assert np.array_equal(fill_ellipse((20, 15), (12, 5), 90, (30, 40)), fill_ellipse((20, 15), (5, 12), 0, (30, 40)))
    falling = fill_ellipse((20, 15), (14, 2), 45, (30, 40))
    assert falling[20, 25]
    assert not falling[9, 25]


@pytest.mark.parametrize("centre", [(-3.0, 4.0), (4.0, -3.0), (13.0, 4.0), (4.0, 13.0), (-99.0, -99.0), (99.0, 99.0)])
def test_ellipses_may_leave_the_image(centre: tuple[float, float]) -> None:
    rows, columns = np.mgrid[:10, :10] + 0.5
    inside = (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 <= 25
    assert np.array_equal(fill_ellipse(centre, (5, 5), 30, (10, 10)), inside)


def test_a_flat_ellipse_covers_nothing() -> None:
    assert not fill_ellipse((5, 5), (5, 0), 0, (10, 10)).any()


@settings(deadline=None)
@given(masks)
def test_an_outline_covers_exactly_its_piece_without_holes(mask: NDArray[np.bool_]) -> None:
    height, width = mask.shape
    for piece in pieces(mask):
        assert np.array_equal(fill_polygon(outline(piece), (height, width)), without_holes(piece.mask))


@settings(deadline=None)
@given(masks, st.floats(0, 20), st.integers(4, 12))
def test_simplified_outlines_keep_to_their_budget_and_box(
    mask: NDArray[np.bool_], tolerance: float, budget: int
) -> None:
    for piece in pieces(mask):
        exact = outline(piece)
        simple = simplify(exact, tolerance, budget)
        assert 3 <= len(simple) <= budget
        assert (simple >= exact.min(axis=0)).all()
        assert (simple <= exact.max(axis=0)).all()


def test_simplifying_stays_within_the_tolerance() -> None:
    disc = fill_ellipse((50, 50), (40, 40), 0, (100, 100))
    exact = outline(pieces(disc)[0])
    simple = simplify(exact, 1.0, 200)
    assert len(simple) < len(exact) / 4
    contour = simple.astype(np.float32)
    assert max(abs(cv2.pointPolygonTest(contour, (float(x), float(y)), True)) for x, y in exact) <= 1.0


def test_a_line_thinner_than_the_tolerance_keeps_its_pixels() -> None:
    mast = Piece(2, 3, np.ones((20, 1), bool))
    points = simplify(outline(mast), 2.0, 200)
    assert np.argwhere(fill_polygon(points, (30, 30))).tolist() == [[row, 3] for row in range(2, 22)]

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from underpaint.labelstudio.components import NO_LABEL, Components

ALIKE = np.arange(256).astype(np.uint8)  # every class is its own label

class_maps = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=16),
    elements=st.sampled_from([0, 1, 2, NO_LABEL]),
)


def draw(components: Components, component: int) -> NDArray[np.bool_]:
    mask = np.zeros(components.shape, bool)
    piece = components.piece(component)
    mask[piece.window] = piece.mask
    return mask


@settings(deadline=None)
@given(class_maps, st.integers(0, 2**32 - 1), st.sampled_from([(0, 1, 2), (0, 0, 1), (1, NO_LABEL, 1)]))
def test_components_are_those_of_each_labels_mask(
    class_map: NDArray[np.uint8], seed: int, labels: tuple[int, int, int]
) -> None:
    confidence = np.random.default_rng(seed).integers(0, 256, class_map.shape, np.uint8)
    label_of = np.full(256, NO_LABEL, np.uint8)
    label_of[:3] = labels
    components = Components.find(class_map, confidence, label_of)
    found = {(int(label), draw(components, one).tobytes()) for one, label in enumerate(components.labels)}
    expected = set()
    for label in {*labels} - {NO_LABEL}:
        mask = label_of[class_map] == label
        count, numbers = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        expected |= {(label, (numbers == number).tobytes()) for number in range(1, count)}
    assert found == expected
    assert len(components.labels) == len(expected)
    for one in range(len(components.labels)):
        mask = draw(components, one)
        assert components.areas[one] == np.count_nonzero(mask)
        assert components.sums[one] == confidence[mask].sum()
        edges = components.edges(np.array([one]))
        assert edges.tolist() == np.flatnonzero(np.diff(mask.ravel(), prepend=False, append=False)).tolist()
    firsts = [np.flatnonzero(draw(components, one))[0] for one in range(len(components.labels))]
    assert firsts == sorted(firsts)
    for class_id in (0, 1, 2, NO_LABEL):
        assert components.class_areas[class_id] == np.count_nonzero(class_map == class_id)
        assert components.class_sums[class_id] == confidence[class_map == class_id].sum()


def test_what_winds_up_and_down_is_one() -> None:
    spiral = np.array(
        [
            [1, 1, 1, 1, 1, 1, 1],
            [1, 0, 0, 0, 0, 0, 1],
            [1, 0, 1, 1, 1, 0, 1],
            [1, 0, 1, 0, 1, 0, 1],
            [1, 0, 1, 0, 0, 0, 1],
            [1, 0, 1, 1, 1, 1, 1],
        ],
        np.uint8,
    )
    confidence = np.ones_like(spiral)
    components = Components.find(spiral, confidence, ALIKE)
    assert components.labels.tolist() == [1, 0]
    assert components.boxes.tolist() == [[0, 0, 6, 7], [1, 1, 6, 6]]
    assert components.areas.tolist() == [np.count_nonzero(spiral), np.count_nonzero(spiral == 0)]


def test_rows_do_not_touch_around_the_border() -> None:
    class_map = np.full((2, 5), NO_LABEL, np.uint8)
    class_map[0, 4] = class_map[1, 0] = 0
    components = Components.find(class_map, np.ones_like(class_map), ALIKE)
    assert components.boxes.tolist() == [[0, 4, 1, 5], [1, 0, 2, 1]]
    assert components.edges(np.array([0, 1])).tolist() == [4, 6]

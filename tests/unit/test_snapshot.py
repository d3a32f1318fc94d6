"""A painting's digest; what a snapshot takes from a real Label Studio is tested end to end."""

import numpy as np

from underpaint_workers.snapshot import _digest, _sentences

MAP = np.array([[0, 0, 255], [1, 1, 1]], np.uint8)


def test_a_painting_is_the_same_whatever_else_the_label_config_has() -> None:
    digest = _digest(b"file", MAP, ["Sky", "Water"])
    other_ids = np.array([2, 1, *range(2, 255), 255], np.uint8)[MAP]
    assert _digest(b"file", other_ids, ["Boat", "Water", "Sky"]) == digest
    others = [
        _digest(b"another", MAP, ["Sky", "Water"]),
        _digest(b"file", MAP, ["Heaven", "Water"]),
        _digest(b"file", MAP, ["Water", "Sky"]),
        _digest(b"file", MAP[:, ::-1], ["Sky", "Water"]),
    ]
    assert len({digest, *others}) == 5


def test_what_many_tasks_have_is_said_once() -> None:
    problems = [(None, "task 7: gone"), (3, "odd"), *((task, "'Sky' is no label") for task in range(1, 14))]
    several = "tasks 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more: 'Sky' is no label"
    assert _sentences(problems) == ["task 7: gone", "task 3: odd", several]

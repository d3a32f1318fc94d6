import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underpaint.taxonomy import COLOURS, LANDSCAPE, UNLABELLED, canonical, colour_for


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Sky", "sky"),
        ("Trees", "tree"),
        ("  GRASSES ", "grass"),
        ("bodies_of-water", "water"),
        ("Churches", "building"),
        ("people", "person"),
        ("Sailing_Boats", "boat"),
        ("bushes", "tree"),
        ("skies", "sky"),
        ("Glass", "glass"),
        ("Houses", "building"),
        ("Prizes", "prize"),
        ("Buses", "bus"),
        ("Causes", "cause"),
        ("Gilded Frames", "gilded frame"),
        ("", ""),
    ],
)
def test_canonical_drops_spelling_and_resolves_synonyms(name: str, expected: str) -> None:
    assert canonical(name) == expected


@pytest.mark.parametrize("name", LANDSCAPE)
def test_landscape_classes_are_canonical(name: str) -> None:
    assert canonical(name) == name


@settings(deadline=None)
@given(st.text(alphabet="aceghiosuxyzſßÉİΣ _-\t\u0345\u2003"))
def test_canonical_is_idempotent(name: str) -> None:
    assert canonical(canonical(name)) == canonical(name)


def test_each_landscape_class_has_a_colour_of_its_own() -> None:
    assert tuple(COLOURS) == LANDSCAPE
    assert len({colour_for(name) for name in LANDSCAPE}) == len(LANDSCAPE) < UNLABELLED
    assert colour_for("Skies") == (0x8E, 0xCA, 0xE6)


def test_unknown_classes_keep_their_colour() -> None:
    assert colour_for("gilded frame") == colour_for("Gilded Frames") == (76, 217, 76)
    assert colour_for("gilded frame") != colour_for("lantern")

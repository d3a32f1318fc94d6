"""Which of a checkpoint's classes are which labels, and what those start from, whatever became of the label config."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from underpaint.labelstudio.class_mapping import ClassMapping
from underpaint.labelstudio.label_config import Label

Sources = dict[str, set[str]]


def predicted(mapping: ClassMapping) -> Sources:
    return {
        label.value: {mapping.classes[class_id] for class_id in own}
        for label, own in zip(mapping.labels, mapping.class_ids, strict=True)
    }


def started(mapping: ClassMapping) -> Sources:
    return {
        label.value: {mapping.classes[class_id] for class_id in ids}
        for label, ids in zip(mapping.labels, mapping.sources, strict=True)
    }


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        pytest.param(["Sky", "Sea"], ["Sea", "Sky"], {"Sky": {"Sky"}, "Sea": {"Sea"}}, id="the same"),
        pytest.param(["sky", "Boat"], ["sky", "sea"], {"sky": {"sky"}, "Boat": set()}, id="removed and added"),
        pytest.param(
            [Label("Heaven", ("sky", "fog"))], ["sky", "fog", "sea"], {"Heaven": {"sky", "fog"}}, id="asked for"
        ),
        pytest.param([Label("Heaven", ("sky",))], ["Heaven", "Sea"], {"Heaven": {"Heaven"}}, id="learned since"),
        pytest.param(["Sky", Label("Mist", ("sky",))], ["Sky", "Mist"], {"Sky": {"Sky"}, "Mist": {"Mist"}}, id="both"),
        pytest.param([Label("Heaven", ("Sky",))], ["Sky", "Heaven"], {"Heaven": {"Sky", "Heaven"}}, id="merged"),
        pytest.param(
            [Label("s", shown="Sky"), "Sea"], ["Sky", "Sea"], {"s": {"Sky"}, "Sea": {"Sea"}}, id="alias added"
        ),
        pytest.param(["Water"], ["sea", "lake"], {"Water": {"sea", "lake"}}, id="two that are alike"),
    ],
)
def test_what_is_predicted_as_a_label_is_what_it_starts_from(
    labels: list[Label | str], classes: list[str], expected: Sources
) -> None:
    mapping = ClassMapping.of(labels, classes)
    assert predicted(mapping) == started(mapping) == expected
    assert mapping.new_labels == tuple(label for label, own in expected.items() if not own)
    assert set(mapping.unused_classes) == set(classes).difference(*expected.values())


def test_a_label_that_stays_starts_from_its_own_class_when_one_alike_is_removed() -> None:
    mapping = ClassMapping.of(["Water"], ["River", "Water"])
    assert predicted(mapping) == {"Water": {"River", "Water"}}
    assert started(mapping) == {"Water": {"Water"}}


@pytest.mark.parametrize("sea", ["Sea", Label("Sea", ("lake",)), Label("Sea", ("boat",))])
def test_a_new_label_starts_from_the_class_of_another(sea: Label | str) -> None:
    mapping = ClassMapping.of(["lake", sea], ["lake", "sky"])
    assert mapping.new_labels == ("Sea",)
    assert started(mapping) == {"lake": {"lake"}, "Sea": {"lake"}}
    assert mapping.unused_classes == ("sky",)


def test_predicted_values_win_over_spelling_and_nothing_else_counts_then() -> None:
    mapping = ClassMapping.of(["Sky", Label("Backdrop", ("sky", "hills"))], ["sky", "rock", "backdrop"])
    assert predicted(mapping) == {"Sky": set(), "Backdrop": {"sky", "rock"}}


def test_class_maps_are_read_as_labels() -> None:
    mapping = ClassMapping.of(["Sea", Label("Heaven", ("sky", "fog"))], ["fog", "boat", "sea", "sky"])
    assert mapping.label_ids[:4].tolist() == [1, 2, 0, 1]
    assert (mapping.label_ids[4:] == 2).all()
    assert mapping.label_ids.dtype == np.uint8


def test_the_fingerprint_tells_what_makes_a_difference_for_the_checkpoint() -> None:
    def fingerprint(*predicted_values: str) -> str:
        return ClassMapping.of([Label("Heaven", predicted_values), "Sea"], ["sky", "sea"]).fingerprint

    assert fingerprint("sky") == fingerprint("sky", "nebula") != fingerprint()


names = st.sampled_from(["sky", "Sky", "cloud", "water", "Sea", "lake", "boat"])
labels = st.builds(Label, names, st.lists(names, max_size=2).map(tuple))


@given(st.lists(labels, unique_by=lambda label: label.value), st.lists(names, unique=True))
def test_a_project_knows_its_own_checkpoints_again(labels: list[Label], more: list[str]) -> None:
    values = [label.value for label in labels]
    own = ClassMapping.of(labels, values)
    assert own.owners == tuple(range(len(labels)))
    assert all(index in sources for index, sources in enumerate(own.sources))
    other = ClassMapping.of(labels, more)
    assert all(owner == values.index(name) for name, owner in zip(more, other.owners, strict=True) if name in values)
    assert all(set(own) <= set(range(len(more))) for own in other.sources)
    assert all(sources for own, sources in zip(other.class_ids, other.sources, strict=True) if own)

from underpaint.labelstudio.label_config import LabelConfig, parse
from underpaint.labelstudio.label_space import LabelSpace
from underpaint.taxonomy import LANDSCAPE


def config(**controls: str) -> LabelConfig:
    """A label config with the given labels in each control tag."""
    tags = (f'<{tag} name="{tag}" toName="image">{labels}</{tag}>' for tag, labels in controls.items())
    return parse(f'<View><Image name="image" value="$image"/>{"".join(tags)}</View>')


def mapping(labels: str, classes: tuple[str, ...]) -> dict[str, set[str]]:
    """Label values to the names of the classes that map to them."""
    space = LabelSpace.match(config(BrushLabels=labels), classes)
    return {target.label.value: {classes[class_id] for class_id in target.class_ids} for target in space.targets}


def test_names_match_through_case_plural_and_synonym() -> None:
    labels = '<Label value="Sky"/><Label value="Trees"/><Label value="Sea"/><Label value="Lantern"/>'
    assert mapping(labels, LANDSCAPE) == {"Sky": {"sky"}, "Trees": {"tree"}, "Sea": {"water"}}


def test_several_classes_unite_in_one_label() -> None:
    assert mapping('<Label value="Water"/>', ("sea", "lake", "sky")) == {"Water": {"sea", "lake"}}


def test_a_class_goes_to_the_label_spelled_most_alike() -> None:
    labels = '<Label value="sea"/><Label value="River"/><Label value="river"/>'
    assert mapping(labels, ("river", "sea", "lake")) == {"river": {"river"}, "sea": {"sea", "lake"}}


def test_predicted_values_win_and_exclude_everything_else() -> None:
    labels = '<Label value="Sky"/><Label value="Backdrop" predicted_values="sky, hills"/>'
    assert mapping(labels, ("sky", "rock", "backdrop")) == {"Backdrop": {"sky", "rock"}}


def test_what_a_project_learned_is_predicted_whatever_its_predicted_values_say() -> None:
    labels = '<Label value="Sky"/><Label value="Backdrop" predicted_values="sky, hills"/>'
    assert mapping(labels, ("Sky", "Backdrop")) == {"Sky": {"Sky"}, "Backdrop": {"Backdrop"}}


def test_predicted_values_take_the_class_of_that_very_name_before_its_synonyms() -> None:
    labels = '<Label value="Salt" predicted_values="sea"/><Label value="Fresh" predicted_values="river,lake"/>'
    assert mapping(labels, ("river", "sea", "lake", "pond")) == {"Salt": {"sea"}, "Fresh": {"river", "lake"}}


def test_each_control_has_its_own_mapping() -> None:
    project = config(
        BrushLabels='<Label value="sky"/><Label value="boat"/>',
        RectangleLabels='<Label value="Boats"/>',
        EllipseLabels='<Label value="Sun"/>',
    )
    space = LabelSpace.match(project, LANDSCAPE)
    assert [(target.control.type, target.label.value, set(target.class_ids)) for target in space.targets] == [
        ("BrushLabels", "sky", {0}),
        ("BrushLabels", "boat", {7}),
        ("RectangleLabels", "Boats", {7}),
    ]
    assert space.unmatched_labels == ()
    assert not space.empty
    assert space.explain() == "Every label can be predicted."


def test_explains_what_cannot_be_predicted() -> None:
    project = config(BrushLabels='<Label value="Sky"/><Label value="Lantern"/>')
    explanation = LabelSpace.match(project, ("sky", "water")).explain()
    assert "Lantern" in explanation
    assert 'predicted_values="' in explanation
    assert "sky, water" in explanation
    assert LabelSpace.match(project, ()).empty
    assert LabelSpace.match(project, ()).unmatched_labels == ("Sky", "Lantern")

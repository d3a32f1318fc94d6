"""A project's label space: its labels, and how a checkpoint's classes map to them."""

from collections.abc import Sequence
from dataclasses import dataclass

from underpaint.labelstudio.label_config import Control, Label, LabelConfig
from underpaint.taxonomy import SPELLINGS


@dataclass(frozen=True)
class Target:
    """A label that can be predicted: the union of some of a checkpoint's classes."""

    control: Control
    label: Label
    class_ids: frozenset[int]
    """Ids in the checkpoint's class maps; never empty, and disjoint from those of the control's other labels."""


@dataclass(frozen=True)
class LabelSpace:
    """What a checkpoint can predict in a project."""

    config: LabelConfig
    classes: tuple[str, ...]
    """The checkpoint's class names; ids of its class maps are indices into it."""
    targets: tuple[Target, ...]

    @classmethod
    def match(cls, config: LabelConfig, classes: Sequence[str]) -> "LabelSpace":
        """Maps a checkpoint's classes to a project's labels, for each control that is predicted.

        A label with ``predicted_values`` gets the classes named there and no others; any other label gets the classes
        named like it. A class goes to at most one label of a control: to one that asks for it in ``predicted_values``
        first, then to the one whose name is spelled most alike (same, same but for case, same canonical name), then to
        the one that comes first.
        """
        targets = tuple(
            Target(control, label, class_ids)
            for control in config.controls
            if control.predicted
            for label, class_ids in zip(control.labels, _assign(control.labels, classes), strict=True)
            if class_ids
        )
        return cls(config, tuple(classes), targets)

    @property
    def empty(self) -> bool:
        """Whether nothing can be predicted."""
        return not self.targets

    @property
    def unmatched_labels(self) -> tuple[str, ...]:
        """Values of labels that some control should predict but can't."""
        matched = {(target.control.name, target.label.value) for target in self.targets}
        wanted = ((control, label) for control in self.config.controls if control.predicted for label in control.labels)
        return tuple(
            dict.fromkeys(label.value for control, label in wanted if (control.name, label.value) not in matched)
        )

    def explain(self) -> str:
        """Tells an administrator which labels can't be predicted, and how to map classes to them."""
        if not self.unmatched_labels:
            return "Every label can be predicted."
        return (
            f"Labels that can't be predicted, for no class of the model matches: {', '.join(self.unmatched_labels)}. "
            f"The model's classes: {', '.join(self.classes) or 'none'}. To map some to a label, name them on its tag: "
            f'<Label value="{self.unmatched_labels[0]}" predicted_values="…, …"/>.'
        )


def _assign(labels: Sequence[Label], classes: Sequence[str]) -> list[frozenset[int]]:
    """For each label, the ids of the classes that map to it."""
    ids_by_spelling: list[dict[str, list[int]]] = []
    for spelling in SPELLINGS:
        ids: dict[str, list[int]] = {}
        for class_id, name in enumerate(classes):
            ids.setdefault(spelling(name), []).append(class_id)
        ids_by_spelling.append(ids)

    claims: dict[int, list[tuple[bool, int, int]]] = {}
    for index, label in enumerate(labels):
        for name in label.predicted_values or (label.value,):
            for looseness, (spelling, ids) in enumerate(zip(SPELLINGS, ids_by_spelling, strict=True)):
                hits = ids.get(spelling(name), [])
                for class_id in hits:
                    claims.setdefault(class_id, []).append((not label.predicted_values, looseness, index))
                # "sea" in predicted_values means the class "sea" alone where there is one, and not "lake" too.
                if hits and label.predicted_values:
                    break
    winners = {class_id: min(claimed)[-1] for class_id, claimed in claims.items()}
    return [frozenset(i for i, winner in winners.items() if winner == index) for index in range(len(labels))]

"""A project's label space: its labels, and how a checkpoint's classes map to them."""

from collections.abc import Sequence
from dataclasses import dataclass

from underpaint.labelstudio.class_mapping import ClassMapping
from underpaint.labelstudio.label_config import Control, Label, LabelConfig


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
        """Maps a checkpoint's classes to a project's labels, for each control that is predicted."""
        targets = tuple(
            Target(control, label, class_ids)
            for control in config.controls
            if control.predicted
            for label, class_ids in zip(control.labels, ClassMapping.of(control.labels, classes).class_ids, strict=True)
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

"""How a checkpoint's classes map to the labels of a project."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from underpaint.labelstudio.label_config import Label
from underpaint.taxonomy import SPELLINGS


class _Claim(IntEnum):
    """Why a class may be a label's, the best reason first."""

    OWN = 0
    """It has exactly the label's value, which is how a project's checkpoints name it, or else what people see of it."""
    ASKED = 1
    """The label's ``predicted_values`` name it."""
    ALIKE = 2
    """It is spelled like the label, which has no ``predicted_values``."""
    START = 3
    """It is spelled like the label, which has some: not enough to be predicted as it."""


@dataclass(frozen=True)
class ClassMapping:
    """How a checkpoint's classes map to labels: the same whether it serves, is a parent, or is held against another.

    A class goes to at most one label: to the one of exactly its name, be that the alias or what people see; then to one
    that asks for it in its ``predicted_values``; then to one without ``predicted_values`` that is spelled most alike
    (same but for case, same canonical name). Of equals, the label that comes first has it.
    """

    labels: tuple[Label, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, labels: Sequence[Label | str], classes: Sequence[str]) -> "ClassMapping":
        """For a checkpoint of ``classes``; labels that are mere names have no ``predicted_values``."""
        return cls(tuple(Label(each) if isinstance(each, str) else each for each in labels), tuple(classes))

    @cached_property
    def owners(self) -> tuple[int | None, ...]:
        """For each class, the position of the label that it is predicted as, or None."""
        owners: list[int | None] = []
        for class_id in range(len(self.classes)):
            claimed = [(claims[class_id], index) for index, claims in enumerate(self._claims) if class_id in claims]
            (claim, _), owner = min(claimed, default=((_Claim.START, 0), None))
            owners.append(None if claim == _Claim.START else owner)
        return tuple(owners)

    @cached_property
    def class_ids(self) -> tuple[frozenset[int], ...]:
        """For each label, the ids of the classes that are predicted as it."""
        return tuple(
            frozenset(class_id for class_id, owner in enumerate(self.owners) if owner == index)
            for index in range(len(self.labels))
        )

    @cached_property
    def sources(self) -> tuple[tuple[int, ...], ...]:
        """For each label, the ids of the classes whose weights it can start from; none for one unlike all of them.

        Those are the classes that are predicted as it and have its name or are asked for, else those spelled most
        alike. Where none is predicted as it, they may be another label's: a start need not be one's own.
        """
        return tuple(
            _best({class_id: claim for class_id, claim in claims.items() if class_id in own} or claims)
            for own, claims in zip(self.class_ids, self._claims, strict=True)
        )

    @property
    def label_ids(self) -> NDArray[np.uint8]:
        """(256,): for each id of the checkpoint's class maps, its label's position; ``len(labels)`` where none is."""
        ids = np.full(256, len(self.labels), np.uint8)
        for class_id, owner in enumerate(self.owners):
            if owner is not None:
                ids[class_id] = owner
        return ids

    @property
    def new_labels(self) -> tuple[str, ...]:
        """Values of the labels that no class is predicted as."""
        return tuple(label.value for label, own in zip(self.labels, self.class_ids, strict=True) if not own)

    @property
    def unused_classes(self) -> tuple[str, ...]:
        """The classes that are predicted as no label."""
        return tuple(name for name, owner in zip(self.classes, self.owners, strict=True) if owner is None)

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change with which classes are which label, or start it; not with the labels' order."""
        uses = zip(self.labels, self.class_ids, self.sources, strict=True)
        facts = self.classes, sorted((label.value, sorted(own), start) for label, own, start in uses)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]

    @cached_property
    def _claims(self) -> tuple[dict[int, tuple[_Claim, int]], ...]:
        """For each label, by id, the classes that may be its: the reason, and how loosely it is spelled (0–2)."""
        return tuple(_claims(label, self.classes) for label in self.labels)


def _claims(label: Label, classes: Sequence[str]) -> dict[int, tuple[_Claim, int]]:
    found: dict[int, tuple[_Claim, int]] = {}

    def claim(name: str, reason: _Claim, *, strictest: bool) -> None:
        for looseness, spelling in enumerate(SPELLINGS):
            hits = [class_id for class_id, other in enumerate(classes) if spelling(other) == spelling(name)]
            for class_id in hits:
                found[class_id] = min((reason, looseness), found.get(class_id, (reason, looseness)))
            if hits and strictest:
                break

    for name in label.predicted_values:
        # "sea" there means the class "sea" alone where there is one, and not "lake" too.
        claim(name, _Claim.ASKED, strictest=True)
    names = [label.value, label.shown] if label.shown else [label.value]
    for place, name in enumerate(names):
        claim(name, _Claim.START if label.predicted_values else _Claim.ALIKE, strictest=False)
        if name in classes:
            class_id = classes.index(name)
            found[class_id] = min((_Claim.OWN, place), found[class_id])
    return found


def _best(claims: Mapping[int, tuple[_Claim, int]]) -> tuple[int, ...]:
    """Ids of the classes with a good claim, else of those with the best."""
    named = {class_id for class_id, (reason, _) in claims.items() if reason <= _Claim.ASKED}
    best = min(claims.values(), default=None)
    return tuple(sorted(named or (class_id for class_id, claim in claims.items() if claim == best)))

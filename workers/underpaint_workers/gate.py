"""Whether a challenger becomes champion."""

from dataclasses import dataclass

from underpaint_workers.evaluation import Metrics

ENOUGH_PAINTINGS = 5
"""Validation paintings from which on their verdict is taken at its word."""
MARGIN = 0.05
"""Fall of mIoU that fewer paintings than that may show by chance."""


@dataclass(frozen=True)
class Decision:
    """Whether to promote, and why, as a sentence for people."""

    promote: bool
    reason: str


def decide(serving: Metrics | None, challenger: Metrics | None, *, new_classes: bool) -> Decision:
    """Decide from what both scored on the same validation paintings.

    `challenger` is None where there are no validation paintings, `serving` also where nothing serves the project yet:
    what serves it is its champion or, before the first one, the base. `new_classes` says that the project has classes
    which that cannot name.
    """
    if challenger is None or challenger.paintings == 0:
        return Decision(True, "Promoted untested: there are no validation paintings yet.")
    scored = f"mIoU {challenger.miou:.3f} on {_paintings(challenger.paintings)}"
    if serving is None:
        return Decision(True, f"Promoted as the first champion, with {scored}.")
    against = f"{scored}, where what serves now has {serving.miou:.3f}"
    if new_classes:
        return Decision(True, f"Promoted because what serves now lacks some of the project's classes: {against}.")
    if challenger.paintings < ENOUGH_PAINTINGS:
        promote = challenger.miou >= serving.miou - MARGIN
        rule = f"with fewer than {ENOUGH_PAINTINGS} validation paintings, a fall of up to {MARGIN} is let pass"
        return Decision(promote, f"{'Promoted' if promote else 'Not promoted'} with {against}; {rule}.")
    if challenger.miou >= serving.miou:
        return Decision(True, f"Promoted with {against}.")
    return Decision(False, f"Not promoted: {against}; that stays.")


def _paintings(count: int) -> str:
    return f"{count} validation painting{'' if count == 1 else 's'}"

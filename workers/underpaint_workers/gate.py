"""Whether a challenger becomes champion.

Both see the same frozen validation paintings. Paintings differ more among each other than two checkpoints do on one, so
the gain's interval is that of a paired bootstrap: paintings are drawn with replacement, and both mIoUs computed anew
from their confusion matrices. Where the interval lies above zero, the gain is credible.

That rule does not keep a project from learning: a challenger has seen every label there is, so a gain that is too
small to be told from chance grows from one retrain to the next until it can be. In a simulation of 40 retrains of a
growing project, what it served was 0.001 to 0.003 below the mIoU of a rule that promotes whatever is not worse, with
half as many swaps.

Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from underpaint_workers.evaluation import iou_of, metrics_of, miou_of, tallies_of

ENOUGH_PAINTINGS = 5
"""Validation paintings from which on their verdict is taken at its word."""
MARGIN = 0.05
"""Fall of mIoU that fewer paintings than that may show by chance."""
CLASS_MARGIN = 0.1
"""Fall of a class's IoU beyond which a challenger is refused, unless the settings say otherwise."""
ENOUGH_PIXELS = 0.01
"""Share (0–1) of the labelled validation pixels from which on a class's fall counts, if two paintings have it."""
CONFIDENCE = 0.8
"""Share (0–1) of the bootstrap's gains that the interval holds: nine draws in ten have to agree on a gain."""
DRAWS = 2000

Confusions = NDArray[np.int64]
"""(paintings, classes, classes + 1), each painting's as ``confusion_of`` counts it."""


@dataclass(frozen=True)
class Decision:
    """Whether to promote, and why, as a sentence for people."""

    promote: bool
    reason: str
    gain: float | None = None
    """mIoU of the challenger less that of what serves; None where only one was measured."""
    interval: tuple[float, float] | None = None
    """Where the gain lies by the bootstrap, with ``CONFIDENCE``; None with too few paintings to tell."""
    falls: dict[str, float] = field(default_factory=dict)
    """By how much the IoU of each class with enough pixels fell."""


def decide(
    serving: Confusions | None,
    challenger: Confusions | None,
    classes: Sequence[str],
    *,
    new_classes: Sequence[str] = (),
    class_margin: float = CLASS_MARGIN,
    seed: str = "",
) -> Decision:
    """Decide from what both did on the same validation paintings, in the same order.

    Both are (paintings, classes, classes + 1). `challenger` is None where there are no validation paintings, `serving`
    also where nothing serves the project yet: what serves it is its champion or, before the first one, the base.
    `new_classes` are those of the project that it cannot name. Equal input and `seed` decide alike.
    """
    if challenger is None or not len(challenger):
        return Decision(True, "Promoted untested: there are no validation paintings yet.")
    after = metrics_of(challenger.sum(axis=0), classes, len(challenger)).miou
    scored = f"mIoU {after:.3f} on {_paintings(len(challenger))}"
    if serving is None:
        return Decision(True, f"Promoted as the first champion, with {scored}.")
    before = metrics_of(serving.sum(axis=0), classes, len(serving)).miou
    gain = after - before
    against = f"{scored}, where what serves now has {before:.3f}"
    lacking = f"Promoted because what serves now cannot name {', '.join(new_classes)}: {against}"
    if len(challenger) < ENOUGH_PAINTINGS:
        if new_classes:
            return Decision(True, f"{lacking}.", gain)
        promote = gain >= -MARGIN
        rule = f"fewer than {ENOUGH_PAINTINGS} can't tell a gain from chance, so a fall of up to {MARGIN} passes"
        return Decision(promote, f"{'Promoted' if promote else 'Not promoted'} with {against}; {rule}.", gain)

    gains, class_gains = _bootstrap(serving, challenger, seed)
    interval = _interval(gains)
    falls = _falls(serving, challenger, classes)
    too_far = [
        name
        for name, fall in falls.items()
        # One painting alone can make a class fall far: the draws that leave it out have to agree.
        if fall > class_margin and _interval(class_gains[:, classes.index(name)])[1] < 0
    ]
    if too_far:
        lost = ", ".join(f"{name} falls by {falls[name]:.3f}" for name in too_far)
        reason = f"Not promoted: the IoU of {lost}, and {class_margin:g} is the most that passes; {against}."
    elif new_classes:
        reason = f"{lacking}."
    else:
        outcome, what = _verdict(gain, interval)
        spread = f"{CONFIDENCE:.0%} interval {interval[0]:+.3f} to {interval[1]:+.3f}"
        reason = f"{outcome}: {against}; {what} ({spread})."
    return Decision(reason.startswith("Promoted"), reason, gain, interval, falls)


def _verdict(gain: float, interval: tuple[float, float]) -> tuple[str, str]:
    if interval[0] > 0:
        return "Promoted", f"a credible gain of {gain:.3f}"
    if interval[1] < 0:
        return "Not promoted", f"a credible fall of {-gain:.3f}"
    if gain > 0:
        return "Not promoted", f"a gain of {gain:.3f} that may be chance"
    return "Not promoted", f"a fall of {-gain:.3f} that may be chance" if gain < 0 else "no gain"


def _bootstrap(
    serving: Confusions, challenger: Confusions, seed: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gains of mIoU (draws,) and of each class's IoU (draws, classes); NaN where a draw lacks the class."""
    paintings = len(serving)
    random = np.random.default_rng(list(seed.encode()))
    times = random.multinomial(paintings, np.full(paintings, 1 / paintings), DRAWS)  # that each painting is drawn
    before, after = (iou_of(np.tensordot(times, tallies_of(each), 1)) for each in (serving, challenger))
    return miou_of(after) - miou_of(before), after - before


def _falls(serving: Confusions, challenger: Confusions, classes: Sequence[str]) -> dict[str, float]:
    pixels = challenger.sum(axis=2)
    shares = pixels.sum(axis=0) / max(1, pixels.sum())
    enough = (shares >= ENOUGH_PIXELS) & ((pixels > 0).sum(axis=0) > 1)
    before, after = (iou_of(tallies_of(each.sum(axis=0))) for each in (serving, challenger))
    return {
        name: float(before[index] - after[index])
        for index, name in enumerate(classes)
        if enough[index] and after[index] < before[index]
    }


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.nanquantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _paintings(count: int) -> str:
    return f"{count} validation painting{'' if count == 1 else 's'}"

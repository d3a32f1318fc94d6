"""What a retrain came to."""

from dataclasses import dataclass

from underpaint.segmenter.segmenter import Segmenter
from underpaint_workers.curves import Curves
from underpaint_workers.dataset import Dataset
from underpaint_workers.evaluation import Examination
from underpaint_workers.gate import Decision
from underpaint_workers.snapshot import Snapshot


@dataclass(frozen=True)
class Outcome:
    """All that is known at its end, for those who look back on it."""

    taken: Snapshot
    data: Dataset
    """The snapshot's paintings."""
    champion: Segmenter | None
    """What served the project before: its champion, or the base."""
    challenger: Segmenter
    before: Examination | None
    """The champion on the validation paintings; None where there is none, or are none."""
    after: Examination | None
    """The challenger on the same."""
    decision: Decision
    curves: Curves

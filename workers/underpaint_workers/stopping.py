"""When a training run has learned what it can."""

from dataclasses import dataclass

from underpaint.checkpoints.checkpoint import Checkpoint


@dataclass
class EarlyStopping:
    """Looks at paintings that a run does not learn from: keeps its best state, and says when to stop.

    After Prechelt, "Early stopping – but when?", 1998.
    """

    patience: int
    """Looks without a gain after which there is none."""
    best: Checkpoint | None = None
    looks: int = 0
    last: float | None = None
    """mIoU (0–1) at the last look."""
    _highest: float = -1.0
    _since: int = 0

    def look(self, checkpoint: Checkpoint, miou: float) -> None:
        """Take note of a state of the run and what it scored (0–1)."""
        self.looks += 1
        self.last = miou
        self._since += 1
        if miou > self._highest:
            self.best, self._highest, self._since = checkpoint, miou, 0

    @property
    def hopeless(self) -> bool:
        """Whether to stop."""
        return self._since >= self.patience

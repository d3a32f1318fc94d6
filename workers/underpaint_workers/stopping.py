"""When a training run has learned what it can."""

from dataclasses import dataclass, field

from underpaint.checkpoints.checkpoint import Checkpoint


@dataclass
class EarlyStopping:
    """Looks at paintings that a run does not learn from: keeps its best state, and says when to stop.

    After Prechelt, "Early stopping – but when?", 1998.
    """

    patience: int
    """Looks without a gain after which there is none."""
    best: Checkpoint | None = None
    scores: list[float] = field(default_factory=list)
    """mIoU (0–1) at each look."""

    def look(self, checkpoint: Checkpoint, miou: float) -> None:
        """Take note of a state of the run and what it scored (0–1)."""
        if not self.scores or miou > max(self.scores):
            self.best = checkpoint
        self.scores.append(miou)

    @property
    def hopeless(self) -> bool:
        """Whether to stop."""
        if not self.scores:
            return False
        return len(self.scores) - 1 - self.scores.index(max(self.scores)) >= self.patience

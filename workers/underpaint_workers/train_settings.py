"""What one training run may do: what an admin set, and what was found to do best."""

from dataclasses import dataclass, field
from typing import Any, Literal

from underpaint.settings import Settings
from underpaint_workers.augmentation import SCALES
from underpaint_workers.strategies import Strategy

SCENES = 240
"""Painted scenes beside paintings of landscapes; to paint them takes a core some 40 seconds."""


@dataclass(frozen=True)
class TrainSettings:
    """What one training run may do."""

    strategy: Strategy | Literal["auto"] = "auto"
    """What learns; ``auto`` lets the labels decide (:func:`~underpaint_workers.strategies.choose`)."""
    epochs: int = 70
    """Passes over the paintings, where the time allows."""
    min_steps: int = 250
    """Fewest steps, so that a handful of paintings is learned from as well; more passes make them up."""
    minutes: float = 20.0
    """Longest time to train; the schedule fits itself to it."""
    stop_after: float = 1.0
    """Share (0–1) of the run after which it ends, its rate not yet at zero."""
    folds: int = 0
    """Parts of the paintings to leave out in turn, as :func:`~underpaint_workers.folds.train_by_folds` does."""
    patience: int = 5
    """Looks at the validation paintings without a gain, of ten in a run, after which it stops."""
    image_size: int = 288
    """Longer side, in pixels, at which the segmenter sees a painting."""
    crop_size: int = 256
    """Side of the crops it learns from, in pixels; no more than ``image_size`` is used."""
    batch_size: int = 4
    lr: float = 1e-3
    """Peak learning rate."""
    encoder_rate: float = 0.1
    """The encoder's learning rate relative to the others', for it comes trained."""
    rare: float = 0.5
    """Share (0–1) of crops that are drawn to hold a rare class."""
    class_weight: float = 0.5
    """Power of a class's share of pixels by which its pixels count less: 0 for all alike, 1 for all classes alike."""
    smoothing: float = 0.05
    """Label smoothing (0–1)."""
    lovasz: float = 0.5
    """Weight of the Lovász-softmax loss beside cross-entropy."""
    dice: float = 0.0
    """Weight of the Dice loss beside cross-entropy."""
    scenes: int = 0
    """Painted scenes to learn from beside the paintings, from ImageNet's weights."""
    seed: int = 0
    architecture: str = "Hypercolumn"
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the architecture, as segmentation-models-pytorch names them."""
    encoder: str = "tu-tf_efficientnet_lite0"
    device: str = "auto"
    threads: int | None = None
    """CPU threads; None leaves torch's choice."""
    processes: int = 0
    """Processes of :func:`~underpaint_workers.parallel.train_in_parallel`; 0 for as many as there are GPUs."""
    gpu_memory: float = 1.0
    """Share (0–1) of a GPU's memory that this process may take."""
    allow_noncommercial: bool = False

    @classmethod
    def of(cls, settings: Settings) -> "TrainSettings":
        """What the settings of this process say."""
        return cls(
            strategy=settings.train_strategy,
            epochs=settings.train_epochs,
            min_steps=settings.train_min_steps,
            minutes=settings.train_minutes,
            folds=settings.train_folds,
            image_size=settings.image_size,
            architecture=settings.architecture,
            encoder=settings.encoder,
            device=settings.device,
            processes=settings.train_processes,
            threads=settings.train_threads or None,
            gpu_memory=settings.train_gpu_memory,
            allow_noncommercial=settings.allow_noncommercial,
        )

    @property
    def largest_side(self) -> int:
        """Longer side of a painting, in pixels, beyond which nothing of it is ever seen."""
        return round(self.image_size * SCALES[1])

"""Painted scenes first, then the paintings (Bengio et al., "Curriculum learning", ICML 2009)."""

from collections.abc import Sequence
from dataclasses import dataclass

from underpaint_workers.dataset import Item
from underpaint_workers.scenes import paint_items
from underpaint_workers.train_settings import TrainSettings

_FIRST = 0.25  # share of a run in which all crops are of scenes
_MOST = 0.5  # scenes' share of the crops from then on, beside a handful of paintings
_HALF = 10  # paintings beside which it is half of that
_PASSES = 2  # over the paintings, of those that are enough for a parent that knows paintings
_PAINTING = 0.1  # share of the time to train that may go into painting


@dataclass(frozen=True)
class Curriculum:
    """Which share of a run's crops is of scenes, and when."""

    first: float = 0.0
    """Share (0–1) of the run in which all are."""
    beside: float = 0.0
    """Share (0–1) of the crops that are when the paintings have come, too."""
    passes: float = 1.0
    """Crops of the run after `first`, as a multiple of the settings' passes over the paintings."""

    @classmethod
    def beside_paintings(cls, count: int) -> "Curriculum":
        """With scenes beside so many paintings.

        Scenes show every class and are right to the pixel, above all in boats and figures, of which few paintings have
        many; but beside many paintings, nets that go on with scenes mistake real grounds and meadows.
        """
        return cls(_FIRST, _MOST / (1 + (count / _HALF) ** 2), _PASSES)

    def share(self, done: float) -> float:
        """Share (0–1) of the crops that are of scenes at `done` (0–1) of the run."""
        return 1.0 if done < self.first else self.beside

    def within_part(self, done: float) -> float:
        """How far (0–1) the part of the run is, scenes alone or all, that is under way at `done` (0–1) of the whole."""
        return done / self.first if done < self.first else (done - self.first) / (1 - self.first)


def paint_scenes(classes: Sequence[str], settings: TrainSettings) -> list[Item]:
    """The settings' scenes at the size that the net sees, or fewer where a tenth of the minutes is not enough.

    There are none where the `classes` are no landscape's.
    """
    if not settings.scenes:
        return []
    size = (settings.image_size * 3 // 4, settings.image_size)
    return paint_items(classes, settings.scenes, settings.seed, size, _PAINTING * 60 * settings.minutes)

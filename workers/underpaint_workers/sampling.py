"""Which crop of which painting comes next."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from underpaint_workers.augmentation import Augmentation

_LEAST_SHARE = 1e-3  # rarer classes are drawn as if they were this frequent: more would be of the same few pixels


class Sampler:
    """Draws varied crops, some of them so that they hold rare classes; equal by equal generators.

    With probability `rare`, a class is drawn by the inverse square root of its share of the labelled pixels, then a
    painting that has it, then one of its pixels there, which the crop contains. Else it is the next painting of a
    pass over all in random order.
    """

    def __init__(
        self,
        items: Sequence[tuple[Tensor, Tensor]],
        classes: int,
        augment: Augmentation,
        rare: float,
        generator: np.random.Generator,
    ) -> None:
        """Draw from images (C, H, W) and class maps uint8 (H, W), whose ids below `classes` are labels.

        Raises:
            ValueError: there are no items.
        """
        if not items:
            raise ValueError("There are no paintings to draw crops from: accept some labels first.")
        self._items, self._augment, self._rare, self._generator = items, augment, rare, generator
        counts = np.stack([np.bincount(ids.numpy().ravel(), minlength=256)[:classes] for _, ids in items])
        self._present = np.flatnonzero(counts.sum(axis=0))
        self._holders = {label: np.flatnonzero(counts[:, label]) for label in self._present}
        share = counts.sum(axis=0)[self._present] / max(counts.sum(), 1)
        weight = np.maximum(share, _LEAST_SHARE) ** -0.5
        self._chances = weight / weight.sum()
        self._pass: list[int] = []

    def draw(self) -> tuple[Tensor, Tensor]:
        """A varied crop: image (C, S, S) and class map uint8 (S, S)."""
        index, pixel = self._choose()
        return self._augment(*self._items[index], self._generator, pixel)

    def batch(self, size: int, others: "Sampler | None" = None, share: float = 0.0) -> tuple[Tensor, Tensor]:
        """Varied crops: images (size, C, S, S) and class maps uint8 (size, S, S).

        Each is, with probability `share`, one that `others` draws.
        """
        samplers = [others if others and self._generator.random() < share else self for _ in range(size)]
        images, class_maps = zip(*(each.draw() for each in samplers), strict=True)
        return torch.stack(images), torch.stack(class_maps)

    def state(self) -> dict[str, Any]:
        """What, given to ``restore``, lets another sampler of the same items draw on from here."""
        return {"generator": self._generator.bit_generator.state, "pass": list(self._pass)}

    def restore(self, state: dict[str, Any]) -> None:
        """Draw on from where ``state`` was taken."""
        self._generator.bit_generator.state = state["generator"]
        self._pass = list(state["pass"])

    def _choose(self) -> tuple[int, tuple[int, int] | None]:
        """The index of a painting, and the row and column of a pixel that the crop has to contain, if any."""
        if self._present.size and self._generator.random() < self._rare:
            label = self._generator.choice(self._present, p=self._chances)
            index = int(self._generator.choice(self._holders[label]))
            # Looked up anew: it takes a fraction of a millisecond, and kept positions would outweigh the paintings.
            ids = self._items[index][1].numpy()
            row, column = divmod(int(self._generator.choice(np.flatnonzero(ids == label))), ids.shape[1])
            return index, (row, column)
        if not self._pass:
            self._pass = self._generator.permutation(len(self._items)).tolist()
        return self._pass.pop(), None

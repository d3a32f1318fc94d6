"""What runs a classifier on a device: torch in several precisions, as it is or as CUDA graphs."""

from collections.abc import Callable, Sequence
from functools import cache
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from underpaint.segmenter.classifier import Classifier
from underpaint.segmenter.refinement import refine

Batch = NDArray[np.uint8 | np.float32]
"""Images (N, h, w, channels) whose h and w are multiples of 32, finite; float32 counts 1 as full scale."""

_GRAPHED = 8  # images a pass; a GPU takes longer over more than the CPU does to tell it what to do
_CAPTURING = Lock()  # all graphs are captured on one stream


class Runtime(Protocol):
    """Runs one classifier; several threads may call it at once."""

    name: str
    passes: int
    """How many passes side by side are best."""

    def __call__(self, images: Batch) -> Tensor:
        """Refined probabilities float32 (N, classes, h/2, w/2) of `images`, on the runtime's device."""
        ...

    def prepare(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Make ready for uint8 images of `shapes` (N, h, w, channels), at the expense of nothing else that runs."""
        ...

    def close(self) -> None:
        """Let go of the classifier and what was made of it."""
        ...


class TorchRuntime:
    """Torch on any device, one operation after the other. It takes over the classifier that it is given."""

    passes = 1

    def __init__(
        self,
        name: str,
        classifier: Classifier,
        device: str,
        precision: torch.dtype = torch.float32,
        layout: torch.memory_format = torch.channels_last,
    ) -> None:
        self.name = name
        self._device = device
        self._layout = layout
        module = classifier.eval().cast(precision).to(device)
        module.net.to(memory_format=layout)  # type: ignore[call-overload]
        self._classifier: Callable[[Tensor], tuple[Tensor, Tensor]] = module
        # On a GPU, passes share its memory and streams; on a CPU they share nothing.
        self._lock = Lock() if device != "cpu" else None

    @torch.inference_mode()
    def __call__(self, images: Batch) -> Tensor:
        batch = torch.from_numpy(images)
        if self._lock is None:
            return self._run(batch)
        with self._lock:
            return self._run(batch.to(self._device))

    def prepare(self, shapes: Sequence[tuple[int, ...]]) -> None:
        pass  # one net for all shapes

    def close(self) -> None:
        self._classifier = _closed

    def _run(self, batch: Tensor) -> Tensor:
        if self._layout == torch.contiguous_format:
            batch = batch.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
        return refine(*self._classifier(batch))


class GraphRuntime(TorchRuntime):
    """Torch on a GPU, with a CUDA graph for each small batch: the GPU is told once for all what to do."""

    def __init__(self, name: str, classifier: Classifier, device: str, precision: torch.dtype) -> None:
        super().__init__(name, classifier, device, precision)
        self._graphs: dict[Any, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def _run(self, batch: Tensor) -> Tensor:
        if len(batch) > _GRAPHED:
            return super()._run(batch)
        key = (batch.shape, batch.dtype)
        if key not in self._graphs:
            self._graphs[key] = self._capture(batch)
        graph, given, found = self._graphs[key]
        given.copy_(batch)
        graph.replay()
        return found.clone()

    def _capture(self, batch: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        given = batch.clone()
        with _CAPTURING, torch.cuda.device(batch.device):
            # Libraries set themselves up in the first passes, which a graph can't hold.
            aside = _aside(batch.device)
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(3):
                    super()._run(given)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            pool = next((each.pool() for each, *_ in self._graphs.values()), None)
            # Other threads, which serve another checkpoint, go on meanwhile.
            with torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
                found = super()._run(given)
        return graph, given, found

    def close(self) -> None:
        super().close()
        self._graphs.clear()


@cache
def _aside(device: torch.device) -> torch.cuda.Stream:
    """One for all captures: cuBLAS keeps some 30 MB for every stream that it ever worked on."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _closed(*_: object) -> Any:
    raise RuntimeError("This segmenter was closed: ask the one that serves now.")

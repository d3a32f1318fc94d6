"""OpenVINO, which runs nets on CPUs in less than half of torch's time."""

import logging
import subprocess
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from copy import deepcopy
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from underpaint.segmenter.aside import compiled_aside, openvino
from underpaint.segmenter.classifier import Classifier
from underpaint.segmenter.refinement import refine
from underpaint.segmenter.runtime import Batch

log = logging.getLogger(__name__)

_STATIC = 10  # models for one size each, which take 70 MB each and a fifth less time than one for all sizes
_EXAMPLE = (1, 64, 96)

_graphs: dict[Any, Any] = {}
_converting = Lock()


class OpenVinoRuntime:
    """A classifier compiled by OpenVINO, at each size of images when it is first seen."""

    def __init__(
        self, name: str, classifier: Classifier, precision: str, passes: int, threads: int, graph: str
    ) -> None:
        """Compute in `precision`, ``f32`` or ``bf16``, with `threads` threads for `passes` passes side by side.

        Classifiers that differ in nothing but their weights have the same `graph`, and are converted once a process.

        Raises:
            ImportError: OpenVINO is not installed.
            RuntimeError: it can't take this classifier.
        """
        self.name = name
        self.passes = passes
        self._options = {
            "INFERENCE_PRECISION_HINT": precision,
            "NUM_STREAMS": passes,
            "INFERENCE_NUM_THREADS": threads,
            # The models of two sizes would be pinned to the same core, with another idle beside it.
            "ENABLE_CPU_PINNING": False,
        }
        self._classifier: Classifier | None = classifier.eval()
        self._graph = graph
        self._core = openvino().Core()
        self._models: dict[Any, Any] = {}
        self._compiled: dict[Any, tuple[Any, deque[Any]]] = {}
        self._exported: dict[Any, bytes] = {}
        self._compiling = Lock()
        self._model(np.dtype(np.uint8))

    def __call__(self, images: Batch) -> Tensor:
        compiled, requests = self._compile(images.shape, images.dtype)
        try:
            request = requests.pop()
        except IndexError:
            request = compiled.create_infer_request()
        request.infer([images], share_inputs=True, share_outputs=True)
        # The request's own memory, which the next pass overwrites; refinement reads it and makes its own.
        refined = refine(*(torch.from_numpy(request.get_output_tensor(index).data) for index in range(2)))
        requests.append(request)
        return refined

    def prepare(self, shapes: Sequence[tuple[int, ...]]) -> None:
        dtype = np.dtype(np.uint8)
        new = [shape for shape in shapes if (shape, dtype) not in self._compiled][: _STATIC - len(self._compiled)]
        try:
            found = compiled_aside(self._model(dtype), new, self._options)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            log.warning("Nets are compiled beside those that serve, which slows these down: %s", error)
        else:
            self._exported |= {(shape, dtype): each for shape, each in zip(new, found, strict=True)}

    def close(self) -> None:
        self._classifier = None
        self._models.clear()
        self._exported.clear()
        self._compiled.clear()

    def _compile(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Any, deque[Any]]:
        """The model for images of `shape` and `dtype`, and its idle requests."""
        key: Any = (shape, dtype)
        if key not in self._compiled and len(self._compiled) >= _STATIC:
            key = dtype
        if key not in self._compiled:
            with self._compiling:
                if key not in self._compiled:
                    sizes = shape if key != dtype else (-1, -1, -1, shape[3])
                    compiled = self._compile_for(sizes, dtype)
                    self._compiled[key] = compiled, self._requests(compiled, np.zeros(shape, dtype))
        return self._compiled[key]

    def _requests(self, compiled: Any, images: Batch) -> deque[Any]:
        """One for each of the passes side by side, that have all had one: the first takes memory, and time to do so."""
        requests = deque(compiled.create_infer_request() for _ in range(self.passes))
        for request in requests:
            request.start_async([images])
        for request in requests:
            request.wait()
        return requests

    def _compile_for(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        if (exported := self._exported.pop((shape, dtype), None)) is not None:
            return self._core.import_model(exported, "CPU", self._options)
        model = self._model(dtype).clone()
        model.reshape(list(shape))
        return self._core.compile_model(model, "CPU", self._options)

    def _model(self, dtype: np.dtype[Any]) -> Any:
        """The classifier for images of `dtype` and any size, as OpenVINO compiles it."""
        if self._classifier is None:
            raise RuntimeError("This segmenter was closed: ask the one that serves now.")
        if dtype not in self._models:
            self._models[dtype] = _with_weights(_graph_of(self._classifier, dtype, self._graph), self._classifier)
        return self._models[dtype]


def _graph_of(classifier: Classifier, dtype: np.dtype[Any], name: str) -> Any:
    """The graph `name`, whose inputs are images of `dtype` and then all weights: OpenVINO's model of `classifier`."""
    with _converting:
        if (name, dtype) not in _graphs:
            images = torch.zeros((*_EXAMPLE, len(classifier.mean)), dtype=getattr(torch, dtype.name))
            example = (images, *_weights(classifier).values())
            with torch.no_grad(), warnings.catch_warnings():
                # torch deprecates tracing, and warns of checks of shapes that are not traced.
                warnings.simplefilter("ignore")
                # Nothing is drawn at random in evaluation, so a second look would only take time.
                traced = torch.jit.trace(_functional(classifier), example, check_trace=False, strict=False)  # type: ignore[no-untyped-call]
            _graphs[name, dtype] = openvino().convert_model(traced, example_input=example)
        return _graphs[name, dtype]


def _with_weights(graph: Any, classifier: Classifier) -> Any:
    """`graph` with the weights of `classifier` in it, which its only input is the images of."""
    model = graph.clone()
    images, *parameters = model.get_parameters()
    for parameter, weight in zip(parameters, _weights(classifier).values(), strict=True):
        constant = openvino().op.Constant(weight.numpy())
        for target in parameter.output(0).get_target_inputs():
            target.replace_source_output(constant.output(0))
    return openvino().Model(model.get_results(), [images], "classifier")


def _weights(classifier: Classifier) -> dict[str, Tensor]:
    return {name: value for name, value in classifier.state_dict().items() if value.is_floating_point()}


def _functional(classifier: Classifier) -> Callable[..., tuple[Tensor, Tensor]]:
    """A function of images and weights. (``torch.func.functional_call`` refuses to be traced.)"""
    names = list(_weights(classifier))
    hollow = deepcopy(classifier)

    def call(images: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        for name, weight in zip(names, weights, strict=True):
            path, _, leaf = name.rpartition(".")
            owner = hollow.get_submodule(path)
            delattr(owner, leaf)
            setattr(owner, leaf, weight)
        found: tuple[Tensor, Tensor] = hollow(images)
        return found

    return call

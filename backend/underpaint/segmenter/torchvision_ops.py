"""Lets torchvision be imported where its compiled operators do not load.

A CPU build of torch beside PyPI's (CUDA) build of torchvision cannot load torchvision's library, and the import then
dies with "operator torchvision::nms does not exist". No net here calls those operators, so naming them is enough.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch.library import Library

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: Library | None = None  # the definitions live as long as this object


def define_missing_ops() -> None:
    """Define the schemas of torchvision's operators, unless its compiled ones load."""
    global _library
    if _library is None and not _compiled_ops_load():
        _library = Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            _library.define(schema)  # type: ignore[no-untyped-call]


def _compiled_ops_load() -> bool:
    spec = find_spec("torchvision")  # finds without importing, which is what would fail
    libraries = list(Path(spec.origin).parent.glob("_C.*")) if spec and spec.origin else []
    try:
        for library in libraries:
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")

"""Which runtime is the fastest on a device, found by trying them, and remembered."""

import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy
from functools import partial
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from underpaint.checkpoints.checkpoint import Card
from underpaint.segmenter.classifier import Classifier
from underpaint.segmenter.openvino_runtime import OpenVinoRuntime
from underpaint.segmenter.runtime import Batch, GraphRuntime, Runtime, TorchRuntime

logger = logging.getLogger(__name__)

REFERENCE = "torch-float32"
AGREEMENT = 0.995
"""Share of pixels whose class a runtime must see as the reference does."""
_FORMAT = 2
_LIBRARIES = ("torch", "openvino", "segmentation_models_pytorch", "timm")
_ROUNDS = 5

Make = Callable[[Classifier], Runtime]


def runtime_for(classifier: Classifier, card: Card, device: str, wanted: str, cache: Path | None) -> Runtime:
    """The runtime `wanted` of `classifier`, which `card` describes, on `device`; ``auto`` is the fastest.

    For ``auto``, each is timed on made-up paintings, and the fastest of those stays that see the same class as torch in
    float32 in 99.5 % of the pixels. That is remembered in `cache` for this device, these libraries and this net.

    Raises:
        ValueError: there is no such runtime on this device.
    """
    known = dict(_candidates(device, card))
    if wanted != "auto":
        if wanted not in known:
            raise ValueError(
                f"There is no runtime {wanted!r} on {device}: set UNDERPAINT_RUNTIME to auto, {', '.join(known)}"
                + ("." if find_spec("openvino") else ", or install openvino.")
            )
        return known[wanted](classifier)
    place = (cache or _users_cache()) / "runtimes.json"
    facts = _facts(device, card)
    key = blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()
    remembered = _read(place).get(key, {}).get("runtime")
    if isinstance(remembered, str) and remembered in known:
        with suppress(Exception):  # whatever it was chosen for, it no longer works: choose anew
            runtime = known[remembered](classifier)
            logger.info("%s runs %s on %s, the fastest when they were measured.", runtime.name, card.encoder, device)
            return runtime
    return _measured(classifier, card, known, place, key, facts)


def sample_paintings(card: Card, count: int = 3) -> Batch:
    """Made-up paintings (N, h, w, channels) at the size that the net sees: patches with strokes and soft light.

    Their colours are spread as those the net was trained on, uint8 if these were colours, else float32.
    """
    height, width = (max(1, round(card.image_size * part / 32)) * 32 for part in (0.75, 1))
    random = np.random.default_rng(0)
    paintings = []
    for _ in range(count):
        height_maps = random.normal(size=(4, 5, 8)).astype(np.float32)
        patches = cv2.resize(height_maps, (width, height), interpolation=cv2.INTER_CUBIC).argmax(axis=2)
        colours = random.normal(0, 0.8, (8, card.channels)).astype(np.float32)
        light = cv2.resize(random.normal(0, 0.4, (3, 3)).astype(np.float32), (width, height))
        strokes = cv2.blur(random.normal(0, 1, (height, width)).astype(np.float32), (9, 3))
        paintings.append(colours[patches] + (light + strokes)[..., None])
    pixels = (np.stack(paintings) * card.std + card.mean).astype(np.float32)
    if all(0 <= mean <= 1 for mean in card.mean):
        return np.rint(pixels * 255).clip(0, 255).astype(np.uint8)
    return pixels


def cores() -> int:
    """How many threads a net may use."""
    return torch.get_num_threads()


def _candidates(device: str, card: Card) -> Iterator[tuple[str, Make]]:
    """Names and makers of all runtimes there are on `device`, the reference first."""
    yield REFERENCE, partial(TorchRuntime, REFERENCE, device=device)
    if device == "cpu":
        yield (
            "torch-contiguous",
            partial(TorchRuntime, "torch-contiguous", device=device, layout=torch.contiguous_format),
        )
        # Not torch in bfloat16: its convolutions (oneDNN's, in torch 2.13) read memory that nobody wrote where images
        # are narrow, and now and then give NaN. OpenVINO's are right, and faster.
        if find_spec("openvino"):
            graph = repr(
                (card.architecture, card.encoder, len(card.classes), card.channels, sorted(card.options.items()))
            )
            for name, hint in (("float32", "f32"), ("bfloat16", "bf16")):
                for passes in sorted({cores(), max(1, cores() // 2), 1}, reverse=True):
                    full = f"openvino-{name}-{passes}"
                    yield (
                        full,
                        partial(OpenVinoRuntime, full, precision=hint, passes=passes, threads=cores(), graph=graph),
                    )
    else:
        for precision in (torch.float16, torch.bfloat16):
            name = str(precision).removeprefix("torch.")
            yield f"torch-{name}", partial(TorchRuntime, f"torch-{name}", device=device, precision=precision)
            # Not torch.compile: with it, an H200 had not chosen after two minutes, and each swap would compile again.
            if device.startswith("cuda"):
                graphs = f"torch-graphs-{name}"
                yield graphs, partial(GraphRuntime, graphs, device=device, precision=precision)


def _measured(
    classifier: Classifier, card: Card, known: dict[str, Make], place: Path, key: str, facts: dict[str, Any]
) -> Runtime:
    """The fastest of the runtimes `known` that agree with the reference; the choice is written to `place`."""
    paintings = sample_paintings(card)
    expected = None
    times: dict[str, float] = {}
    remarks: list[str] = []
    for name, make in known.items():
        try:
            runtime = make(deepcopy(classifier))
            seen = np.concatenate([runtime(each[None]).argmax(dim=1).cpu().numpy() for each in paintings])
            expected = seen if expected is None else expected
            agreement = float((seen == expected).mean())
            milliseconds = 1000 * _seconds(runtime, paintings)
            runtime.close()
        except Exception as error:  # what a library can't run on this device fails in as many ways as there are
            if name == REFERENCE:
                raise
            remarks.append(f"{name} failed ({type(error).__name__})")
            logger.debug("Runtime %s failed.", name, exc_info=True)
            continue
        if agreement < AGREEMENT:
            remarks.append(f"{name} {milliseconds:.1f}, left out: it agrees on {100 * agreement:.1f} %")
        else:
            times[name] = milliseconds
    best = min(times, key=times.__getitem__)
    others = [f"{name} {times[name]:.1f}" for name in sorted(times, key=times.__getitem__) if name != best]
    logger.info(
        "%s runs %s fastest on %s: %.1f ms an image of %d px. Others: %s.",
        best, card.encoder, facts["device"], times[best], card.image_size, ", ".join(others + remarks),
    )  # fmt: skip
    _remember(place, key, facts | {"runtime": best, "milliseconds": times, "remarks": remarks})
    return known[best](classifier)


def _seconds(runtime: Runtime, paintings: Batch) -> float:
    """Seconds an image, with as many passes side by side as the runtime does best."""
    with ThreadPoolExecutor(runtime.passes) as pool:

        def round_of_passes() -> float:
            start = time.perf_counter()
            images = [paintings[index % len(paintings)][None] for index in range(2 * runtime.passes)]
            # The answers travel too, and what a GPU still does is waited for.
            for _ in pool.map(lambda image: runtime(image).cpu(), images):
                pass
            return (time.perf_counter() - start) / len(images)

        round_of_passes()
        return min(round_of_passes() for _ in range(_ROUNDS))


def _facts(device: str, card: Card) -> dict[str, Any]:
    """What the choice depends on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else f"{_processor()} × {cores()}",
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "architecture": [card.architecture, card.encoder, card.channels, dict(card.options)],
        "image_size": card.image_size,
        "format": _FORMAT,
    }


def _users_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "underpaint"


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _read(place: Path) -> dict[str, Any]:
    """What is remembered; a file that is broken or of another kind is no memory."""
    try:
        found = json.loads(place.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: each for key, each in found.items() if isinstance(each, dict)} if isinstance(found, dict) else {}


def _remember(place: Path, key: str, choice: dict[str, Any]) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(f"{place.name}.{os.getpid()}")
        fresh.write_text(json.dumps(_read(place) | {key: choice}, indent=2, sort_keys=True) + "\n", "utf-8")
        fresh.replace(place)
    except OSError as error:
        logger.warning("The choice of runtime can't be remembered, and is made again at the next start: %s", error)

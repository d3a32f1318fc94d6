"""A folder of images, pre-labelled: tasks with predictions in Label Studio, or a data set on disk."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from underpaint.labelstudio import regions
from underpaint.labelstudio.client import LabelStudio, LabelStudioError
from underpaint.labelstudio.images import ImageError, Rgb, decode
from underpaint.labelstudio.label_config import parse
from underpaint.labelstudio.label_space import LabelSpace
from underpaint.segmenter.segmenter import Segmenter
from underpaint.settings import Settings
from underpaint_workers import dataset

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
# Predictions that travel to Label Studio in one request.
CHUNK = 20

Report = Callable[[int, int, list[str]], None]
"""Called with images done, images in all, and a sentence on each that was left out."""


class PrelabelError(ValueError):
    """A folder can't be pre-labelled; the message says what to do."""


def find_images(folder: Path) -> list[Path]:
    """Image files at any depth below ``folder``, sorted. Raises PrelabelError when there are none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise PrelabelError(f"{folder} holds no image ({', '.join(SUFFIXES)}): is it the right folder on this worker?")
    return found


def into_label_studio(
    folder: Path, segmenter: Segmenter, label_studio: LabelStudio, project_id: int, settings: Settings, report: Report
) -> None:
    """Upload every image of ``folder`` as a task, with a prediction by ``segmenter``.

    Raises PrelabelError when no label of the project can be predicted, before anything is uploaded.
    """
    images = find_images(folder)
    space = LabelSpace.match(parse(label_studio.project(project_id)["label_config"]), segmenter.classes)
    if space.empty:
        raise PrelabelError(space.explain())
    problems: list[str] = []
    waiting: list[dict[str, Any]] = []

    def send() -> None:
        if waiting:
            label_studio.import_predictions(project_id, waiting)
            waiting.clear()

    done = 0
    try:
        for path, image in _read(images, settings, problems):
            class_map, confidence = segmenter.predict(image)
            result, score = regions.encode(class_map, confidence, space)
            try:
                [task] = label_studio.upload(project_id, path)["task_ids"]
            except LabelStudioError as error:
                if error.status != 400:
                    raise
                problems.append(f"{path}: Label Studio doesn't take it; convert it to JPEG or PNG ({error})")
                continue
            waiting.append({"task": task, "result": result, "score": score, "model_version": segmenter.version})
            if len(waiting) == CHUNK:
                send()
            done += 1
            report(done, len(images), problems)
    finally:
        send()  # also when the rest fails: a task that was uploaded has its prediction
    report(done, len(images), problems)


def into_dataset(folder: Path, segmenter: Segmenter, to: Path, settings: Settings, report: Report) -> None:
    """Write every image of ``folder``, as it was decoded, and its class map to a new data set, ``to``.

    Raises PrelabelError when ``to`` holds anything already.
    """
    images = find_images(folder)
    if to.exists() and any(to.iterdir()):
        raise PrelabelError(f"{to} is not empty: name a new folder, or remove this one")
    problems: list[str] = []
    done = 0
    names: dict[str, Path] = {}
    for path, image in _read(images, settings, problems):
        name = "__".join(path.relative_to(folder).with_suffix("").parts)
        if (first := names.setdefault(name, path)) is not path:
            problems.append(f"{path}: it would overwrite {first} in the data set; rename it")
            continue
        class_map, _ = segmenter.predict(image)
        dataset.write_item(to, name, image, class_map)
        done += 1
        report(done, len(images), problems)
    dataset.write_classes(to, segmenter.classes)
    report(done, len(images), problems)


def _read(images: list[Path], settings: Settings, problems: list[str]) -> Iterator[tuple[Path, Rgb]]:
    for path in images:
        try:
            if path.stat().st_size > settings.max_image_bytes:
                raise ImageError(f"{path}: larger than UNDERPAINT_MAX_IMAGE_BYTES ({settings.max_image_bytes})")
            yield path, decode(path.read_bytes(), settings.max_image_pixels, str(path))
        except (ImageError, OSError) as error:
            problems.append(str(error))

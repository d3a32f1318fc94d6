"""Accepted labels that a segmenter contradicts, so that a person may look at them again.

This is confident learning with connected pieces of a class map for examples: a piece is contradicted where another
class has at least the probability that the segmenter gives, on average, to what is labelled as that class. Such a mean
for each class makes it no matter that a segmenter is surer of sky than of boats.

What a segmenter learned from, it has also learned by heart, wrong labels included: of eight pieces that were given a
wrong label, the base found seven, and three after 18 steps of training on them. So labels are judged by one that has
not learned from them, where there is one: those that the champion did not learn from by the champion, those of
validation paintings by the challenger. The challenger judges the rest too, and what it still contradicts there is all
the more worth a look; but silence about them says little.

Source: Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty in dataset labels", JAIR 2021.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from underpaint.checkpoints.store import Store
from underpaint.labelstudio.class_mapping import ClassMapping
from underpaint.labelstudio.client import LabelStudio
from underpaint.project import project_id
from underpaint.segmenter.segmenter import Segmenter
from underpaint_workers.dataset import Dataset
from underpaint_workers.outcome import Outcome

SMALLEST = 0.01
"""Share (0–1) of a painting that a piece has at least to be judged."""
STRONG = 0.5
"""Score from which on a contradiction is worth a person's time."""
TAB = "Labels to check"
"""Title of the data manager's tab that shows the tasks of contradicted labels; it has room for some 15 letters."""


@dataclass(frozen=True)
class Contradiction:
    """One connected piece of an accepted label that a segmenter takes for something else."""

    painting: str
    """Its name in the data set."""
    label: str
    predicted: str
    score: float
    """Probability (0–1) of the predicted class less that of the label, both means over the piece."""
    area: float
    """Share (0–1) of the painting."""
    box: tuple[float, float, float, float]
    """Left, top, width and height of the piece, in percent of the painting."""


@dataclass(frozen=True)
class Piece:
    """A connected piece of a label, and what a segmenter makes of it."""

    painting: str
    label: int
    """Class id."""
    probabilities: NDArray[np.float64]
    """For each class (classes,), the mean over the pixels of its probability where it is the likeliest, else 0."""
    area: float
    box: tuple[float, float, float, float]


def look_again(store: Store, project: str, outcome: Outcome) -> list[Contradiction]:
    """What is contradicted among the labels that a retrain of `project` took, the strongest first.

    The `store` then knows what the challenger learned from, should it come to judge new labels one day.

    Raises:
        StoreError: the store can't be read or written.
    """
    learned = [painting for painting in outcome.taken.paintings if not painting.is_validation]
    known = _learned_from(store, project, outcome.champion)
    new = {painting.name for painting in learned if painting.digest not in known}
    validation = outcome.taken.names(validation=True)
    digests = json.dumps([painting.digest for painting in learned])
    store.write_file(project, _digests_file(outcome.taken.fingerprint), digests.encode())

    found = contradicted(outcome.challenger, outcome.data, validation)
    rest = {painting.name for painting in learned}
    if outcome.champion:
        mapping = ClassMapping.of(outcome.taken.labels, outcome.champion.classes)
        judged = contradicted(outcome.champion, outcome.data, [*new, *validation], mapping)
        # Validation paintings only helped to tell what is usual.
        found += [each for each in judged if each.painting in new]
        rest -= new
    found += contradicted(outcome.challenger, outcome.data, rest)
    return sorted(found, key=lambda each: (-each.score, each.painting))


def _learned_from(store: Store, project: str, champion: Segmenter | None) -> set[str]:
    """Digests of the paintings that the champion learned from: none where no retrain of the project made it."""
    digests = store.read_file(project, _digests_file(champion.card.snapshot)) if champion else None
    return set(json.loads(digests)) if digests else set()


def _digests_file(fingerprint: str) -> str:
    return f"snapshots/{fingerprint or 'none'}.json"


def contradicted(
    segmenter: Segmenter, data: Dataset, names: Iterable[str], mapping: ClassMapping | None = None
) -> list[Contradiction]:
    """The labels of the paintings `names` that `segmenter` contradicts, the strongest contradiction first.

    Labels that it has no class for are not judged. `mapping` is that of its classes to the data set's, if more than
    their names say so.
    """
    mapping = mapping or ClassMapping.of(data.classes, segmenter.classes)
    pieces: list[Piece] = []
    for name in names:
        image, class_map = data.load(name)
        predicted, confidence = segmenter.predict(image)
        pieces += pieces_of(name, class_map, mapping.label_ids[predicted], confidence, len(data.classes))
    return judge([piece for piece in pieces if piece.label in mapping.owners], data.classes)


def pieces_of(
    painting: str, labels: NDArray[np.uint8], predicted: NDArray[np.uint8], confidence: NDArray[np.uint8], classes: int
) -> Iterator[Piece]:
    """The connected pieces of `labels` that are large enough.

    All maps are uint8 (H, W); a predicted id of `classes` means none of them, and `confidence` is in 255ths.
    """
    height, width = labels.shape
    for label in range(classes):
        mask = (labels == label).astype(np.uint8)
        count, ids, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        pairs = ids.astype(np.int64) * (classes + 1) + predicted
        sums = np.bincount(pairs.ravel(), confidence.ravel() / 255, count * (classes + 1)).reshape(count, -1)
        for piece in range(1, count):  # 0 is all the rest
            left, top, wide, high, pixels = map(int, stats[piece])
            if pixels >= SMALLEST * labels.size:
                box = (100 * left / width, 100 * top / height, 100 * wide / width, 100 * high / height)
                yield Piece(painting, label, sums[piece, :classes] / pixels, pixels / labels.size, box)


def judge(pieces: Sequence[Piece], classes: Sequence[str]) -> list[Contradiction]:
    """The contradicted ones of `pieces`, all judged by one segmenter; the highest score first."""
    if not pieces:
        return []
    own = np.array([piece.probabilities[piece.label] for piece in pieces])
    labels = np.array([piece.label for piece in pieces])
    # What no piece is labelled as is held to what is usual for all.
    usual = np.array([own[labels == label].mean() if label in labels else own.mean() for label in range(len(classes))])
    found = []
    for piece in pieces:
        likely = int(np.argmax(np.where(piece.probabilities >= usual, piece.probabilities, 0)))
        score = float(piece.probabilities[likely] - piece.probabilities[piece.label])
        if score >= STRONG and piece.probabilities[likely] >= usual[likely]:
            names = classes[piece.label], classes[likely]
            found.append(Contradiction(piece.painting, *names, score, piece.area, piece.box))
    return sorted(found, key=lambda each: -each.score)


def task_of(painting: str) -> int:
    """The id of the task that a snapshot's painting came from."""
    found = re.match(r"task-(\d+)", painting)
    if not found:
        raise ValueError(f"the painting {painting!r} comes from no task: its name has to start with task-<id>")
    return int(found[1])


def address_of(label_studio_url: str, project: str, painting: str) -> str:
    """Where a person opens the painting's task in Label Studio."""
    return f"{label_studio_url}/projects/{project_id(project)}/data?task={task_of(painting)}"


def as_record(each: Contradiction, label_studio_url: str, project: str) -> dict[str, Any]:
    """A contradiction as a run's record has it: JSON values."""
    link = address_of(label_studio_url, project, each.painting)
    return asdict(each) | {"box": list(each.box), "task": task_of(each.painting), "link": link}


def show_tab(label_studio: LabelStudio, project: int, tasks: Collection[int]) -> None:
    """Make the project's tab ``TAB`` in the data manager show just these `tasks`.

    A tab touches neither tasks nor annotations, so no label looks changed by it, and it is all that has to be put right
    when labels were. It is made when there is something to show for the first time, or again.

    Raises:
        LabelStudioError: Label Studio refused, or is out of reach.
    """
    tabs = [tab for tab in label_studio.get("/api/dm/views/", project=project) if tab["data"].get("title") == TAB]
    if not tabs and not tasks:
        return
    items = [
        {"filter": "filter:tasks:id", "operator": "equal", "type": "Number", "value": task}
        for task in sorted(set(tasks)) or [0]  # no task has this id
    ]
    filters = {"filters": {"conjunction": "or", "items": items}}
    if tabs:
        data = tabs[0]["data"] | filters
        label_studio.patch(f"/api/dm/views/{tabs[0]['id']}/", {"project": project, "data": data})
    else:
        data = {"title": TAB, "hiddenColumns": _hidden_columns(label_studio, project), **filters}
        label_studio.post("/api/dm/views/", {"project": project, "data": data})


def _hidden_columns(label_studio: LabelStudio, project: int) -> dict[str, list[str]]:
    """What Label Studio's own first tab hides, so that the paintings can be seen without scrolling."""
    columns = label_studio.get("/api/dm/columns/", project=project)["columns"]
    return {
        view: [f"tasks:{each['id']}" for each in columns if not (each.get("visibility_defaults") or {view: 1})[view]]
        for view in ("explore", "labeling")
    }

"""A retrain as one HTML file that needs nothing beside it: why the champion moved or stayed, and how good it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from underpaint.segmenter.segmenter import fit
from underpaint_workers import report
from underpaint_workers.contact_sheet import ContactSheet, jpeg
from underpaint_workers.evaluation import Metrics, metrics_of
from underpaint_workers.gate import CONFIDENCE
from underpaint_workers.label_quality import Contradiction, address_of
from underpaint_workers.outcome import Outcome
from underpaint_workers.overlay import as_rgb

ROWS = 24
"""Paintings on the contact sheet."""
LABELS = 20
"""Contradicted labels that are shown with a picture; the others are in the run's record."""
_THUMBNAIL = 200
_MARK = (230, 0, 60)
_SCORES = {
    "mIoU": "miou",
    "pixel accuracy": "accuracy",
    "boundary F1": "boundary_f1",
    "calibration error (less is better)": "calibration_error",
}


@dataclass(frozen=True)
class RunReport:
    """What a report is made of."""

    record: Mapping[str, Any]
    """The run's, as the store keeps it."""
    seconds: float
    """How long the whole run took so far."""
    outcome: Outcome
    contradictions: Sequence[Contradiction]
    """The strongest first."""
    label_studio_url: str

    def to_html(self) -> str:
        """The file, of a few MB at most, however many paintings there are."""
        outcome, record = self.outcome, self.record
        title = f"Retrain {escape(record['id'])}"
        of = f"of project {escape(record['project'])}, started {escape(record['started'])}"
        parts = [f'<h1>{title}</h1><p class="note">{of}</p>', self._decision()]
        if outcome.after:
            before = outcome.before.metrics if outcome.before else None
            parts += [_scores(before, outcome.after.metrics), _classes(before, outcome.after.metrics)]
        parts += ["<h2>Training</h2>", outcome.curves.to_html()]
        if outcome.after:
            parts.append(report.confusion_section(outcome.after.metrics, "Confusion by the challenger"))
        parts += [self._labels(), "<h2>The challenger</h2>", report.card_table(outcome.challenger.card)]
        settings = {name.replace("_", " "): value for name, value in outcome.challenger.card.settings.items()}
        parts += ["<h2>Settings</h2>", report.facts_table(settings), self._problems(), self._paintings()]
        return report.page(title, parts)

    def _decision(self) -> str:
        decision, card, record = self.outcome.decision, self.outcome.challenger.card, self.record
        facts: dict[str, object] = {
            "challenger": record["version"],
            "what served before": record.get("champion") or "nothing",
            "snapshot": self.outcome.taken.fingerprint,
            "paintings": f"{record['training']} to learn from, {record['validation']} to validate on",
        }
        if record.get("champion"):
            facts["labels that it can't name"] = ", ".join(record.get("new_labels", ())) or "none"
            facts["classes of it that are no label"] = ", ".join(record.get("unused_classes", ())) or "none"
        if decision.gain is not None:
            facts["gain of mIoU"] = f"{decision.gain:+.3f}"
        if decision.interval:
            low, high = decision.interval
            facts[f"its {CONFIDENCE:.0%} interval"] = f"{low:+.3f} to {high:+.3f}, by a paired bootstrap over paintings"
        if decision.falls:
            falls = sorted(decision.falls.items(), key=lambda item: -item[1])
            facts["classes that fell"] = ", ".join(f"{name} by {fall:.3f}" for name, fall in falls)
        facts["duration"] = f"{self.seconds:.0f} s, of which {card.seconds:.0f} s training on {card.device}"
        command = "rollback" if decision.promote else "promote"
        version = "" if decision.promote else f" {record['version']}"
        facts["to decide otherwise"] = f"underpaint {command} {record['project']}{version}"
        return f"<p><b>{escape(decision.reason)}</b></p>{report.facts_table(facts)}"

    def _labels(self) -> str:
        heading = "<h2>Labels to look at again</h2>"
        if not self.contradictions:
            return f'{heading}<p class="note">No accepted label is strongly contradicted.</p>'
        shown = self.contradictions[:LABELS]
        which = f"The strongest {len(shown)} of" if len(shown) < len(self.contradictions) else "All"
        heads = "<tr><th><th>task<th>labelled<th>predicted<th>score<th>of the painting</tr>"
        return (
            f'{heading}<p class="note">{which} {len(self.contradictions)} pieces of accepted labels that a checkpoint '
            "strongly takes for something else. The champion judges labels that it did not learn from, the challenger "
            "all others. What a checkpoint learned from it seldom contradicts, so silence about older labels says "
            f"little. Either may be wrong.</p><table>{heads}{''.join(map(self._label, shown))}</table>"
        )

    def _label(self, each: Contradiction) -> str:
        image, _ = self.outcome.data.load(each.painting)
        picture = f'<img src="{jpeg(_boxed(as_rgb(image), each.box))}" alt="{escape(each.painting)}">'
        return (
            f"<tr><td>{picture}<td>{report.link_to(self._link(each.painting), each.painting)}"
            f"<td>{report.swatch(each.label)}<td>{report.swatch(each.predicted)}"
            f"<td class=number>{each.score:.2f}<td class=number>{100 * each.area:.0f} %</tr>"
        )

    def _problems(self) -> str:
        items = "".join(f"<li>{escape(problem)}</li>" for problem in self.outcome.taken.problems)
        return f"<h2>Labels that were left out or read otherwise</h2><ul>{items}</ul>" if items else ""

    def _paintings(self) -> str:
        outcome, names = self.outcome, self.outcome.taken.names(validation=True)
        if not outcome.after:
            return ""
        sheet = ContactSheet(outcome.data.classes, ROWS)
        champion = outcome.before.class_maps if outcome.before else [None] * len(names)
        challenger, confusions = outcome.after.class_maps, outcome.after.confusions
        for name, before, after, confusion in zip(names, champion, challenger, confusions, strict=True):
            miou = metrics_of(confusion, outcome.data.classes, 1).miou
            sheet.add(name, outcome.data.load(name), after, miou, before)
        return report.sheet_section(sheet, {row.name: self._link(row.name) for row in sheet.rows})

    def _link(self, painting: str) -> str:
        return address_of(self.label_studio_url, self.record["project"], painting)


def _scores(before: Metrics | None, after: Metrics) -> str:
    rows = (
        f"<tr><th>{name}{_cell(getattr(before, score) if before else None)}{_cell(getattr(after, score))}</tr>"
        for name, score in _SCORES.items()
    )
    return f"<h2>Scores</h2><table><tr><th><th>champion<th>challenger</tr>{''.join(rows)}</table>"


def _classes(before: Metrics | None, after: Metrics) -> str:
    def row(name: str, score: float | None, labelled: int) -> str:
        served = before.per_class[name] if before else None
        change = "–" if served is None or score is None else f"{score - served:+.3f}"
        share = f"<td class=number>{100 * labelled / max(1, pixels):.1f} %"
        return f"<tr><td>{report.swatch(name)}{share}{_cell(served)}{_cell(score)}<td class=number>{change}</tr>"

    labelled = [sum(counts) for counts in after.confusion]
    pixels = sum(labelled)
    rows = (row(*scored, count) for scored, count in zip(after.per_class.items(), labelled, strict=True))
    heads = "<tr><th>class<th>of labelled pixels<th>champion<th>challenger<th>change</tr>"
    return f"<h2>IoU by class</h2><table>{heads}{''.join(rows)}</table>"


def _cell(score: float | None) -> str:
    return f"<td class=number>{report.number(score)}"


def _boxed(image: NDArray[np.uint8], box: tuple[float, float, float, float]) -> NDArray[np.uint8]:
    """A small picture of an image uint8 (H, W, 3), with the `box`, in percent of it, drawn around a piece."""
    small = np.ascontiguousarray(fit(image, _THUMBNAIL))
    height, width = small.shape[:2]
    left, top, wide, high = (round(part * side / 100) for part, side in zip(box, (width, height) * 2, strict=True))
    cv2.rectangle(small, (left, top), (left + wide - 1, top + high - 1), _MARK, 2)
    return small

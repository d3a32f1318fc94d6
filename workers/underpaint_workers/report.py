"""An evaluation as one HTML file that needs nothing beside it."""

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path

import numpy as np

from underpaint.checkpoints.checkpoint import Card
from underpaint.taxonomy import colour_for
from underpaint_workers.contact_sheet import BETTER, BOTH_WRONG, WRONG, ContactSheet, Row
from underpaint_workers.evaluation import Metrics
from underpaint_workers.overlay import NOTHING_COLOUR, UNLABELLED_COLOUR

_STYLE = """
:root { color-scheme: light; font: 15px/1.45 system-ui, sans-serif; color: #222; background: #faf9f6 }
body { max-width: 1320px; margin: 2rem auto; padding: 0 1.5rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
p.note { color: #666; margin-top: .2rem; max-width: 75ch }
.scores { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.2rem 0 }
.scores div { background: #fff; border: 1px solid #ddd; border-radius: 6px; padding: .7rem 1.2rem; min-width: 8rem }
.scores b { display: block; font-size: 1.7rem; font-variant-numeric: tabular-nums }
table { border-collapse: collapse; background: #fff; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; border: 1px solid #e4e2dc; text-align: left; vertical-align: top }
td.number { text-align: right }
td.bar { width: 22rem; vertical-align: middle } td.bar i { display: block; height: .8rem }
.wide { overflow-x: auto }
.swatch { display: inline-block; width: .8rem; height: .8rem; margin-right: .45rem; border: 1px solid #0003 }
.legend { position: sticky; top: 0; background: #faf9f6; padding: .6rem 0 }
.legend span + span { margin-left: 1.1rem }
.row { display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; gap: .6rem; margin: .3rem 0 1.2rem }
h3 { font-size: .95rem; margin: .3rem 0 0; font-weight: 600; overflow-wrap: anywhere }
figure { margin: 0 } figure img { width: 100%; display: block } figcaption { color: #666; font-size: .85rem }
"""
_FACTS = ("architecture", "encoder", "image_size", "parent", "snapshot", "created", "device", "seconds", "licences")


def write_report(path: Path, version: str, card: Card, data: str, metrics: Metrics, sheet: ContactSheet) -> None:
    """Write the evaluation of checkpoint `version` with this `card` on the paintings of `data` to `path`.

    `metrics` and `sheet` come from the same ``evaluate``. The file is bounded by the sheet's number of rows.
    """
    title = f"Checkpoint {escape(version)}"
    parts = (
        f"<h1>{title}</h1>",
        f'<p class="note">on {metrics.paintings} {_plural("painting", metrics.paintings)} of {escape(data)}</p>',
        _scores(metrics),
        "<h2>IoU by class</h2>",
        _classes(metrics),
        confusion_section(metrics),
        "<h2>The checkpoint</h2>",
        card_table(card),
        sheet_section(sheet),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(title, parts), "utf-8")


def page(title: str, parts: Iterable[str]) -> str:
    """A whole HTML file with this `title` and, in its body, these `parts`, all of which are HTML already."""
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _scores(metrics: Metrics) -> str:
    scores = (
        ("mIoU", metrics.miou, "mean over the classes that the labels contain"),
        ("pixel accuracy", metrics.accuracy, "of labelled pixels"),
        ("boundary F1", metrics.boundary_f1, "outlines within 2 pixels"),
        ("calibration error", metrics.calibration_error, "confidence against accuracy; less is better"),
    )
    tiles = (f'<div title="{escape(what)}"><b>{number(value)}</b>{name}</div>' for name, value, what in scores)
    return f'<div class="scores">{"".join(tiles)}</div>'


def _classes(metrics: Metrics) -> str:
    labelled = np.array(metrics.confusion).sum(axis=1)
    rows = (
        f"<tr><td>{swatch(name)}</td><td class=number>{100 * share:.1f} %</td><td class=number>{number(score)}</td>"
        f'<td class=bar><i style="width:{100 * (score or 0):.1f}%;background:rgb{colour_for(name)}"></i></td></tr>'
        for (name, score), share in zip(metrics.per_class.items(), labelled / max(1, labelled.sum()), strict=True)
    )
    return f"<table><tr><th>class<th>of labelled pixels<th>IoU<th></tr>{''.join(rows)}</table>"


def confusion_section(metrics: Metrics, heading: str = "Confusion") -> str:
    """The confusion matrix, under a heading."""
    names = list(metrics.per_class)
    heads = "".join(f"<th>{swatch(name)}" for name in names)

    def row(name: str, counts: list[int]) -> Iterator[str]:
        yield f"<tr><th>{swatch(name)}"
        for count in counts:
            share = count / max(1, sum(counts))
            shade = f"background:rgba(29,111,184,{share:.2f});color:{'#fff' if share > 0.5 else '#222'}"
            text = f"{100 * share:.0f}" if count else ""
            yield f'<td class=number style="{shade}" title="{count} pixels">{text}</td>'
        yield "</tr>"

    rows = "".join("".join(row(name, counts)) for name, counts in zip(names, metrics.confusion, strict=True))
    table = f"<table><tr><th>labelled \\ predicted{heads}<th>none of these</tr>{rows}</table>"
    return (
        f'<h2>{heading}</h2><p class="note">Of the pixels labelled as the row, how many percent are predicted as the '
        f'column.</p><div class="wide">{table}</div>'
    )


def card_table(card: Card) -> str:
    """How a checkpoint was made."""
    facts = {name.replace("_", " "): getattr(card, name) for name in _FACTS} | {"classes": ", ".join(card.classes)}
    return facts_table({name: value for name, value in facts.items() if value})


def facts_table(facts: Mapping[str, object]) -> str:
    """A row for each fact."""
    rows = (f"<tr><th>{escape(name)}<td>{escape(str(value))}</tr>" for name, value in facts.items())
    return f"<table>{''.join(rows)}</table>"


def sheet_section(sheet: ContactSheet, links: Mapping[str, str] | None = None) -> str:
    """The contact sheet, under a heading; `links` are addresses by the name of a painting."""
    which = (
        f"The {len(sheet.rows)} with the lowest mIoU of {sheet.seen}"
        if sheet.seen > len(sheet.rows)
        else f"All {sheet.seen}"
    )
    colours = {name: colour_for(name) for name in sheet.classes}
    colours |= {"unlabelled": UNLABELLED_COLOUR, "none of these": NOTHING_COLOUR}
    marks = (
        {"only the challenger is right": BETTER, "only the champion is": WRONG, "neither is": BOTH_WRONG}
        if any(row.champion for row in sheet.rows)
        else {"wrong": WRONG}
    )
    rows = (_row(row, (links or {}).get(row.name)) for row in sheet.rows)
    return (
        f'<h2>Paintings</h2><p class="note">{which}, the worst first. A painting\'s mIoU is over the classes that its '
        f'own labels contain.</p><div class="legend">{_legend(colours)}<br>Where they differ: {_legend(marks)}</div>'
        f"{''.join(rows)}"
    )


def _legend(colours: Mapping[str, tuple[int, int, int]]) -> str:
    return "".join(f"<span>{swatch(name, colour)}</span>" for name, colour in colours.items())


def _row(row: Row, link: str | None) -> str:
    predictions = (
        {"champion": row.champion, "challenger": row.prediction, "where the challenger differs": row.difference}
        if row.champion
        else {"prediction": row.prediction, "where they differ": row.difference}
    )
    figures = (
        f'<figure><img src="{uri}" alt="{escape(f"{row.name}: {what}")}"><figcaption>{what}</figcaption></figure>'
        for what, uri in ({"painting": row.painting, "labels": row.labels} | predictions).items()
    )
    name = link_to(link, row.name) if link else escape(row.name)
    return f'<section><h3>{name} · mIoU {row.miou:.2f}</h3><div class="row">{"".join(figures)}</div></section>'


def link_to(address: str, text: str) -> str:
    """A link that opens beside the report."""
    return f'<a href="{escape(address)}" target="_blank" rel="noopener">{escape(text)}</a>'


def swatch(name: str, colour: tuple[int, int, int] | None = None) -> str:
    """A class's name beside its colour."""
    return f'<span class="swatch" style="background:rgb{colour or colour_for(name)}"></span>{escape(name)}'


def number(value: float | None) -> str:
    """A score (0–1) as people read it."""
    return "–" if value is None else f"{value:.3f}"


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"

"""Scores as people read them in a terminal."""

from rich.table import Table

from underpaint_workers.evaluation import Metrics


def score_table(metrics: Metrics) -> Table:
    """IoU by class, and below them what says most in one number; a dash for what could not be measured."""
    table = Table("", "IoU", title=f"on {metrics.paintings} painting{'' if metrics.paintings == 1 else 's'}")
    table.columns[1].justify = "right"
    for name, score in metrics.per_class.items():
        table.add_row(name, _shown(score))
    table.add_section()
    table.add_row("mIoU", _shown(metrics.miou))
    table.add_row("pixel accuracy", _shown(metrics.accuracy))
    table.add_row("boundary F1", _shown(metrics.boundary_f1))
    table.add_row("calibration error", _shown(metrics.calibration_error))
    return table


def _shown(score: float | None) -> str:
    return "–" if score is None else f"{score:.3f}"

"""What a soak came to, as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SHOWN = 12
"""Problems of one check that the report lists; the JSON has all."""


def report(result: Mapping[str, Any]) -> str:
    """The checks, then the figures behind them."""
    lines = [f"seed {result['seed']}, {result['minutes']:g} minutes", ""]
    lines += _table(
        ("", "found", "wanted", ""),
        (
            [each["name"], each["found"], each["wanted"], "met" if each["met"] else "**missed**"]
            for each in result["checks"]
        ),
    )
    for check in result["checks"]:
        lines += [f"- {check['name']}: {problem}" for problem in check["problems"][:SHOWN]]
    lines += _table(
        ("requests", "count", "excused", "median ms", "99 % ms", "slowest ms"),
        (
            [
                kind,
                each["count"],
                each["excused"],
                f"{each['p50_ms']:.0f}",
                f"{each['p99_ms']:.0f}",
                f"{each['max_ms']:.0f}",
            ]
            for kind, each in result["requests"].items()
        ),
    )
    lines += _table(("retrains that ended", "count"), sorted(result["runs"].items()))
    if result["run_errors"]:
        lines += _table(("with the error", "count"), sorted(result["run_errors"].items()))
    median = result["run_seconds_median"]
    lines += _table(
        ("figure", ""),
        [
            ("processes a core that want it, last 15 minutes", f"{result['load']:.1f}"),
            ("tasks predicted", result["predictions"]),
            ("labels at the end, by project", result["labels"]),
            ("a retrain, median", "none" if median is None else f"{median:.0f} s"),
            ("trainings that went on after a kill", result["resumed"]),
            ("moves of a champion, by whom", result["promotions"]),
            ("checkpoints in the store", f"{result['store_mib']:.0f} MiB"),
        ],
    )
    lines += _table(
        ("held, from the warm-up to the end", "memory MiB", "MiB an hour", "files", "threads"),
        (
            [
                name,
                _range(each["memory_mib"]),
                f"{each['memory_mib_an_hour']:+.1f}",
                _range(each["files"]),
                _range(each["threads"]),
            ]
            for name, each in result["held"].items()
        ),
    )
    lines += _table(("done", "times"), result["actions"].items())
    return "\n".join(lines)


def _range(values: Sequence[float]) -> str:
    return " → ".join(f"{value:.0f}" for value in values)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["", *("| " + " | ".join(map(str, line)) + " |" for line in lines), ""]

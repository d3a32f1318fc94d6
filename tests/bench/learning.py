"""How well paintings are learned from few labels: ``python tests/bench/learning.py`` or ``make bench-learning``.

Trains from ImageNet weights on 5, 10, 20 and 40 paintings with each strategy and seed, each run on one core with
the default settings but for the time, which is not bounded, and measures on 20 paintings that no run sees. Minutes are
those that the core worked for the run, so that other work on the machine hardly counts. Appends to
``build/learning.json`` after each run and goes on where it stopped, but never beside runs of other settings; then draws
the chart.
"""

import argparse
import hashlib
import json
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "monet"
COUNTS = (5, 10, 20, 40)
STRATEGIES = ("final", "head", "stage4", "all")  # `extra` needs a parent that has classes
UNBOUNDED = 1e6  # minutes
AUTO = "auto"  # is one of them, and so a copy of its runs

Result = dict[str, Any]


def run(data: Path, n: int, strategy: str, seed: int) -> Result:
    """Train once and measure: ``{n, strategy, seed, miou, accuracy, minutes, per_class}``."""
    import numpy as np
    import torch

    from underpaint.segmenter.segmenter import Segmenter
    from underpaint_workers.dataset import Dataset
    from underpaint_workers.evaluation import evaluate
    from underpaint_workers.train_settings import SCENES, TrainSettings
    from underpaint_workers.training import train

    torch.set_num_threads(1)
    paintings, unseen = Dataset.open(data / "train"), Dataset.open(data / "val")
    drawn = np.random.default_rng(seed).permutation(len(paintings.names))[:n]
    settings = TrainSettings(
        strategy=strategy,  # type: ignore[arg-type]
        seed=seed,
        device="cpu",
        minutes=UNBOUNDED,
        scenes=SCENES,
    )
    started = time.process_time()
    checkpoint = train([paintings.load(paintings.names[i]) for i in drawn], paintings.classes, None, settings)
    seconds = time.process_time() - started
    metrics = evaluate(Segmenter(checkpoint), map(unseen.load, unseen.names), unseen.classes)
    return {
        "n": n,
        "strategy": strategy,
        "seed": seed,
        "miou": round(metrics.miou, 4),
        "accuracy": round(metrics.accuracy, 4),
        "minutes": round(seconds / 60, 2),
        "per_class": {name: score and round(score, 3) for name, score in metrics.per_class.items()},
    }


def table(results: list[Result]) -> str:
    """Means over the seeds, and their spread, as Markdown."""
    lines = ["| labels | strategy | mIoU | pixel accuracy | minutes | seeds |", "|---|---|---|---|---|---|"]
    for n in COUNTS:
        for strategy in (AUTO, *STRATEGIES):
            runs = [each for each in results if (each["n"], each["strategy"]) == (n, strategy)]
            if runs:
                cells = [_spread([each[key] for each in runs], 3) for key in ("miou", "accuracy")]
                cells.append(_spread([each["minutes"] for each in runs], 1))
                lines.append(f"| {n} | {strategy} | {' | '.join(cells)} | {len(runs)} |")
    return "\n".join(lines)


def chart(results: list[Result], path: Path) -> None:
    """Draw mIoU, pixel accuracy and minutes against the number of labels, a line a strategy, a bar its spread."""
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    titles = {"miou": "mIoU", "accuracy": "pixel accuracy", "minutes": "minutes of one core"}
    for axes, (key, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        for strategy in (AUTO, *STRATEGIES):
            points = [
                (n, values)
                for n in COUNTS
                if (values := [each[key] for each in results if (each["n"], each["strategy"]) == (n, strategy)])
            ]
            if not points:
                continue
            means = [statistics.mean(values) for _, values in points]
            reach = [
                [mean - min(values) for mean, (_, values) in zip(means, points, strict=True)],
                [max(values) - mean for mean, (_, values) in zip(means, points, strict=True)],
            ]
            behind = {"linewidth": 8, "alpha": 0.3} if strategy == AUTO else {"marker": "o", "capsize": 3}
            axes.errorbar([n for n, _ in points], means, reach, label=strategy, **behind)
        axes.set(title=title, xlabel="labelled paintings", xscale="log", xticks=COUNTS, xticklabels=COUNTS)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(path, dpi=90)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


def main() -> None:
    """Read the command line, run what is missing, and write table and chart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the data sets train and val")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "learning.json")
    parser.add_argument("--chart", type=Path, default=ROOT / "build" / "learning.png")
    parser.add_argument("--labels", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time, each on one core")
    args = parser.parse_args()
    if not args.data.exists():
        parser.error(f"{args.data} is missing: name a folder with the data sets train and val by --data")

    os.environ["OMP_NUM_THREADS"] = "1"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    stamp = _stamp()
    found: list[Result] = json.loads(args.out.read_text()) if args.out.exists() else []
    if any(each["settings"] != stamp for each in found):
        parser.error(f"{args.out} has runs of other settings: move it away, for one table must not mix them")
    results = [each for each in found if each["strategy"] != AUTO]
    have = {(each["n"], each["strategy"], each["seed"]) for each in results}
    wanted = [(n, s, seed) for seed in args.seeds for s in args.strategies for n in args.labels]
    with ProcessPoolExecutor(args.jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        futures = [pool.submit(run, args.data, *each) for each in wanted if each not in have]
        for future in as_completed(futures):
            results.append(future.result() | {"settings": stamp})
            print(json.dumps(results[-1]), flush=True)
            temporary = args.out.with_suffix(".tmp")
            temporary.write_text(json.dumps(results + _auto(results), indent=1) + "\n")
            temporary.replace(args.out)
    print(table(results + _auto(results)))
    chart(results + _auto(results), args.chart)


def _stamp() -> str:
    """8 hex digits that change with any default of the training."""
    from underpaint_workers.augmentation import Augmentation
    from underpaint_workers.curriculum import Curriculum
    from underpaint_workers.train_settings import SCENES, TrainSettings

    defaults = TrainSettings(scenes=SCENES), Augmentation(1), Curriculum.beside_paintings(10)
    return hashlib.sha256(repr(defaults).encode()).hexdigest()[:8]


def _auto(results: list[Result]) -> list[Result]:
    """The runs that ``auto`` chooses."""
    from underpaint_workers.strategies import choose

    return [each | {"strategy": AUTO} for each in results if each["strategy"] == choose("auto", each["n"], False)]


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.mean(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


if __name__ == "__main__":
    main()

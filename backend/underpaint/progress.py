"""Jobs as people watch them: a bar while they run, and what they left behind."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from underpaint.checkpoints.store import Store
from underpaint.signals import Signals, job_id

LOOK_SECONDS = 0.3
WAITING = "waiting for a worker"


def watch_retrain(signals: Signals, store: Store, project: str, console: Console) -> dict[str, Any]:
    """Show the project's retrain until it ends; returns the record that it left in the store.

    A retrain's id is free again as soon as it succeeded, so its end is the job's disappearance.
    """
    run_id = stage = None
    with _bar(console) as bar:
        line = bar.add_task(WAITING, total=None)
        while (job := signals.job(job_id(project))) is not None and not job.ended:
            meta = job.meta
            run_id = meta.get("id", run_id)
            bar.update(line, description=describe(meta), completed=meta.get("step", 0), total=meta.get("steps"))
            if stage != (stage := meta.get("stage", WAITING)) and not console.is_terminal:
                console.print(f"{stage} …")  # a log file sees no bar
            time.sleep(LOOK_SECONDS)
    runs = store.runs(project)
    return next((run for run in runs if run["id"] == run_id), runs[-1] if runs else {})


def watch_prelabel(signals: Signals, identifier: str, console: Console) -> bool:
    """Show a pre-labelling job until it ends; whether it ended well."""
    with _bar(console) as bar:
        line = bar.add_task(WAITING, total=None)
        while (job := signals.job(identifier)) is not None and not job.ended:
            done, total = job.meta.get("done", 0), job.meta.get("total")
            bar.update(line, description="pre-labelling", completed=done, total=total)
            time.sleep(LOOK_SECONDS)
    if job is None:
        console.print("the job is gone: Redis was wiped, or somebody deleted it")
        return False
    for problem in job.meta.get("problems", []):
        console.print(f"left out: {problem}", markup=False, highlight=False)
    if job.status == "finished":
        console.print(f"{job.meta.get('done', 0)} images pre-labelled with {job.meta.get('version')}", highlight=False)
        return True
    console.print((job.error or "the job was stopped").strip().splitlines()[-1], markup=False, highlight=False)
    return False


def describe(meta: dict[str, Any]) -> str:
    """How far a retrain is, by its job's meta."""
    stage = str(meta.get("stage", WAITING))
    if stage == "train" and "epoch" in meta:
        epochs = f"epoch {meta['epoch']} of {meta['epochs']}"
        return f"train: {epochs}, loss {meta['loss']:.3f}, {meta['eta_seconds']:.0f} s left"
    return stage


def _bar(console: Console) -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console)

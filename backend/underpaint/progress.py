"""Jobs as people watch them: a bar while they run, and what they left behind."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rq.job import Job, JobStatus

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
        while (job := signals.job(job_id(project))) is not None and not _ended(job):
            meta = job.get_meta()
            run_id = meta.get("id", run_id)
            bar.update(line, description=_describe(meta), completed=meta.get("step", 0), total=meta.get("steps"))
            if stage != (stage := meta.get("stage", WAITING)) and not console.is_terminal:
                console.print(f"{stage} …")  # a log file sees no bar
            time.sleep(LOOK_SECONDS)
    runs = store.runs(project)
    return next((run for run in runs if run["id"] == run_id), runs[-1] if runs else {})


def watch_prelabel(job: Job, console: Console) -> bool:
    """Show a pre-labelling job until it ends; whether it ended well."""
    with _bar(console) as bar:
        line = bar.add_task(WAITING, total=None)
        while not _ended(job):
            meta = job.get_meta()
            bar.update(line, description="pre-labelling", completed=meta.get("done", 0), total=meta.get("total"))
            time.sleep(LOOK_SECONDS)
    meta = job.get_meta()
    for problem in meta.get("problems", []):
        console.print(f"left out: {problem}", highlight=False)
    if job.get_status() == JobStatus.FINISHED:
        console.print(f"{meta.get('done', 0)} images pre-labelled with {meta.get('version')}", highlight=False)
        return True
    result = job.latest_result()
    said = result.exc_string if result else None
    console.print((said or "the job was stopped").strip().splitlines()[-1], highlight=False)
    return False


def _ended(job: Job) -> bool:
    return job.get_status() in (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED)


def _describe(meta: dict[str, Any]) -> str:
    stage = str(meta.get("stage", WAITING))
    if stage == "train" and "epoch" in meta:
        epochs = f"epoch {meta['epoch']} of {meta['epochs']}"
        return f"train: {epochs}, loss {meta['loss']:.3f}, {meta['eta_seconds']:.0f} s left"
    return stage


def _bar(console: Console) -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console)

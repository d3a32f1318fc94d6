"""What an admin does from outside the backend: look, retrain, roll back, pre-label."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from rich.console import Console
from rq import Worker

from underpaint import base
from underpaint.checkpoints.pruning import prune
from underpaint.checkpoints.store import CARD, Promotion, Store
from underpaint.jobs import PRELABEL
from underpaint.labelstudio.client import LabelStudio
from underpaint.progress import describe, watch_prelabel, watch_retrain
from underpaint.project import find_key, key_of
from underpaint.settings import Settings
from underpaint.signals import Signals, completion_id, job_id

PRELABEL_TIMEOUT = 24 * 3600


class AdminError(ValueError):
    """An admin asked for something that can't be done; the message says what can."""


@dataclass(frozen=True)
class ProjectStatus:
    """One project at a glance."""

    project: str
    champion: str
    since: str
    new_labels: int | None
    """None when Redis, which counts them, can't be reached."""
    last_run: str
    result: str


class Admin:
    """The admin's hand on the store and on Redis; no backend needs to run."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = Store(settings.store)
        self._base = base.load(settings.base)
        self._signals = Signals(settings.redis_url, settings.queue)

    def key(self, name: str) -> str:
        """The key of the project that ``name``, an id or a key, stands for.

        Label Studio is asked where the settings name it, for an id may have belonged to another project before.
        """
        if name.isdigit() and self._settings.label_studio:
            return key_of(LabelStudio(*self._settings.label_studio).project(int(name)))
        if key := find_key(name, self._store.projects()):
            return key
        known = ", ".join(self._store.projects()) or "none"
        raise AdminError(
            f"no project {name!r} in the store {self._settings.store} (known: {known}): check UNDERPAINT_STORE, or set "
            "UNDERPAINT_LABEL_STUDIO_URL and UNDERPAINT_LABEL_STUDIO_TOKEN so that Label Studio can be asked"
        )

    def status(self) -> list[ProjectStatus]:
        """Every project that the store or Redis knows."""
        try:
            counts = {project: waiting.labels for project, waiting in self._signals.pending().items()}
        except redis.RedisError:
            counts = None
        projects = {*self._store.projects(), *(counts or ())}
        return [
            self._status(project, None if counts is None else counts.get(project, 0))
            for project in sorted(projects, key=lambda key: (len(key.partition(".")[0]), key))
        ]

    def cancel(self, project: str) -> str | None:
        """Stop a project's retrain; what it was doing, or None."""
        return self._signals.cancel_retrain(project)

    def completions(self) -> list[str]:
        """A sentence on every project whose tasks wait for predictions that a worker is to bring."""
        try:
            return [self._completion(project, tasks) for project, tasks in self._signals.completions.waiting().items()]
        except redis.RedisError:
            return []

    def _completion(self, project: str, tasks: int) -> str:
        job = self._signals.job(completion_id(project))
        line = f"project {project}: {tasks} tasks that Label Studio asked for wait for a worker to predict them"
        if job is None:
            return f"{line}; it begins in a moment"
        if job.ended:
            why = (job.error or "it was stopped").strip().splitlines()[-1]
            return f"{line}; the last try failed, the next comes in a minute: {why}"
        brought = f", {job.meta['done']} predictions are in Label Studio already" if job.meta.get("done") else ""
        return f"{line}; {job.status}{brought}"

    def _status(self, project: str, new_labels: int | None) -> ProjectStatus:
        champion = self._store.champion(project)
        runs = self._store.runs(project)
        last = runs[-1] if runs else {}
        how_far = "" if new_labels is None else self._under_way(project)
        return ProjectStatus(
            project=project,
            champion=champion.version if champion else "none yet (base)" if self._base else "none yet",
            since=champion.when if champion else "",
            new_labels=new_labels,
            last_run=str(last.get("started", "never")),
            result=how_far or str(last.get("error") or last.get("reason") or last.get("stage", "")),
        )

    def _under_way(self, project: str) -> str:
        """How far the project's retrain is, if one is queued or runs."""
        job = self._signals.job(job_id(project))
        return describe(job.meta) if job and not job.ended else ""

    def retrain(self, project: str) -> str:
        """Queue a retrain now; returns its job id. Raises AdminError when no worker is there to run it."""
        self._need_worker()
        self._signals.request(project)
        self._signals.enqueue_retrain(project, self._settings.retrain_timeout, again=True)
        return job_id(project)

    def watch_retrain(self, project: str, console: Console) -> bool:
        """Show the running retrain until it ends; whether it ended well."""
        record = watch_retrain(self._signals, self._store, project, console)
        console.print(record.get("error") or record.get("reason") or record.get("stage"), highlight=False)
        return record.get("status") == "finished"

    def promotions(self, name: str) -> list[tuple[Promotion, bool]]:
        """Every move of a project's champion, oldest first, and whether its checkpoint is still there."""
        moves = self._store.promotions(self.key(name))
        kept = {version for version, files in self._store.checkpoints().items() if CARD in files}
        return [(move, move.version in kept) for move in moves]

    def prune(self, only_say: bool) -> list[str]:
        """Remove the checkpoints that the settings don't keep, or ``only_say`` which; returns their versions."""
        return prune(self._store, self._settings.keep_checkpoints, self._settings.keep_days, only_say=only_say)

    def rollback(self, project: str, version: str | None) -> Promotion:
        """Make ``version``, which may be the base's, or else the champion before this one, the champion."""
        moves = self._store.promotions(project)
        if not moves:
            raise AdminError(f"project {project} has no champion yet, so there is nothing to roll back to")
        if version is None:
            earlier = [move.version for move in moves if move.version != moves[-1].version]
            if not earlier:
                remedy = f": name {self._base.version} to go back to the base" if self._base else ""
                raise AdminError(f"project {project} has had one champion only, {moves[-1].version}{remedy}")
            version = earlier[-1]
        self._keep(version)
        metrics = next((move.metrics for move in reversed(moves) if move.version == version), {})
        return self._move(project, version, f"rolled back from {moves[-1].version}", metrics)

    def promote(self, project: str, version: str) -> Promotion:
        """Make a challenger of the project the champion, though the gate refused it.

        Raises AdminError when no retrain of the project made ``version``, or it serves already.
        """
        champion = self._store.champion(project)
        if champion and champion.version == version:
            raise AdminError(f"project {project} serves {version} already")
        made = {str(run["version"]): run for run in self._store.runs(project) if "version" in run}
        if version not in made:
            raise AdminError(
                f"no retrain of project {project} made {version} (they made: {', '.join(made) or 'none yet'}): name "
                "one of these; `underpaint rollback` goes to any checkpoint in the store, once there is a champion"
            )
        why = f"promoted by hand; the gate said: {made[version].get('reason', 'nothing')}"
        return self._move(project, version, why, self._store.card(version).metrics)

    def _move(self, project: str, version: str, why: str, metrics: dict[str, Any]) -> Promotion:
        move = self._store.promote(project, version, "admin", why, metrics)
        with contextlib.suppress(redis.RedisError):  # the backends' poll of the store finds it too
            self._signals.announce(project)
        return move

    def report(self, project: str, run: str | None) -> str:
        """Where the report of a run is, or else that of the last one that left a report: a path, or a URL."""
        reports = {str(each["id"]): str(each["report"]) for each in self._store.runs(project) if each.get("report")}
        if not reports:
            raise AdminError(f"no retrain of project {project} has left a report yet: see `underpaint status`")
        if run is not None and run not in reports:
            raise AdminError(f"project {project} has no report of a run {run!r}; it has those of {', '.join(reports)}")
        return self._store.address(project, reports[run or max(reports)])

    def prelabel(
        self, folder: Path, project: str | None, to: Path | None, checkpoint: str | None, console: Console
    ) -> bool:
        """Queue a pre-labelling job and show it until it ends; whether it ended well."""
        if project is None and to is None:
            raise AdminError("say where the pre-labels go: --project ID, or --to FOLDER")
        if checkpoint is None:
            checkpoint = self._champion_for(project)
        self._need_worker()
        self._keep(checkpoint)
        job = self._signals.queue.enqueue_call(
            PRELABEL,
            kwargs={
                "folder": str(folder),
                "project": project if to is None else None,
                "to": str(to) if to else None,
                "version": checkpoint,
            },
            timeout=PRELABEL_TIMEOUT,
        )
        return watch_prelabel(self._signals, job.id, console)

    def _champion_for(self, project: str | None) -> str:
        """The version that pre-labels for ``project``, or for all alike: a champion, or before the first the base."""
        champions = {key: move.version for key in self._store.projects() if (move := self._store.champion(key))}
        if self._base and not (champions if project is None else project in champions):
            return self._base.version
        if project is not None:
            if project not in champions:
                raise AdminError(f"project {project} has no champion yet: train it first, or name a --checkpoint")
            return champions[project]
        if len(set(champions.values())) == 1:
            return next(iter(champions.values()))
        raise AdminError(
            f"say which checkpoint to use: --checkpoint VERSION, or --project ID for its champion (there are "
            f"{', '.join(f'{version} of project {key}' for key, version in champions.items()) or 'none yet'})"
        )

    def _keep(self, version: str) -> None:
        """Put the base in the store if ``version`` is the base's: nobody else needed it there before."""
        if self._base and self._base.version == version:
            self._store.put(self._base)

    def _need_worker(self) -> None:
        if not Worker.count(connection=self._signals.redis):
            raise AdminError("no worker is running, so nothing would happen: start one with `underpaint work`")

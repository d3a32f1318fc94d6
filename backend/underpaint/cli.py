"""The ``underpaint`` command."""

import logging
import os
import sys
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, NoReturn

import redis
import typer
import uvicorn
from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from underpaint.admin import Admin, AdminError
from underpaint.checkpoints.store import StoreError
from underpaint.labelstudio.client import LabelStudioError
from underpaint.project import ProjectError
from underpaint.serving.memory import limit_arenas
from underpaint.settings import get_settings
from underpaint.up import up as run_up

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
console = Console()
complaints = Console(stderr=True, soft_wrap=True, highlight=False)

Project = Annotated[str, typer.Argument(help="Label Studio's project id, such as 3, or a full key, 3.1795344327.")]
Port = Annotated[int, typer.Option(help="Port of the backend.")]
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")]
StoreUrl = Annotated[str | None, typer.Option("--store", help="Folder or fsspec URL of the store.")]


@app.command()
def up(port: Port = 9090, host: Host = "127.0.0.1", store: StoreUrl = None) -> None:
    """Run Redis (if none is given), the backend and one worker, in the foreground."""
    _set_store(store)
    raise typer.Exit(run_up(host, port))


@app.command()
def serve(port: Port = 9090, host: Host = "127.0.0.1", store: StoreUrl = None) -> None:
    """Run the ML backend that Label Studio connects to."""
    _set_store(store)
    limit_arenas()  # before any thread starts
    from underpaint.serving.app import create_app  # torch takes seconds to import; status and rollback don't need it

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    uvicorn.run(create_app(get_settings()), host=host, port=port, log_config=None, access_log=False)


@app.command()
def work(store: StoreUrl = None) -> None:
    """Run one RQ worker, which retrains and pre-labels."""
    _set_store(store)
    # The worker takes this process's place, and with it the signals that are meant for it.
    os.execv(sys.executable, [sys.executable, "-m", "underpaint_workers"])


@app.command()
def status() -> None:
    """Show each project's champion, what waits, and its last retrain."""
    # What can't wrap has to leave room for the result in a terminal of 80 columns.
    table = Table(*map(_whole, ("project", "champion", "new")), "last retrain")
    admin = Admin(get_settings())
    for row in admin.status():
        waiting = "unknown" if row.new_labels is None else str(row.new_labels)
        champion = f"{row.champion}\n{_minute(row.since)}".strip()
        table.add_row(row.project, champion, waiting, Text(f"{_minute(row.last_run)} {row.result}".strip()))
    console.print(table)
    for line in admin.completions():
        console.print(line, markup=False, highlight=False)


@app.command()
def retrain(
    project: Project, wait: Annotated[bool, typer.Option(help="Show its progress until it ends.")] = True
) -> None:
    """Retrain a project now."""
    admin = Admin(get_settings())
    key = admin.key(project)
    job = admin.retrain(key)
    console.print(f"queued as job {job}")
    if wait and not admin.watch_retrain(key, console):
        raise typer.Exit(1)


@app.command()
def checkpoints(project: Project) -> None:
    """List a project's promotions, the oldest first; the last is what it serves."""
    table = Table(*map(_whole, ("version", "kept", "promoted", "by")), "why", _whole("mIoU"))
    for move, kept in Admin(get_settings()).promotions(project):
        miou = "–" if move.metrics.get("miou") is None else f"{move.metrics['miou']:.3f}"
        table.add_row(move.version, "yes" if kept else "no", _minute(move.when), move.who, Text(move.why), miou)
    console.print(table)


@app.command("prune")
def prune_checkpoints(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which they are.")] = False,
) -> None:
    """Remove old checkpoints that the settings don't keep, of all projects; each retrain does it too."""
    pruned = Admin(get_settings()).prune(dry_run)
    for version in pruned:
        typer.echo(version)
    complaints.print(f"{len(pruned)} checkpoints {'would be' if dry_run else 'were'} removed")


@app.command()
def rollback(
    project: Project,
    version: Annotated[
        str | None, typer.Argument(help="Checkpoint to go back to; the previous champion if left out.")
    ] = None,
) -> None:
    """Make an earlier checkpoint the champion again, on every backend within seconds."""
    admin = Admin(get_settings())
    move = admin.rollback(admin.key(project), version)
    console.print(f"project {project} now serves {move.version} ({move.why})")


@app.command()
def cancel(project: Project) -> None:
    """Stop a project's retrain, queued or running; its labels are learned from with the next new one."""
    admin = Admin(get_settings())
    stopped = admin.cancel(admin.key(project))
    console.print({"queued": "taken from the queue", None: "no retrain is queued or runs"}.get(stopped, "stopping"))


@app.command()
def promote(
    project: Project, version: Annotated[str, typer.Argument(help="Challenger that the gate refused.")]
) -> None:
    """Make a challenger that the gate refused the champion, on every backend within seconds."""
    admin = Admin(get_settings())
    move = admin.promote(admin.key(project), version)
    console.print(f"project {project} now serves {move.version} ({move.why})")


@app.command()
def report(
    project: Project,
    run: Annotated[str | None, typer.Argument(help="Id of a retrain; the last that left a report if left out.")] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser too.")] = False,
) -> None:
    """Say where the report of a retrain is: scores, curves, the gate's reasons, labels to look at again."""
    admin = Admin(get_settings())
    address = admin.report(admin.key(project), run)
    typer.echo(address)
    if show:
        typer.launch(address)


@app.command()
def prelabel(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of images.")],
    project: Annotated[str | None, typer.Option(help="Project that gets the images as tasks with predictions.")] = None,
    to: Annotated[Path | None, typer.Option(help="Folder that gets images and label maps instead.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Checkpoint to use; the project's champion if left out.")
    ] = None,
) -> None:
    """Pre-label a folder of images on a worker, into Label Studio or onto disk."""
    admin = Admin(get_settings())
    key = admin.key(project) if project else None
    if not admin.prelabel(folder.resolve(), key, to.resolve() if to else None, checkpoint, console):
        raise typer.Exit(1)


def _add_commands() -> None:
    """Add the commands of other packages: the workers', by the entry points in pyproject.toml."""
    for entry in entry_points(group="underpaint.commands"):
        with suppress(ModuleNotFoundError):  # a machine may have the backend alone
            app.command(entry.name)(entry.load())


_add_commands()


def _whole(heading: str) -> Column:
    """A column whose values stay in one piece, so that they can be copied."""
    return Column(heading, no_wrap=True)


def _minute(when: str) -> str:
    """An ISO 8601 time in UTC, to the minute; other words as they are."""
    return f"{when[:10]} {when[11:16]}" if when[:1].isdigit() else when


def _set_store(store: str | None) -> None:
    """Children and settings read the environment, so that is where an option goes."""
    if store is not None:
        os.environ["UNDERPAINT_STORE"] = store
        get_settings.cache_clear()


def main() -> None:
    """Run the command; faults that a person can mend are one line, not a traceback."""
    try:
        app()
    except (AdminError, LabelStudioError, ProjectError, StoreError) as error:
        _fail(str(error))
    except redis.RedisError as error:
        _fail(f"Redis can't be reached ({error}): start it, or set REDIS_URL")
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])).upper()}: {fault['msg']}" for fault in error.errors()]
        _fail("; ".join(f"the setting UNDERPAINT_{fault}" for fault in faults))
    except (ValueError, OSError) as error:  # how data sets, checkpoints and training say what is wrong with them
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    complaints.print(Text.assemble(("error: ", "red"), message))
    sys.exit(1)


if __name__ == "__main__":
    main()

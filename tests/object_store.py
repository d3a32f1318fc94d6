"""A real S3 server on a free loopback port, which can be down for a while."""

import contextlib
from typing import Self

import fsspec
import pytest

from underpaint.redis_server import free_port

BUCKET = "underpaint-test"


class ObjectStore:
    """A ``with`` block around the server; the environment says where it is, as it does in production.

    There is one in a test session: fsspec goes on with the server that it met first.
    """

    url = f"s3://{BUCKET}"

    def __init__(self) -> None:
        self._port = free_port()
        self._patch = pytest.MonkeyPatch()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",  # who finds it down need not try for seconds
        }

    def start(self) -> None:
        """Start it, with what it held before: moto keeps that in this process."""
        from moto.server import ThreadedMotoServer  # which takes long to import

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def __enter__(self) -> Self:
        for name, value in self.environment.items():
            self._patch.setenv(name, value)
        self.start()
        with contextlib.suppress(FileExistsError):
            fsspec.filesystem("s3").mkdir(BUCKET)
        return self

    def __exit__(self, *exception: object) -> None:
        self._patch.undo()
        self.stop()

"""The HTTP app on a port of its own, for what the test client can't do."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from underpaint.redis_server import free_port


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """A server of its own: the test client never hangs up."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()

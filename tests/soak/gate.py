"""What stands in front of a backend and sees every request, Label Studio's own among them."""

import http.client
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from soak.exchanges import Exchange

DOWN = 502
"""What a gate answers where its backend doesn't."""
ANSWER_SECONDS = 120.0  # somewhat longer than Label Studio waits


class Gate(ThreadingHTTPServer):
    """Passes requests on to the backend at ``target``, and enters each, with its answer, with ``enter``."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, name: str, target: str, enter: Callable[[Exchange], None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name, self.enter = name, enter
        self.target = target.removeprefix("http://")
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, name=f"gate of {name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Gate

    def do_GET(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        began = time.monotonic()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, answer = self._ask(body)
        self.server.enter(Exchange(self.server.name, self.path, began, time.monotonic(), body, status, answer))
        with suppress(OSError):  # who asked may have hung up, which its time then tells
            self.send_response(status or DOWN)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    def _ask(self, body: bytes) -> tuple[int | None, bytes]:
        connection = http.client.HTTPConnection(self.server.target, timeout=ANSWER_SECONDS)
        try:
            connection.request(self.command, self.path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            return None, repr(error).encode()
        finally:
            connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """The ledger has it."""

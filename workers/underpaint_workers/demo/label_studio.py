"""A real Label Studio on this machine, for the demo and the end-to-end tests.

``python -m underpaint_workers.demo.label_studio EXECUTABLE TEMPLATE`` migrates an empty database into TEMPLATE.
"""

import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx

logger = logging.getLogger(__name__)

START_TIMEOUT = 300.0  # seconds; migrating an empty database takes 45 of them on two cores
STOP_TIMEOUT = 10.0
USERNAME = "painter@example.com"

# Label Studio reads bare names such as HOST, PORT and DEBUG; of the caller's environment it gets these alone.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
_ENVIRONMENT = {
    "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
    "COLLECT_ANALYTICS": "false",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    # An ML backend on a loopback or private address is refused unless both are off.
    "ML_BLOCK_LOCAL_IP": "false",
    "SSRF_PROTECTION_ENABLED": "false",
}


class LabelStudioError(RuntimeError):
    """Label Studio could not be started; the message ends with the last lines of its log."""


class LabelStudioServer:
    """Label Studio as a child process on 127.0.0.1, from an environment of its own; a context manager.

    Projects, uploads, log and credentials live in ``data_dir``: a second server on the same folder continues
    where the first one stopped, under the same user, password and token.

    Args:
        executable: the ``label-studio`` command of the environment it is installed in.
        data_dir: its data folder; made when absent.
        port: TCP port; 0 picks a free one.
        template: folder that keeps a migrated, empty database. It is made once (about 50 s); a new ``data_dir``
            copies it and starts in some 6 s. Name it after the Label Studio version. None migrates in ``data_dir``.
        media_root: folder whose files tasks may name as ``/data/local-files/?d=<path below media_root>``, once their
            project has a local-files storage on a folder below it; None serves no local files.
        report: receives one line whenever something takes seconds.
    """

    def __init__(
        self,
        executable: Path,
        data_dir: Path,
        port: int = 0,
        template: Path | None = None,
        media_root: Path | None = None,
        report: Callable[[str], None] = logger.info,
    ) -> None:
        self.executable = executable
        self.data_dir = data_dir.resolve()
        self.port = port
        self.template = template
        self.media_root = media_root
        self.report = report
        self.log_path = self.data_dir / "label-studio.log"
        self.username = USERNAME
        self.password = ""
        self.token = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Base URL without a slash at its end; final once the server has started."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and return when ``GET /health`` says UP.

        Raises:
            LabelStudioError: the executable is absent, the port is taken, or the server died or took too long.
        """
        if not self.executable.exists():
            raise LabelStudioError(
                f"There is no Label Studio at {self.executable}; install it into an environment of its own with "
                "`pip install -r docker/label-studio.txt` and name its label-studio command."
            )
        self._prepare_data_dir()
        self._read_or_make_credentials()
        self.port = _free_port(self.port)
        self.report(f"Label Studio is starting on {self.url} ...")
        with self.log_path.open("wb") as log:
            # --debug only keeps it from moving to another port than the one it was given.
            self._process = subprocess.Popen(
                [
                    *(str(self.executable), "start", "--no-browser", "--debug"),
                    *("--internal-host", "127.0.0.1", "--port", str(self.port), "--host", self.url),
                ],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_up(self._process)
        except BaseException:
            self.stop()
            raise
        self.report(f"Label Studio is up on {self.url}")

    def stop(self) -> None:
        """End the server with everything that it started; nothing happens when none is running."""
        process, self._process = self._process, None
        if process is None:
            return
        _signal_group(process, signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            _signal_group(process, signal.SIGKILL)
            process.wait()

    def _prepare_data_dir(self) -> None:
        if (self.data_dir / "label_studio.sqlite3").exists():
            return
        self.data_dir.mkdir(parents=True, exist_ok=True)
        if self.template is None:
            return
        if not self.template.exists():
            self.report("Label Studio migrates an empty database; this is needed once and takes about a minute ...")
            make_template(self.executable, self.template)
        # .env holds the key that signs sessions; every server draws its own.
        shutil.copytree(self.template, self.data_dir, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".env"))

    def _read_or_make_credentials(self) -> None:
        # Label Studio ignores --password and --user-token for a user that exists, so they stay with the data.
        path = self.data_dir / "credentials.json"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(json.dumps({"password": secrets.token_urlsafe(12), "token": secrets.token_hex(20)}))
        credentials = json.loads(path.read_text())
        self.password, self.token = credentials["password"], credentials["token"]

    def _environment(self) -> dict[str, str]:
        environment = _base_environment(self.data_dir) | {
            "LABEL_STUDIO_USERNAME": self.username,
            "LABEL_STUDIO_PASSWORD": self.password,
            "LABEL_STUDIO_USER_TOKEN": self.token,
        }
        if self.media_root is not None:
            environment["LOCAL_FILES_SERVING_ENABLED"] = "true"
            environment["LOCAL_FILES_DOCUMENT_ROOT"] = str(self.media_root.resolve())
        return environment

    def _wait_until_up(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise LabelStudioError(
                    f"Label Studio ended with status {process.returncode} before it was up. {self.log_path} ends:\n"
                    + _last_lines(self.log_path)
                )
            if _is_up(self.url):
                return
            time.sleep(0.2)
        raise LabelStudioError(
            f"Label Studio was not up on {self.url} after {START_TIMEOUT:.0f} s. {self.log_path} ends:\n"
            + _last_lines(self.log_path)
        )


def make_template(executable: Path, template: Path) -> None:
    """Migrate an empty database into ``template``, which appears only when it is complete.

    ``label-studio version`` migrates and creates no user, so each copy gets a user with credentials of its own.
    """
    template.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=template.parent, prefix=f"{template.name}.") as folder:
        unfinished = Path(folder) / "data"
        log_path = Path(folder) / "migration.log"
        try:
            with log_path.open("wb") as log:
                subprocess.run(
                    [str(executable), "version"],
                    env=_base_environment(unfinished),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=START_TIMEOUT,
                    check=True,
                )
        except subprocess.SubprocessError as error:
            raise LabelStudioError(
                f"Label Studio could not migrate an empty database ({error}). Its log ends:\n" + _last_lines(log_path)
            ) from error
        try:
            unfinished.rename(template)
        except OSError:
            if not template.exists():  # another process may have made it first; any other failure counts
                raise


def _base_environment(data_dir: Path) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return inherited | _ENVIRONMENT | {"LABEL_STUDIO_BASE_DATA_DIR": str(data_dir)}


def _free_port(port: int) -> int:
    try:
        with socket.create_server(("127.0.0.1", port)) as listener:
            return int(listener.getsockname()[1])
    except OSError as error:
        raise LabelStudioError(
            f"Port {port} on 127.0.0.1 can't be used ({error}); end what listens there, or choose another port."
        ) from error


def _is_up(url: str) -> bool:
    try:
        return bool(httpx.get(f"{url}/health", timeout=2.0, trust_env=False).json() == {"status": "UP"})
    except (httpx.HTTPError, ValueError):
        return False


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _last_lines(path: Path, count: int = 20) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-count:])


if __name__ == "__main__":
    make_template(Path(sys.argv[1]), Path(sys.argv[2]))

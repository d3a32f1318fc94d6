"""A real Label Studio and a real browser for the end-to-end tests.

Fixtures live as long as this package's tests: Playwright keeps an event loop running in the main thread, which tests
elsewhere must not meet.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page

from e2e.browser import chromium_page, sign_in
from underpaint.labelstudio.client import LabelStudio
from underpaint_workers.demo.label_studio import LabelStudioServer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="package")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioServer]:
    """A running Label Studio without projects; it serves local files of folders below its ``media_root``."""
    executable = Path(os.environ.get("LABEL_STUDIO_EXECUTABLE", ROOT / ".venv-labelstudio/bin/label-studio"))
    if not executable.exists():
        pytest.skip(f"no Label Studio at {executable}; `make test` installs it")
    template = ROOT / "build/label-studio-template-1.23.2"
    data_dir, media_root = tmp_path_factory.mktemp("label-studio"), tmp_path_factory.mktemp("media")
    with LabelStudioServer(executable, data_dir, template=template, media_root=media_root) as server:
        yield server


@pytest.fixture(scope="package")
def client(label_studio: LabelStudioServer) -> Iterator[LabelStudio]:
    """Underpaint's own client of ``label_studio``, by the legacy token."""
    with closing(LabelStudio(label_studio.url, label_studio.token)) as client:
        yield client


@pytest.fixture(scope="package")
def label_studio_api(label_studio: LabelStudioServer) -> Iterator[httpx.Client]:
    """Label Studio's API, by its legacy token; an error status fails the test with what the API said."""
    with httpx.Client(
        base_url=label_studio.url,
        headers={"Authorization": f"Token {label_studio.token}"},
        timeout=60.0,
        trust_env=False,
        event_hooks={"response": [_assert_success]},
    ) as client:
        yield client


def _assert_success(response: httpx.Response) -> None:
    if response.is_error:
        response.read()
        pytest.fail(f"{response.request.method} {response.url} answered {response.status_code}: {response.text}")


@pytest.fixture(scope="package")
def browser_page(label_studio: LabelStudioServer) -> Iterator[Page]:
    """A Chromium page that is signed in to ``label_studio``."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on PATH; install Debian's package `chromium` to run the browser tests")
    with chromium_page(Path(chromium)) as page:
        sign_in(page, label_studio)
        yield page


@pytest.fixture(scope="session")
def artefacts() -> Path:
    """Folder that keeps the screenshots of the last run."""
    folder = ROOT / "build/artefacts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder

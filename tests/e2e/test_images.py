"""Images come from wherever tasks point: uploads, storages, other hosts; by any token; below a sub-path."""

import base64
import io
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import httpx
import numpy as np
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from PIL import Image
from werkzeug.serving import make_server

from http_server import Answer, Request, serve
from underpaint.labelstudio.client import LabelStudio
from underpaint.labelstudio.images import ImageError, ImageFetcher, NotAllowed, Rgb
from underpaint.settings import Settings
from underpaint_workers.demo.label_studio import LabelStudioServer

pytestmark = pytest.mark.e2e

LABEL_CONFIG = (
    '<View><Image name="image" value="$image"/>'
    '<BrushLabels name="brush" toName="image"><Label value="Sky"/></BrushLabels></View>'
)
PIXELS: Rgb = np.random.default_rng(7).integers(0, 256, (12, 17, 3)).astype(np.uint8)
# What URLs must quote, and umlauts, as painters' names have them.
FILE_NAME = "Mönch am Meer & 100%.png"
BUCKET, KEY = "paintings", "testing"
HOP_BY_HOP = {"connection", "content-length", "host", "transfer-encoding"}  # RFC 9110, 7.6.1


@dataclass
class S3:
    """A running S3 with one bucket, and what it was asked for: WSGI environments, in order."""

    host: str
    requests: list[dict[str, Any]] = field(default_factory=list)

    @property
    def storage(self) -> dict[str, str]:
        """What an import storage of Label Studio needs to know of it."""
        return {
            "bucket": BUCKET,
            "aws_access_key_id": KEY,
            "aws_secret_access_key": KEY,
            "s3_endpoint": f"http://{self.host}",
        }

    def by_underpaint(self) -> list[dict[str, Any]]:
        """The requests that Underpaint made, not Label Studio."""
        return [request for request in self.requests if request["HTTP_USER_AGENT"] == "underpaint"]


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


@contextmanager
def sub_path_proxy(url: str) -> Iterator[str]:
    """A reverse proxy that shows ``url`` below ``/labels`` and nothing beside it."""

    def forward(request: Request) -> Answer:
        if not request.target.startswith("/labels/"):
            return Answer(status=404)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        upstream = url + request.target.removeprefix("/labels")
        with httpx.Client(timeout=60, trust_env=False) as http:
            answer = http.request(request.method, upstream, headers=headers, content=request.body)
        kept = {name: value for name, value in answer.headers.items() if name not in {*HOP_BY_HOP, "content-encoding"}}
        return Answer(answer.content, answer.status_code, kept)

    with serve(forward) as server:
        yield f"{server.url}/labels"


@pytest.fixture(scope="module")
def personal_access_token(client: LabelStudio) -> str:
    return str(client.post("/api/token/", {})["token"])


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((False, False), id="legacy token"),
        pytest.param((True, False), id="personal access token"),
        pytest.param((True, True), id="personal access token, sub-path"),
    ],
)
def access(
    request: pytest.FixtureRequest, label_studio: LabelStudioServer, personal_access_token: str
) -> Iterator[LabelStudio]:
    """Label Studio by each kind of token, and below a sub-path."""
    personal, below_sub_path = request.param
    token = personal_access_token if personal else label_studio.token
    if not below_sub_path:
        with closing(LabelStudio(label_studio.url, token)) as access:
            yield access
        return
    with sub_path_proxy(label_studio.url) as url, closing(LabelStudio(url, token)) as access:
        yield access


@pytest.fixture
def fetcher(access: LabelStudio) -> Callable[..., ImageFetcher]:
    """``fetcher(*allowed_hosts)``"""
    return lambda *hosts: ImageFetcher(Settings(allowed_hosts=list(hosts)), access)


@pytest.fixture(scope="module")
def project_id(client: LabelStudio) -> int:
    project = client.post("/api/projects/", {"title": "Images", "label_config": LABEL_CONFIG})
    return int(project["id"])


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    app = DomainDispatcherApplication(create_backend_app)

    def recording(environ: dict[str, Any], start_response: Any) -> Any:
        running.requests.append(dict(environ))
        return app(environ, start_response)

    server = make_server("127.0.0.1", 0, recording, threaded=True)
    running = S3(f"127.0.0.1:{server.port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    files = fsspec.filesystem("s3", key=KEY, secret=KEY, client_kwargs={"endpoint_url": f"http://{running.host}"})
    files.mkdir(BUCKET)
    files.pipe(f"{BUCKET}/{FILE_NAME}", png())
    yield running
    server.shutdown()
    server.server_close()
    thread.join()


def image_of(access: LabelStudio, project_id: int, task_id: int) -> str:
    """The image field of a task, as the export and /predict have it."""
    [image] = [task["data"]["image"] for task in access.tasks(project_id) if task["id"] == task_id]
    return str(image)


def upload(access: LabelStudio, project_id: int, folder: Path) -> tuple[str, int]:
    """An uploaded image: the image field and the id of its task."""
    (folder / FILE_NAME).write_bytes(png())
    [task_id] = access.upload(project_id, folder / FILE_NAME)["task_ids"]
    return image_of(access, project_id, task_id), task_id


def synced_task(access: LabelStudio, kind: str, **storage: Any) -> tuple[str, int]:
    """The one task that a new import storage makes of the one file it holds, in a project of its own."""
    project_id = access.post("/api/projects/", {"title": f"Storage {kind}", "label_config": LABEL_CONFIG})["id"]
    fields = {"project": project_id, "title": kind, "use_blob_urls": True, **storage}
    created = access.post(f"/api/storages/{kind}", fields)
    synced = access.post(f"/api/storages/{kind}/{created['id']}/sync", {})
    assert synced["status"] == "completed", synced["traceback"]
    [task] = access.tasks(project_id)
    return str(task["data"]["image"]), int(task["id"])


def test_an_upload(access: LabelStudio, fetcher: Callable[..., ImageFetcher], project_id: int, tmp_path: Path) -> None:
    image, task_id = upload(access, project_id, tmp_path)
    assert image.startswith("/data/upload/")

    assert np.array_equal(fetcher().fetch(image, task_id), PIXELS)
    assert fetcher().fetch_bytes(image, task_id) == png()


def test_a_file_of_a_local_storage(
    access: LabelStudio, fetcher: Callable[..., ImageFetcher], label_studio: LabelStudioServer
) -> None:
    assert label_studio.media_root is not None
    folder = label_studio.media_root / "paintings"
    folder.mkdir(exist_ok=True)
    (folder / FILE_NAME).write_bytes(png())

    image, task_id = synced_task(access, "localfiles", path=str(folder))

    # Label Studio writes its own address into it, by which it may not be reached from here.
    assert "/data/local-files/?d=paintings/" in image
    assert np.array_equal(fetcher().fetch(image, task_id), PIXELS)


@pytest.mark.parametrize("url", ["/data/upload/1/gone.png", "/data/local-files/?d=gone.png", "s3://bucket/gone.png"])
def test_what_label_studio_lacks_is_named(client: LabelStudio, url: str) -> None:
    with pytest.raises(ImageError, match=rf"task 4: {re.escape(url)}: 127.0.0.1 answered .*no such file or task"):
        ImageFetcher(Settings(allowed_hosts=[]), client).fetch(url, 4)


def test_another_host_never_gets_the_token(fetcher: Callable[..., ImageFetcher]) -> None:
    with serve(lambda _: Answer(png())) as elsewhere:
        url = f"{elsewhere.url}/data/upload/1/painting.png"
        with pytest.raises(NotAllowed, match="UNDERPAINT_ALLOWED_HOSTS"):
            fetcher("*").fetch(url, 1)
        assert elsewhere.requests == []

        assert np.array_equal(fetcher(elsewhere.host).fetch(url, 1), PIXELS)

    [request] = elsewhere.requests
    assert "authorization" not in {name.lower() for name in request.headers}


def test_a_data_uri(access: LabelStudio, fetcher: Callable[..., ImageFetcher], project_id: int) -> None:
    uri = "data:image/png;base64," + base64.b64encode(png()).decode()
    [task_id] = access.import_tasks(project_id, [{"data": {"image": uri}}])["task_ids"]
    image = image_of(access, project_id, task_id)

    assert np.array_equal(fetcher().fetch(image, task_id), PIXELS)


@pytest.mark.parametrize("presign", [True, False], ids=["presigned", "through Label Studio"])
def test_an_object_of_an_s3_storage(
    access: LabelStudio, fetcher: Callable[..., ImageFetcher], s3: S3, presign: bool
) -> None:
    image, task_id = synced_task(access, "s3", **s3.storage, presign=presign)
    assert image == f"s3://{BUCKET}/{FILE_NAME}"
    s3.requests.clear()

    # Only a presigned URL sends Underpaint to the S3 server, which then must be an allowed host.
    hosts = [s3.host] if presign else []
    assert np.array_equal(fetcher(*hosts).fetch(image, task_id), PIXELS)

    assert len(s3.requests) >= 1
    assert len(s3.by_underpaint()) == presign
    assert not any("HTTP_AUTHORIZATION" in request for request in s3.by_underpaint())


def test_a_presigned_url_leads_to_allowed_hosts_only(client: LabelStudio, s3: S3) -> None:
    image, task_id = synced_task(client, "s3", **s3.storage, presign=True)
    s3.requests.clear()
    with pytest.raises(NotAllowed, match=rf"task {task_id}: s3://.* {s3.host} "):
        ImageFetcher(Settings(allowed_hosts=["*"]), client).fetch(image, task_id)
    assert s3.by_underpaint() == []


def test_a_path_below_the_sub_path(
    label_studio: LabelStudioServer, client: LabelStudio, project_id: int, tmp_path: Path
) -> None:
    """A Label Studio that knows its sub-path writes it into its tasks' data; one that doesn't, doesn't."""
    image, task_id = upload(client, project_id, tmp_path)
    with sub_path_proxy(label_studio.url) as url, closing(LabelStudio(url, label_studio.token)) as access:
        fetcher = ImageFetcher(Settings(allowed_hosts=[]), access)
        for written in (image, f"/labels{image}", url + image):
            assert np.array_equal(fetcher.fetch(written, task_id), PIXELS), written

"""Images of tasks, fetched within bounds from wherever a task's data points."""

import base64
import binascii
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeAlias
from urllib.parse import unquote, unquote_to_bytes

import httpcore
import httpx

from underpaint.labelstudio.addresses import GuardedBackend, HostPolicy, NotAllowed
from underpaint.labelstudio.client import LabelStudio, LabelStudioError
from underpaint.labelstudio.decoding import ImageError, Rgb, decode
from underpaint.settings import Settings

__all__ = ["ImageError", "ImageFetcher", "NotAllowed", "Rgb", "decode"]

TaskId: TypeAlias = int | str | None

_MAX_REDIRECTS = 5
_HEADERS = (("User-Agent", "underpaint"), ("Accept", "image/*,*/*;q=0.8"), ("Accept-Encoding", "identity"))
_REDIRECTS = {301, 302, 303, 307, 308}
_STORAGE_URI = re.compile(r"(s3|gs|azure-blob)://")
# The paths below which Label Studio serves images; the user's token goes to these alone.
_LABEL_STUDIO_PATH = re.compile(
    r"/data/(upload|local-files)/|/(tasks|projects)/\d+/(resolve|presign)/|/storage-data/uploaded/|/static/"
)
# Label Studio writes these with its public address (LABEL_STUDIO_HOST), by which a container may not reach it.
_WRITTEN_BY_LABEL_STUDIO = re.compile(r"^https?://[^/?#]+.*?(/data/local-files/\?d=.+|/tasks/\d+/resolve/\?fileuri=.+)")
# Reading the certificates takes longer than many a fetch; SSL_CERT_FILE and SSL_CERT_DIR are honoured.
_ssl_context = cache(httpx.create_ssl_context)


class ImageFetcher:
    """Fetches images; safe to share between threads.

    Args:
        settings: ``allowed_hosts``, ``fetch_timeout`` and the ``max_image_*`` bounds are used.
        label_studio: serves ``/data/…`` paths and the URIs of cloud storage; None if there is no access to it.
    """

    def __init__(self, settings: Settings, label_studio: LabelStudio | None) -> None:
        self._settings = settings
        self._label_studio = label_studio
        self._base = httpx.URL(label_studio.url) if label_studio else None
        self._policy = HostPolicy(settings.allowed_hosts, [_origin(self._base)[1:]] if self._base else [])

    def fetch(self, url: str, task_id: TaskId = None, deadline: float | None = None) -> Rgb:
        """One image, uint8 (H, W, 3) RGB, upright (EXIF orientation applied) and at its natural size.

        Args:
            url: the value of the task's image field; see `fetch_bytes`.
            task_id: needed for ``s3://``, ``gs://`` and ``azure-blob://``; named in errors.
            deadline: ``time.monotonic()`` at which to give up, if that is sooner than ``fetch_timeout`` seconds on.

        Raises:
            ImageError: whatever is wrong with it. `NotAllowed` if its host is not among the allowed ones.
        """
        data = self.fetch_bytes(url, task_id, deadline)
        return decode(data, self._settings.max_image_pixels, name_of(url, task_id))

    def fetch_bytes(self, url: str, task_id: TaskId = None, deadline: float | None = None) -> bytes:
        """The image file itself, at most ``max_image_bytes`` long.

        ``url`` may be a path of Label Studio (``/data/upload/…``, ``/data/local-files/?d=…``), with or without its
        address; a ``data:`` URI; an ``s3://``, ``gs://`` or ``azure-blob://`` URI, which Label Studio resolves; or
        any other http(s) URL. Label Studio's token is sent to Label Studio alone.

        Raises:
            ImageError: as `fetch` does.
        """
        try:
            if not isinstance(url, str) or not url.strip():
                raise ImageError("the task has no image URL; check the value of the Image tag in the label config")
            url = url.strip()
            if url[:5].lower() == "data:":
                return self._inline(url)
            by_timeout = time.monotonic() + self._settings.fetch_timeout
            target, trusted = self._locate(url, task_id)
            return self._download(target, trusted, by_timeout if deadline is None else min(deadline, by_timeout))
        except UnicodeError as error:
            raise ImageError(f"{name_of(url, task_id)}: not a valid URL; correct it in the task's data") from error
        except ImageError as error:
            raise type(error)(f"{name_of(url, task_id)}: {error}") from error.__cause__

    def _inline(self, uri: str) -> bytes:
        """The content of a data URI (RFC 2397)."""
        kind, _, payload = uri[5:].partition(",")
        limit = self._settings.max_image_bytes
        # No encoding takes more than four characters a byte: base64 1.4, percent 3, base64 in percent 4.
        if len(payload) > 4 * limit:
            raise self._too_large()
        data = unquote_to_bytes(payload)
        if kind.lower().endswith(";base64"):
            try:
                data = base64.b64decode(data + b"==")
            except binascii.Error as error:
                raise ImageError("the data URI is not valid base64; import the image again") from error
        if len(data) > limit:
            raise self._too_large()
        return data

    def _locate(self, url: str, task_id: TaskId) -> tuple[httpx.URL, bool]:
        """Where to fetch ``url`` from, and whether that is Label Studio itself, which may have the token."""
        try:
            if _STORAGE_URI.match(url):
                if task_id is None:
                    raise ImageError("only Label Studio can resolve this URI, and it needs the id of a saved task")
                encoded = base64.urlsafe_b64encode(url.encode()).decode()
                return self._at_label_studio(f"/tasks/{task_id}/resolve/?fileuri={encoded}"), True
            if url.startswith("/"):
                return self._at_label_studio(url), True
            if self._base and (written := _WRITTEN_BY_LABEL_STUDIO.match(url)):
                return self._at_label_studio(written[1]), True
            target = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ImageError(f"not a valid URL ({error}); correct it in the task's data") from error
        _check_scheme(target)
        trusted = self._is_label_studio(target)
        if trusted:
            _check_no_parents(url)
        return target, trusted

    def _at_label_studio(self, path: str) -> httpx.URL:
        _check_no_parents(path)
        sub_path = self._base.path.rstrip("/") if self._base else ""
        # Label Studio may or may not have put its own sub-path in front.
        below = [rest for rest in (path.removeprefix(sub_path), path) if _LABEL_STUDIO_PATH.match(rest)]
        if not below:
            raise ImageError(
                "not a path that Label Studio serves images from; import the file into Label Studio, add its folder as "
                "local storage, or use an http(s) URL"
            )
        if self._label_studio is None:
            raise ImageError(
                "only Label Studio can serve this image; set UNDERPAINT_LABEL_STUDIO_URL and "
                "UNDERPAINT_LABEL_STUDIO_TOKEN"
            )
        return httpx.URL(self._label_studio.url + below[0])

    def _is_label_studio(self, url: httpx.URL) -> bool:
        if self._base is None or _origin(url) != _origin(self._base):
            return False
        sub_path = self._base.path.rstrip("/")
        return url.path.startswith(sub_path) and bool(_LABEL_STUDIO_PATH.match(url.path.removeprefix(sub_path)))

    def _download(self, url: httpx.URL, trusted: bool, deadline: float) -> bytes:
        """Follow redirects from ``url`` to an image file; the token is sent only while ``trusted`` hops last."""
        backend = GuardedBackend(self._policy, deadline)
        try:
            with httpcore.ConnectionPool(ssl_context=_ssl_context(), network_backend=backend) as pool:
                for _ in range(_MAX_REDIRECTS + 1):
                    with self._answer(pool, url, trusted) as response:
                        headers = httpx.Headers(response.headers)
                        if response.status not in _REDIRECTS or "location" not in headers:
                            return self._body(response, headers, url, trusted)
                    url = url.join(headers["location"])
                    _check_scheme(url)
                    trusted = trusted and self._is_label_studio(url)
        except httpcore.TimeoutException as error:
            raise ImageError(
                f"{url.host} did not deliver it in time; check the host, or raise UNDERPAINT_FETCH_TIMEOUT "
                f"({self._settings.fetch_timeout:g} s)"
            ) from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise ImageError(f"{url.host} can't be fetched from ({error}); check the URL and the host") from error
        except httpx.InvalidURL as error:
            raise ImageError(f"{url.host} redirects to an invalid URL ({error}); correct the task's URL") from error
        raise ImageError(f"more than {_MAX_REDIRECTS} redirects; use the URL that they lead to")

    @contextmanager
    def _answer(self, pool: httpcore.ConnectionPool, url: httpx.URL, trusted: bool) -> Iterator[httpcore.Response]:
        """What ``url`` answers; Label Studio is asked again when it refuses an access token before its time."""
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        token = self._token() if trusted else {}
        with pool.stream("GET", target, headers=[*_HEADERS, *token.items()]) as response:
            if not (response.status == 401 and trusted and self._label_studio and self._label_studio.forget(token)):
                yield response
                return
        with pool.stream("GET", target, headers=[*_HEADERS, *self._token().items()]) as response:
            yield response

    def _token(self) -> dict[str, str]:
        try:
            return self._label_studio.headers() if self._label_studio else {}
        except LabelStudioError as error:
            raise ImageError(str(error)) from error

    def _body(self, response: httpcore.Response, headers: httpx.Headers, url: httpx.URL, trusted: bool) -> bytes:
        if response.status != 200:
            raise ImageError(f"{url.host} answered {response.status}; {_remedy(response.status, trusted)}")
        if int(headers.get("content-length", 0)) > self._settings.max_image_bytes:
            raise self._too_large()
        data = bytearray()
        for chunk in response.iter_stream():
            data += chunk
            if len(data) > self._settings.max_image_bytes:
                raise self._too_large()
        return bytes(data)

    def _too_large(self) -> ImageError:
        limit = self._settings.max_image_bytes
        return ImageError(f"the file is larger than {limit:,} bytes; shrink it, or raise UNDERPAINT_MAX_IMAGE_BYTES")


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host.lower(), url.port or {"http": 80, "https": 443}.get(url.scheme, 0)


def _check_scheme(url: httpx.URL) -> None:
    if url.scheme not in ("http", "https") or not url.host:
        raise ImageError("only http(s), data, s3, gs and azure-blob URLs and Label Studio's own paths can be fetched")


def _check_no_parents(path: str) -> None:
    if ".." in re.split(r"[/\\?=&]", unquote(path)):
        raise ImageError("a path with .. in it is not fetched; correct it in the task's data")


def _remedy(status: int, trusted: bool) -> str:
    if status in (401, 403) and trusted:
        return "check UNDERPAINT_LABEL_STUDIO_TOKEN and that its user may see the project"
    if status in (401, 403):
        return "it wants credentials, which are only ever sent to Label Studio; import the image into Label Studio"
    # It answers 500 where it knows nothing of an upload.
    if status in (404, 500) and trusted:
        return "Label Studio has no such file or task, or its storage is not set up"
    return "check that the URL still works"


def name_of(url: object, task_id: TaskId) -> str:
    """What to call an image in messages: no query, user or content, since these may hold secrets."""
    shown = str(url).strip()
    shown = shown.partition(",")[0] if shown[:5].lower() == "data:" else shown
    # What follows /data/local-files/? is a path below its storage and no secret.
    shown = re.sub(r"(?<!/data/local-files/)[?#].*", "", re.sub(r"//[^/@]*@", "//", shown), flags=re.DOTALL)
    if len(shown) > 80:
        shown = f"{shown[:40]}…{shown[-39:]}"
    shown = shown.encode(errors="replace").decode()
    return shown if task_id is None else f"task {task_id}: {shown}"

"""Fetching from real servers, some of which misbehave."""

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from http_server import Answer, Request, Server, serve
from underpaint.labelstudio.client import LabelStudio
from underpaint.labelstudio.images import ImageError, ImageFetcher, NotAllowed
from underpaint.settings import Settings

TOKEN = "0123456789abcdef0123456789abcdef01234567"
# Allows no host, and its Label Studio is nowhere.
CLOSED = ImageFetcher(Settings(allowed_hosts=[]), LabelStudio("http://127.0.0.1:9", TOKEN))


def encoded(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


PNG = encoded(Image.new("RGB", (4, 3), (10, 20, 30)))


@pytest.fixture
def fetcher() -> Callable[..., ImageFetcher]:
    def make(*hosts: str, label_studio: str = "", token: str = TOKEN, **settings: Any) -> ImageFetcher:
        client = LabelStudio(label_studio, token) if label_studio else None
        return ImageFetcher(Settings(allowed_hosts=list(hosts), **settings), client)

    return make


Make = Callable[..., ImageFetcher]


@pytest.fixture
def gallery() -> Iterator[Server]:
    """Another host than Label Studio's, with one good image everywhere."""
    with serve(lambda _: Answer(PNG)) as running:
        yield running


def test_an_image_of_an_allowed_host_is_fetched_without_the_token(fetcher: Make, gallery: Server) -> None:
    with serve(lambda _: Answer(status=404)) as label_studio:
        images = fetcher(gallery.host, label_studio=label_studio.url)
        assert (images.fetch(f"{gallery.url}/p/é t.png?sig=1", 1) == (10, 20, 30)).all()
    assert "Authorization" not in gallery.requests[0].headers
    assert gallery.requests[0].target == "/p/%C3%A9%20t.png?sig=1"
    assert gallery.requests[0].headers["Host"] == gallery.host


def test_a_host_that_is_not_allowed_is_not_asked(fetcher: Make, gallery: Server) -> None:
    for hosts in (["*"], ["example.org"], []):
        with pytest.raises(NotAllowed, match=f"task 5: .*{gallery.host}.*UNDERPAINT_ALLOWED_HOSTS"):
            fetcher(*hosts).fetch(f"{gallery.url}/x.png", 5)
    assert gallery.requests == []


@pytest.mark.parametrize("sub_path", ["", "/labels", "/data"])
def test_label_studio_urls_carry_the_token(fetcher: Make, sub_path: str) -> None:
    with serve(lambda _: Answer(PNG)) as label_studio:
        images = fetcher(label_studio=label_studio.url + sub_path)
        for path in ("/data/upload/1/a.png", "/data/local-files/?d=paint/l0.jpg", "/tasks/5/resolve/?fileuri=czM6"):
            for url in (path, sub_path + path, label_studio.url + sub_path + path):
                images.fetch(url, 5)
                assert label_studio.requests[-1].target == sub_path + path
                assert label_studio.requests[-1].headers["Authorization"] == f"Token {TOKEN}"


def test_local_files_with_label_studios_public_address_come_from_label_studio(fetcher: Make) -> None:
    with serve(lambda _: Answer(PNG)) as label_studio:
        images = fetcher(label_studio=label_studio.url)
        images.fetch("http://labels.example:8085/data/local-files/?d=paint/l0.jpg", 1)
        images.fetch("https://labels.example/sub/tasks/1/resolve/?fileuri=czM6", 1)
    assert [request.target for request in label_studio.requests] == [
        "/data/local-files/?d=paint/l0.jpg",
        "/tasks/1/resolve/?fileuri=czM6",
    ]


def test_label_studios_host_outside_its_sub_path_gets_no_token(fetcher: Make) -> None:
    with serve(lambda _: Answer(PNG)) as shared_host:
        images = fetcher(label_studio=f"{shared_host.url}/labels")
        for path in ("/data/upload/1/a.png", "/labels/api/projects/", "/labelsx/data/upload/1/a.png"):
            images.fetch(shared_host.url + path)
    assert len(shared_host.requests) == 3
    assert all("Authorization" not in request.headers for request in shared_host.requests)


@pytest.mark.parametrize("uri", ["s3://bucket/a b.png", "gs://bucket/x.png", "azure-blob://c/x.png"])
def test_storage_uris_are_resolved_by_label_studio_and_the_token_stays_there(
    fetcher: Make, gallery: Server, uri: str
) -> None:
    def presign(_: Request) -> Answer:
        return Answer(status=303, headers={"Location": f"{gallery.url}/presigned.png?X-Amz-Signature=s"})

    with serve(presign) as label_studio:
        url = f"{label_studio.url}/labels"
        assert fetcher(gallery.host, label_studio=url).fetch(uri, 8).shape == (3, 4, 3)
        with pytest.raises(NotAllowed, match=gallery.host) as caught:
            fetcher("*", label_studio=url).fetch(uri, 8)
    assert label_studio.requests[0].path == "/labels/tasks/8/resolve/"
    assert base64.urlsafe_b64decode(label_studio.requests[0].query["fileuri"]).decode() == uri
    assert label_studio.requests[0].headers["Authorization"] == f"Token {TOKEN}"
    assert len(gallery.requests) == 1
    assert "Authorization" not in gallery.requests[0].headers
    assert "Signature" not in str(caught.value)


def test_storage_that_label_studio_proxies_works(fetcher: Make) -> None:
    with serve(lambda _: Answer(PNG)) as label_studio:
        assert fetcher(label_studio=label_studio.url).fetch("s3://bucket/x.png", 8).shape == (3, 4, 3)


def test_a_redirect_back_to_label_studio_does_not_get_the_token_again(fetcher: Make) -> None:
    def bounce(_: Request) -> Answer:
        return Answer(status=302, headers={"Location": f"{label_studio.url}/data/upload/1/private.png"})

    with serve(lambda _: Answer(PNG)) as label_studio, serve(bounce) as elsewhere:
        fetcher(elsewhere.host, label_studio=label_studio.url).fetch(f"{elsewhere.url}/x.png")
    assert "Authorization" not in label_studio.requests[0].headers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_and_each_host_is_checked(fetcher: Make, gallery: Server, status: int) -> None:
    with serve(lambda _: Answer(status=status, headers={"Location": f"{gallery.url}/x.png"})) as first:
        assert fetcher("127.0.0.1").fetch(f"{first.url}/x.png").shape == (3, 4, 3)
        with pytest.raises(NotAllowed, match=gallery.host):
            fetcher(first.host).fetch(f"{first.url}/x.png")
    assert len(gallery.requests) == 1


def test_relative_redirects_work_and_endless_ones_end(fetcher: Make) -> None:
    def loop(request: Request) -> Answer:
        return Answer(PNG) if request.path == "/b/there" else Answer(status=302, headers={"Location": "there"})

    with serve(loop) as server:
        assert fetcher("127.0.0.1").fetch(f"{server.url}/b/x").shape == (3, 4, 3)
        with pytest.raises(ImageError, match="more than 5 redirects"):
            fetcher("127.0.0.1").fetch(f"{server.url}/a/x")
    assert len(server.requests) == 2 + 6


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://host/x.png", "http://", "http://[::1/x"])
def test_redirects_lead_to_http_only(fetcher: Make, target: str) -> None:
    with serve(lambda _: Answer(status=302, headers={"Location": target})) as server, pytest.raises(ImageError):
        fetcher("*", "127.0.0.1").fetch(f"{server.url}/x.png")


def test_a_name_that_changes_its_address_reaches_nothing(
    fetcher: Make, gallery: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the name is public when first asked for, and loopback ever after."""
    real, asked = socket.getaddrinfo, []

    def rebinding(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host != "rebind.example":
            return real(host, port, *args, **kwargs)
        asked.append(host)
        return real("192.0.2.1" if len(asked) == 1 else "127.0.0.1", port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr("underpaint.labelstudio.addresses.is_public", lambda address: not address.startswith("127."))
    images = fetcher("*", fetch_timeout=0.3)
    for _ in range(2):
        with pytest.raises(ImageError):
            images.fetch(f"http://rebind.example:{gallery.port}/x.png")
    assert gallery.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "/home/me/x.png",
        "/etc/passwd",
        "file:///etc/passwd",
        r"C:\x.png",
        "images/x.png",
        "//host/data/upload/x.png",
        "ftp://host/x.png",
        "/data/upload/../../api/projects/",
        "/data/upload/%2e%2e/api",
        "/data/local-files/?d=../secret",
        "/data/local-files/?d=a/..%2f..%2fsecret",
        "/api/projects/",
        "/tasks/1/annotations/",
    ],
)
def test_paths_and_other_schemes_are_refused(fetcher: Make, url: str) -> None:
    with serve(lambda _: Answer(PNG)) as label_studio, pytest.raises(ImageError, match="task 3: "):
        fetcher("*", label_studio=label_studio.url).fetch(url, 3)
    assert label_studio.requests == []


def test_without_label_studio_its_images_name_the_settings(fetcher: Make) -> None:
    for url in ("/data/upload/1/x.png", "s3://bucket/x.png"):
        with pytest.raises(ImageError, match="UNDERPAINT_LABEL_STUDIO_URL and UNDERPAINT_LABEL_STUDIO_TOKEN"):
            fetcher("*").fetch(url, 1)


@pytest.mark.parametrize(
    ("status", "says"), [(401, "UNDERPAINT_LABEL_STUDIO_TOKEN"), (404, "storage is not set up"), (500, "answered 500")]
)
def test_what_label_studio_refuses_names_the_remedy(fetcher: Make, status: int, says: str) -> None:
    with serve(lambda _: Answer(b"{}", status)) as label_studio, pytest.raises(ImageError, match=says) as caught:
        fetcher(label_studio=label_studio.url).fetch("/data/upload/1/x.png", 1)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("refusals", [1, 2])
def test_an_access_token_that_ended_early_is_renewed_once(fetcher: Make, refusals: int) -> None:
    """As when Label Studio was restarted with other keys: the token was still young."""

    def answer(request: Request) -> Answer:
        if request.path == "/api/token/refresh/":
            issued.append(f"access-{len(issued)}")
            return Answer(json.dumps({"access": issued[-1]}).encode())
        refused = [f"Bearer access-{number}" for number in range(refusals)]
        return Answer(status=401) if request.headers["Authorization"] in refused else Answer(PNG)

    issued: list[str] = []
    with serve(answer) as label_studio:
        images = fetcher(label_studio=label_studio.url, token="personal.access.token")
        if refusals == 1:
            assert images.fetch("/data/upload/1/x.png", 1).shape == (3, 4, 3)
        else:
            with pytest.raises(ImageError, match=r"answered 401.*UNDERPAINT_LABEL_STUDIO_TOKEN"):
                images.fetch("/data/upload/1/x.png", 1)
    assert [request.path for request in label_studio.requests].count("/data/upload/1/x.png") == 2
    assert len(issued) == 2


def test_another_host_that_wants_credentials_costs_no_token(fetcher: Make) -> None:
    def answer(request: Request) -> Answer:
        return Answer(b'{"access": "a"}') if request.path == "/api/token/refresh/" else Answer(PNG)

    with serve(lambda _: Answer(status=401)) as elsewhere, serve(answer) as label_studio:
        images = fetcher(elsewhere.host, label_studio=label_studio.url, token="personal.access.token")
        images.fetch("/data/upload/1/x.png", 1)
        with pytest.raises(ImageError, match="only ever sent to Label Studio"):
            images.fetch(f"{elsewhere.url}/x.png", 1)
        images.fetch("/data/upload/1/x.png", 1)
    assert len(elsewhere.requests) == 1
    assert [request.path for request in label_studio.requests].count("/api/token/refresh/") == 1


def test_label_studio_may_have_a_name_in_other_letters(fetcher: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo
    local = {"xn--mller-kva.example": "127.0.0.1"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: real(local.get(host, host), *a, **k))
    with serve(lambda _: Answer(PNG)) as label_studio:
        images = fetcher(label_studio=f"http://Müller.example:{label_studio.port}")
        for host in ("müller.example", "xn--mller-kva.example"):
            images.fetch(f"http://{host}:{label_studio.port}/data/upload/1/x.png", 1)
            assert label_studio.requests[-1].headers["Authorization"] == f"Token {TOKEN}"


def test_a_task_without_an_image_says_so(fetcher: Make) -> None:
    values: list[Any] = ["", "  ", None, ["a.png"], 7]
    for value in values:
        with pytest.raises(ImageError, match=r"task 2: .*no image URL"):
            fetcher("*").fetch(value, 2)


def test_errors_hide_what_may_be_secret(fetcher: Make, gallery: Server) -> None:
    with pytest.raises(ImageError) as caught:
        fetcher("*").fetch(f"http://user:s3cret@{gallery.host}/{'long' * 50}/x.png?sig=s3cret#s3cret")
    assert "s3cret" not in str(caught.value)
    assert len(str(caught.value)) < 300


URLS = st.text(st.characters(exclude_categories=[]), max_size=50)  # Half of a surrogate pair is valid in JSON.


@given(URLS | st.builds("{}{}".format, st.sampled_from(["http://", "s3://", "data:", "/data/upload/"]), URLS))
def test_any_string_is_an_image_or_an_image_error(url: str) -> None:
    with pytest.raises(ImageError) as caught:
        CLOSED.fetch(url, 1)
    assert str(caught.value).encode()


def test_data_uris_are_decoded(fetcher: Make) -> None:
    images = fetcher()
    plain = base64.b64encode(PNG).decode()
    percent = "".join(f"%{byte:02x}" for byte in PNG)
    quoted = plain.replace("+", "%2B").replace("=", "%3D")
    for uri in (f"data:image/png;base64,{plain}", f"DATA:image/png,{percent}", f"data:;base64,{quoted.rstrip('=')}"):
        assert images.fetch_bytes(uri) == PNG


def test_bad_data_uris_are_errors_without_their_content(fetcher: Make) -> None:
    images = fetcher(max_image_bytes=100)
    with pytest.raises(ImageError, match="UNDERPAINT_MAX_IMAGE_BYTES") as caught:
        images.fetch("data:image/png;base64," + "A" * 200)
    assert "AAA" not in str(caught.value)
    for uri in ("data:image/png;base64,A", "data:image/png;base64,", "data:", "data:text/plain,hello"):
        with pytest.raises(ImageError):
            images.fetch(uri)


def drip(chunk: bytes, pause: float, count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield chunk
        time.sleep(pause)


def test_a_file_that_says_it_is_too_large_is_not_read(fetcher: Make) -> None:
    def nothing_yet(_: Request) -> Answer:
        return Answer(drip(b"", 0.1, 20), headers={"Content-Length": "1000001"})

    with serve(nothing_yet) as server, pytest.raises(ImageError, match="UNDERPAINT_MAX_IMAGE_BYTES"):
        fetcher("127.0.0.1", max_image_bytes=1_000_000, fetch_timeout=1).fetch(f"{server.url}/x.png")


def test_a_file_that_does_not_say_so_is_read_no_further_than_the_bound(fetcher: Make) -> None:
    sent = []

    def body() -> Iterator[bytes]:
        for _ in range(1000):
            sent.append(1)
            yield bytes(100_000)

    with serve(lambda _: Answer(body())) as server:
        with pytest.raises(ImageError, match="UNDERPAINT_MAX_IMAGE_BYTES"):
            fetcher("127.0.0.1", max_image_bytes=1_000_000).fetch(f"{server.url}/x.png")
        time.sleep(0.05)
    assert len(sent) < 500


def test_a_body_cut_short_is_an_error(fetcher: Make) -> None:
    too_long = {"Content-Length": "100000"}
    with serve(lambda _: Answer(PNG, headers=too_long)) as server, pytest.raises(ImageError, match="can't be fetched"):
        fetcher("127.0.0.1").fetch(f"{server.url}/x.png")


def slow_body(server_connection: Any) -> None:
    server_connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(30):
        server_connection.sendall(b"x")
        time.sleep(0.1)


def slow_headers(server_connection: Any) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 10:
        server_connection.sendall(bytes([byte]))
        time.sleep(0.1)


def silence(_: Any) -> None:
    time.sleep(3)


@pytest.mark.parametrize("behaviour", [slow_body, slow_headers, silence])
def test_the_time_limit_holds_however_the_server_dawdles(fetcher: Make, behaviour: Callable[[Any], None]) -> None:
    def answer_one() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):  # The client hangs up, as it should.
            behaviour(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer_one, daemon=True).start()
        begin = time.monotonic()
        with pytest.raises(ImageError, match="UNDERPAINT_FETCH_TIMEOUT"):
            fetcher("127.0.0.1", fetch_timeout=0.3).fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/x.png")
        assert time.monotonic() - begin < 0.8


def test_a_refused_connection_and_an_unknown_name_are_errors(fetcher: Make) -> None:
    with serve(lambda _: Answer()) as server:
        url = server.url
    with pytest.raises(ImageError, match=r"127\.0\.0\.1 can't be fetched from"):
        fetcher("127.0.0.1").fetch(f"{url}/x.png")
    with pytest.raises(ImageError, match="doesn't resolve"):
        fetcher("*").fetch("http://no-such-host.invalid/x.png")

"""The client against a server that treats tokens and pages as Label Studio 1.23.2 does."""

import base64
import json
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from http_server import Answer, Request, Server, serve
from underpaint.labelstudio.client import LabelStudio, LabelStudioError

LEGACY = "0123456789abcdef0123456789abcdef01234567"


def jwt(**claims: Any) -> str:
    parts = (json.dumps(part).encode() for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + ".c2lnbmF0dXJl"


PAT = jwt(token_type="refresh", user_id="1")


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeLabelStudio:
    """Answers below ``sub_path``, with 250 tasks, of which the odd ones have annotations."""

    def __init__(self, clock: Clock, sub_path: str = "") -> None:
        self.clock = clock
        self.sub_path = sub_path
        self.legacy_enabled = True
        self.refreshing = True
        self.access: dict[str, float] = {}
        self.answers: dict[str, Answer] = {}

    def __call__(self, request: Request) -> Answer:
        if not request.path.startswith(self.sub_path + "/"):
            return Answer(b"<html>some other site</html>", 404)
        path = request.path.removeprefix(self.sub_path)
        if path == "/api/token/refresh/":
            return self.refresh(json.loads(request.body)["refresh"])
        if not self.knows(request.headers.get("Authorization", "")):
            return self.json({"detail": "Invalid token."}, 401)
        return self.answers.get(path) or self.content(path, request)

    def refresh(self, token: str) -> Answer:
        if not self.refreshing:
            return self.json({"detail": "restarting"}, 502)
        if token != PAT:
            return self.json({"detail": "Token is invalid"}, 401)
        access = jwt(token_type="access", jti=uuid.uuid4().hex)
        self.access[access] = self.clock.now + 300
        return self.json({"access": access})

    def knows(self, authorization: str) -> bool:
        kind, _, token = authorization.partition(" ")
        if kind == "Token":
            return self.legacy_enabled and token == LEGACY
        return kind == "Bearer" and self.access.get(token, 0.0) > self.clock.now

    def content(self, path: str, request: Request) -> Answer:
        if path == "/api/tasks/":
            page, size = int(request.query["page"]), int(request.query["page_size"])
            filters = json.loads(request.query.get("query", '{"filters": {"items": []}}'))["filters"]["items"]
            found = range(1, 251, 2 if filters else 1)
            ids = found[(page - 1) * size : page * size]
            return (
                self.json({"total": len(found), "tasks": [{"id": id_} for id_ in ids]}) if ids else self.json({}, 404)
            )
        if path.endswith("/export"):
            wanted = parse_qs(urlsplit(request.target).query)["ids[]"]
            return self.json([{"id": int(id_), "annotations": [{"was_cancelled": True}]} for id_ in wanted])
        return self.json({"path": path, "query": request.query})

    @staticmethod
    def json(content: Any, status: int = 200) -> Answer:
        return Answer(json.dumps(content).encode(), status, {"Content-Type": "application/json"})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fake(clock: Clock) -> FakeLabelStudio:
    return FakeLabelStudio(clock)


@pytest.fixture
def server(fake: FakeLabelStudio) -> Iterator[Server]:
    with serve(fake) as running:
        yield running


def refreshes(server: Server) -> int:
    return sum(request.path == "/api/token/refresh/" for request in server.requests)


def test_legacy_token_is_sent_as_it_is(server: Server) -> None:
    client = LabelStudio(server.url, LEGACY + "\n")
    assert client.headers() == {"Authorization": f"Token {LEGACY}"}
    assert client.project(7)["path"] == "/api/projects/7/"


def test_personal_access_token_is_exchanged_once_and_renewed_before_it_expires(server: Server, clock: Clock) -> None:
    client = LabelStudio(server.url, PAT, clock=clock)
    client.project(1)
    clock.now += 200
    client.project(1)
    assert refreshes(server) == 1
    clock.now += 99  # 299 s old: still valid, but about to expire.
    client.project(1)
    assert refreshes(server) == 2
    assert PAT not in client.headers()["Authorization"]


def test_access_token_refused_early_is_renewed_once(server: Server, clock: Clock, fake: FakeLabelStudio) -> None:
    client = LabelStudio(server.url, PAT, clock=clock)
    client.project(1)
    fake.access.clear()
    assert client.project(1)["path"] == "/api/projects/1/"
    assert refreshes(server) == 2


def test_a_renewal_that_fails_is_tried_again_at_the_next_call(
    server: Server, clock: Clock, fake: FakeLabelStudio
) -> None:
    client = LabelStudio(server.url, PAT, clock=clock)
    old = client.headers()
    clock.now += 299
    fake.refreshing = False
    with pytest.raises(LabelStudioError, match="restarting"):
        client.headers()
    fake.refreshing = True
    assert client.headers() != old


def test_what_was_refused_is_forgotten_unless_it_was_renewed_already(server: Server, clock: Clock) -> None:
    client = LabelStudio(server.url, PAT, clock=clock)
    old = client.headers()
    assert client.forget(old)
    new = client.headers()
    assert new != old
    assert client.forget(old)
    assert client.headers() == new
    legacy = LabelStudio(server.url, LEGACY)
    assert not legacy.forget(legacy.headers())


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_no_proxy_sees_the_token(server: Server, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda _: Answer(b"{}")) as proxy:
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(variable, proxy.url)
        assert httpx.get(server.url, headers={"X": "y"}).content == b"{}"  # which is the proxy's answer
        assert LabelStudio(server.url, LEGACY).project(7)["path"] == "/api/projects/7/"
    assert len(proxy.requests) == 1


def test_a_certificate_named_by_the_environment_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Here")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    (tmp_path / "own.pem").write_bytes(pem)
    (tmp_path / "both.pem").write_bytes(pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")

    def answer_two() -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(10_000)
                secured.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"id": 7}')

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer_two, daemon=True).start()
        url = f"https://localhost:{listener.getsockname()[1]}"
        with pytest.raises(LabelStudioError, match="certificate"):
            LabelStudio(url, LEGACY).project(7)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.pem"))
        assert LabelStudio(url, LEGACY).project(7) == {"id": 7}


def test_threads_share_one_renewal(server: Server, clock: Clock, fake: FakeLabelStudio) -> None:
    client = LabelStudio(server.url, PAT, clock=clock)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(client.project, range(16)))
        assert refreshes(server) == 1
        fake.access.clear()
        list(threads.map(client.project, range(16)))
    assert refreshes(server) == 2


def test_a_legacy_token_that_is_switched_off_says_so(server: Server, fake: FakeLabelStudio) -> None:
    fake.legacy_enabled = False
    with pytest.raises(LabelStudioError, match="legacy tokens are switched off") as caught:
        LabelStudio(server.url, LEGACY).project(1)
    assert caught.value.status == 401
    assert LEGACY not in str(caught.value)


def test_a_revoked_personal_access_token_says_so_and_is_not_asked_forever(server: Server) -> None:
    revoked = jwt(token_type="refresh", user_id="2")
    with pytest.raises(LabelStudioError, match="Personal Access Token") as caught:
        LabelStudio(server.url, revoked).project(1)
    assert caught.value.status == 401
    assert revoked not in str(caught.value)
    assert len(server.requests) == 1


def test_an_account_without_access_gets_one_retry_and_then_the_error(server: Server, fake: FakeLabelStudio) -> None:
    fake.answers["/api/projects/1/"] = fake.json({}, 401)
    with pytest.raises(LabelStudioError) as caught:
        LabelStudio(server.url, PAT, clock=fake.clock).project(1)
    assert caught.value.status == 401
    assert [request.path for request in server.requests].count("/api/projects/1/") == 2


@pytest.mark.parametrize("token", [LEGACY, PAT])
@pytest.mark.parametrize("slash", ["", "/"])
def test_every_path_is_below_the_sub_path(clock: Clock, token: str, slash: str) -> None:
    with serve(FakeLabelStudio(clock, "/tools/labels")) as server:
        client = LabelStudio(f"{server.url}/tools/labels{slash}", token, clock=clock)
        assert client.url == f"{server.url}/tools/labels"
        assert client.project(3)["path"] == "/api/projects/3/"
        assert len(client.task_ids(3)) == 250
        assert {request.path[:14] for request in server.requests} == {"/tools/labels/"}


def test_pages_are_followed_to_the_end(server: Server) -> None:
    client = LabelStudio(server.url, LEGACY)
    assert client.task_ids(9) == list(range(1, 251))
    assert server.requests[-1].query["project"] == "9"
    assert server.requests[-1].query["resolve_uri"] == "false"


def test_annotated_tasks_are_exported_a_page_at_a_time(server: Server) -> None:
    pages = LabelStudio(server.url, LEGACY).annotated_tasks(4)
    first = next(pages)
    assert first[0] == {"id": 1, "annotations": [{"was_cancelled": True}]}
    assert [request.path for request in server.requests] == ["/api/tasks/"] * 2 + ["/api/projects/4/export"]
    assert server.requests[-1].query["exportType"] == "JSON"
    rest = list(pages)
    assert [len(page) for page in (first, *rest)] == [50, 50, 25]
    assert [task["id"] for page in (first, *rest) for task in page] == list(range(1, 251, 2))


def test_a_project_without_annotations_is_not_exported(server: Server, fake: FakeLabelStudio) -> None:
    fake.answers["/api/tasks/"] = fake.json({"total": 0, "tasks": []})
    assert list(LabelStudio(server.url, LEGACY).annotated_tasks(4)) == []  # No ids at all would mean all tasks.
    assert [request.path for request in server.requests] == ["/api/tasks/"]


def test_import_and_upload_ask_for_the_task_ids(server: Server, tmp_path: Path) -> None:
    client = LabelStudio(server.url, LEGACY)
    tasks = [{"data": {"image": "x"}, "predictions": [{"result": []}]}]
    assert client.import_tasks(5, tasks) == {"path": "/api/projects/5/import", "query": {"return_task_ids": "true"}}
    assert json.loads(server.requests[0].body) == tasks
    path = tmp_path / "haystacks.jpg"
    path.write_bytes(b"\xff\xd8pixels")
    client.upload(5, path)
    sent = server.requests[1]
    assert sent.query == {"return_task_ids": "true"}
    assert sent.headers["Content-Type"].startswith("multipart/form-data")
    assert b'filename="haystacks.jpg"' in sent.body
    assert b"\xff\xd8pixels" in sent.body


def test_tasks_that_lack_a_version_are_asked_for_by_their_ids(server: Server) -> None:
    client = LabelStudio(server.url, LEGACY)
    assert client.tasks_without(7, "v1", []) == []
    assert server.requests == []
    client.tasks_without(7, "v1", [4, 2])
    sent = server.requests[0].query
    assert (sent["project"], sent["include"], sent["resolve_uri"]) == ("7", "id,data", "false")
    query = json.loads(sent["query"])
    assert query["selectedItems"] == {"all": False, "included": [4, 2]}
    [lacking] = query["filters"]["items"]
    assert (lacking["operator"], lacking["value"]) == ("not_contains", ["v1"])


def test_predictions_are_retrieved_for_some_tasks_or_all(server: Server) -> None:
    client = LabelStudio(server.url, LEGACY)
    client.retrieve_predictions(6)
    client.retrieve_predictions(6, [1, 2])
    assert [json.loads(request.body)["selectedItems"] for request in server.requests] == [
        {"all": True, "excluded": []},
        {"all": False, "included": [1, 2]},
    ]
    assert server.requests[0].query == {"id": "retrieve_tasks_predictions", "project": "6"}


def test_annotations_and_backends_keep_their_other_fields(server: Server) -> None:
    client = LabelStudio(server.url, LEGACY)
    client.create_annotation(1, [], was_cancelled=True)
    client.add_ml_backend(2, "http://backend:9090", "Underpaint", auth_method="NONE")
    assert [json.loads(request.body) for request in server.requests] == [
        {"result": [], "was_cancelled": True},
        {"project": 2, "url": "http://backend:9090", "title": "Underpaint", "auth_method": "NONE"},
    ]


def test_an_empty_answer_is_none(server: Server, fake: FakeLabelStudio) -> None:
    fake.answers["/api/ml/1/train"] = Answer(b"")
    assert LabelStudio(server.url, LEGACY).post("/api/ml/1/train", {}) is None


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(b"{}", 404), "deleted"),
        (Answer(b"{}", 403), "may not do that"),
        (Answer(b'{"validation_errors": "bad title"}', 400), "bad title"),
        (Answer(b"<html>", 200), "isn't JSON"),
        (Answer(b"", 301, {"Location": "https://new.example/"}), "redirect to https://new.example/"),
    ],
)
def test_errors_name_the_address_and_the_remedy(
    server: Server, fake: FakeLabelStudio, answer: Answer, says: str
) -> None:
    fake.answers["/api/projects/1/"] = answer
    with pytest.raises(LabelStudioError, match=says) as caught:
        LabelStudio(server.url, LEGACY).project(1)
    assert caught.value.status == answer.status
    assert server.host in str(caught.value)


def test_an_unreachable_label_studio_names_the_setting() -> None:
    with serve(lambda _: Answer()) as server:
        url = server.url
    with pytest.raises(LabelStudioError, match="UNDERPAINT_LABEL_STUDIO_URL") as caught:
        LabelStudio(url, LEGACY).project(1)
    assert caught.value.status is None
    assert url in str(caught.value)


def test_a_label_studio_that_never_answers_is_given_up() -> None:
    def never() -> Iterator[bytes]:
        time.sleep(1)
        yield b"{}"

    with serve(lambda _: Answer(never())) as server, pytest.raises(LabelStudioError, match="gave no answer"):
        LabelStudio(server.url, LEGACY, timeout=0.1).project(1)


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://host/", "http:///path"])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(LabelStudioError, match="UNDERPAINT_LABEL_STUDIO_URL"):
        LabelStudio(url, LEGACY)

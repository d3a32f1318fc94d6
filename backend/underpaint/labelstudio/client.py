"""A small client for the parts of Label Studio's REST API that Underpaint uses."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

_JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+")
# Access tokens live 300 s; the margin covers a slow request and the token's travel time.
_ACCESS_TOKEN_SECONDS = 240.0
# Exports, imports and calls that wait for an ML backend (Label Studio gives it 100 s) work on whole projects.
_WHOLE_PROJECT_SECONDS = 600.0
_PAGE_SIZE = 100
# Tasks exported in one request: 50 with a megabyte of regions each are 50 MB of JSON.
_EXPORT_SIZE = 50
# Label Studio counts a task's annotations later than it stores them; this filter looks for the annotations themselves.
_ANNOTATED = {"filter": "filter:tasks:annotations_ids", "operator": "empty", "type": "Number", "value": False}


class LabelStudioError(RuntimeError):
    """Label Studio could not be reached, refused the request, or gave an answer that makes no sense.

    ``status`` is the HTTP status, or None when there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class LabelStudio:
    """One Label Studio, as one user; safe to share between threads.

    It is reached directly: proxies that the environment names (``HTTP_PROXY``, …) would see the token, and are ignored.
    Certificates are checked against ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` where these are set.

    Args:
        url: base address, with the sub-path if there is one (``https://host/labels``).
        token: a legacy token, or a personal access token. The latter is a refresh JWT, exchanged at
            ``/api/token/refresh/`` for access tokens that live five minutes.
        timeout: seconds to wait for connecting and between bytes; calls on whole projects wait longer.
        clock: seconds since any fixed moment.

    Raises:
        LabelStudioError: from every method, with the address, the status and what to do.
    """

    def __init__(self, url: str, token: str, timeout: float = 30.0, *, clock: Callable[[], float] = time.time) -> None:
        if not re.match(r"https?://[^/]", url):
            raise LabelStudioError(
                f"{url!r} is no address of Label Studio: set UNDERPAINT_LABEL_STUDIO_URL to something like "
                "http://localhost:8080, sub-path included"
            )
        self.url = url.rstrip("/")
        self._token = token.strip()
        self._clock = clock
        self._timeout = timeout
        certificates = httpx.create_ssl_context()  # which trust_env=False alone would not look for in the environment
        self._http = httpx.Client(base_url=self.url + "/", timeout=timeout, trust_env=False, verify=certificates)
        self._access_lock = threading.Lock()
        self._access_token: str | None = None
        self._access_until = 0.0

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def headers(self) -> dict[str, str]:
        """The headers that authenticate a request, such as one for ``/data/upload/…``; empty without a token."""
        if not self._token:
            return {}
        if not _JWT.fullmatch(self._token):
            return {"Authorization": f"Token {self._token}"}
        with self._access_lock:
            if self._access_token is None or self._clock() >= self._access_until:
                # Counted from before the request, so that a slow answer can't make the token look younger.
                until = self._clock() + _ACCESS_TOKEN_SECONDS
                answer = self._send("POST", "/api/token/refresh/", json={"refresh": self._token}, headers={})
                self._access_token = str(self._content(answer)["access"])
                self._access_until = until
            return {"Authorization": f"Bearer {self._access_token}"}

    def forget(self, headers: Mapping[str, str]) -> bool:
        """Make no more use of ``headers``, refused with a 401; True if new ones are worth a try.

        They are with a personal access token, whose access tokens may end early. A legacy token stays as it is.
        """
        with self._access_lock:
            if self._access_token is None:
                return False
            # Else another thread has renewed it already.
            if headers.get("Authorization") == f"Bearer {self._access_token}":
                self._access_until = 0.0
            return True

    def get(self, path: str, **params: Any) -> Any:
        """The JSON at ``path`` (below the base address), with ``params`` as its query."""
        return self._request("GET", path, params=params)

    def post(self, path: str, json: Any = None, **params: Any) -> Any:
        """Post ``json`` to ``path`` and return the JSON answered; None for an empty answer."""
        return self._request("POST", path, json=json, params=params)

    def patch(self, path: str, json: Any) -> Any:
        """Patch ``path`` with ``json`` and return the JSON answered."""
        return self._request("PATCH", path, json=json)

    def project(self, project_id: int) -> dict[str, Any]:
        """One project; its ``label_config`` is the XML the editor uses."""
        answer: dict[str, Any] = self.get(f"/api/projects/{project_id}/")
        return answer

    def annotated_tasks(self, project_id: int) -> Iterator[list[dict[str, Any]]]:
        """The export of every task with an annotation, a page at a time, each with ``data`` and ``annotations``.

        Skipped tasks are among them: their annotations say ``was_cancelled: true``.
        """
        yield from self.export(project_id, self.task_ids(project_id, annotated=True))

    def export(self, project_id: int, task_ids: Sequence[int]) -> Iterator[list[dict[str, Any]]]:
        """The export of those of some tasks that have an annotation, a page at a time; see `annotated_tasks`."""
        for start in range(0, len(task_ids), _EXPORT_SIZE):
            params = {"exportType": "JSON", "ids[]": task_ids[start : start + _EXPORT_SIZE]}
            path = f"/api/projects/{project_id}/export"
            yield self._request("GET", path, params=params, timeout=_WHOLE_PROJECT_SECONDS)

    def tasks(self, project_id: int, **params: Any) -> Iterator[dict[str, Any]]:
        """Every task of a project, a page at a time, with storage URIs (``s3://…``) left as they are.

        ``params`` are Label Studio's for narrowing the list, or what is told of each task.
        """
        page, seen = 1, 0
        while True:
            answer = self.get(
                "/api/tasks/",
                project=project_id,
                page=page,
                page_size=_PAGE_SIZE,
                fields="task_only",
                resolve_uri="false",
                **params,
            )
            yield from answer["tasks"]
            seen += len(answer["tasks"])
            if seen >= answer["total"] or not answer["tasks"]:
                return
            page += 1

    def task_ids(self, project_id: int, *, annotated: bool = False, since: str = "") -> list[int]:
        """The ids of every task of a project; or of those with an annotation, be it cancelled; or of those that
        changed, or whose annotations did, at or after ``since`` (ISO 8601)."""
        changed = {"filter": "filter:tasks:updated_at", "operator": "greater_or_equal", "type": "Datetime"}
        items = [*([_ANNOTATED] if annotated else []), *([changed | {"value": since}] if since else [])]
        query = {"filters": {"conjunction": "and", "items": items}}
        tasks = self.tasks(project_id, include="id", query=json.dumps(query))
        # Each once, though a task that joins an earlier page meanwhile pushes another onto the next.
        return list(dict.fromkeys(task["id"] for task in tasks))

    def latest_change(self, project_id: int) -> str:
        """When a task of a project, or an annotation, last changed: ISO 8601 by Label Studio's clock, "" without tasks.

        Deleting a task moves nothing, and deleting annotations in bulk writes Label Studio's local time as if it were
        UTC; `count_annotations` tells of both.
        """
        tasks = self._first_task(project_id, {"ordering": ["-tasks:updated_at"]})["tasks"]
        return str(tasks[0]["updated_at"]) if tasks else ""

    def count_annotations(self, project_id: int) -> int:
        """How many annotations a project's tasks have, cancelled ones left out."""
        return int(self._first_task(project_id, {})["total_annotations"])

    def _first_task(self, project_id: int, query: dict[str, Any]) -> dict[str, Any]:
        """A page of one task, for what Label Studio tells of all of them beside it."""
        query = {"filters": {"conjunction": "and", "items": []}} | query
        params = {"fields": "task_only", "include": "id,updated_at", "resolve_uri": "false", "query": json.dumps(query)}
        answer: dict[str, Any] = self.get("/api/tasks/", project=project_id, page=1, page_size=1, **params)
        return answer

    def tasks_without(self, project_id: int, version: str, task_ids: Sequence[int]) -> list[dict[str, Any]]:
        """Those of some tasks, each with ``id`` and ``data``, that exist and have no prediction by ``version`` yet."""
        if not task_ids:
            return []
        lacking = {
            "filter": "filter:tasks:predictions_model_versions",
            "operator": "not_contains",
            "type": "List",
            "value": [version],
        }
        query = {
            "filters": {"conjunction": "and", "items": [lacking]},
            "selectedItems": {"all": False, "included": list(task_ids)},
        }
        return list(self.tasks(project_id, include="id,data", query=json.dumps(query)))

    def import_tasks(self, project_id: int, tasks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Add tasks, each ``{"data": {…}, "predictions": […], "annotations": […]}``; the answer has ``task_ids``."""
        return self._import(project_id, json=list(tasks))

    def upload(self, project_id: int, path: Path) -> dict[str, Any]:
        """Add one image file as a task; the answer has ``task_ids`` and ``file_upload_ids``."""
        return self._import(project_id, files={"file": (path.name, path.read_bytes())})

    def create_annotation(self, task_id: int, result: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
        """Annotate a task; ``fields`` are the annotation's others, such as ``was_cancelled`` or ``ground_truth``."""
        answer: dict[str, Any] = self.post(f"/api/tasks/{task_id}/annotations/", {"result": result, **fields})
        return answer

    def predictions(self, task_id: int) -> list[dict[str, Any]]:
        """The predictions stored with a task, each with ``model_version``, ``score`` and ``result``."""
        answer: list[dict[str, Any]] = self.get("/api/predictions/", task=task_id)
        return answer

    def import_predictions(self, project_id: int, predictions: Sequence[dict[str, Any]]) -> None:
        """Store predictions, each ``{"task", "result", "score", "model_version"}``, with tasks that exist."""
        path = f"/api/projects/{project_id}/import/predictions"
        self._request("POST", path, json=list(predictions), timeout=_WHOLE_PROJECT_SECONDS)

    def add_ml_backend(self, project_id: int, url: str, title: str, **fields: Any) -> dict[str, Any]:
        """Connect a project to the ML backend at ``url``, which must be up: Label Studio asks it /health and /setup."""
        answer: dict[str, Any] = self.post("/api/ml/", {"project": project_id, "url": url, "title": title, **fields})
        return answer

    def train(self, backend_id: int) -> None:
        """What the Start Training button does."""
        self._request("POST", f"/api/ml/{backend_id}/train", json={}, timeout=_WHOLE_PROJECT_SECONDS)

    def retrieve_predictions(self, project_id: int, task_ids: Sequence[int] | None = None) -> dict[str, Any]:
        """What the data manager's "Retrieve predictions" does, for some tasks or, with None, for all of them."""
        selected = {"all": True, "excluded": []} if task_ids is None else {"all": False, "included": list(task_ids)}
        answer: dict[str, Any] = self._request(
            "POST",
            "/api/dm/actions/",
            params={"id": "retrieve_tasks_predictions", "project": project_id},
            json={"ordering": [], "selectedItems": selected},
            timeout=_WHOLE_PROJECT_SECONDS,
        )
        return answer

    def _import(self, project_id: int, **content: Any) -> dict[str, Any]:
        path = f"/api/projects/{project_id}/import"
        params = {"return_task_ids": "true"}
        answer: dict[str, Any] = self._request("POST", path, params=params, timeout=_WHOLE_PROJECT_SECONDS, **content)
        return answer

    def _request(self, method: str, path: str, **content: Any) -> Any:
        headers = self.headers()
        response = self._send(method, path, headers=headers, **content)
        if response.status_code == 401 and self.forget(headers):
            response = self._send(method, path, headers=self.headers(), **content)
        return self._content(response)

    def _send(self, method: str, path: str, *, timeout: float | None = None, **content: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, timeout=timeout or self._timeout, **content)
        except httpx.TimeoutException as error:
            raise LabelStudioError(
                f"Label Studio at {self.url} gave no answer to {method} {path} in {timeout or self._timeout:.0f} s: "
                "is it overloaded, or is UNDERPAINT_LABEL_STUDIO_URL wrong?"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise LabelStudioError(
                f"Label Studio can't be reached at {self.url} ({error}): is it running, and is "
                "UNDERPAINT_LABEL_STUDIO_URL the address this machine reaches it by?"
            ) from error

    def _content(self, response: httpx.Response) -> Any:
        if not response.is_success:
            raise LabelStudioError(self._complaint(response), response.status_code)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise LabelStudioError(
                f"{response.url.path} at {self.url} answered {response.status_code} with something that isn't JSON: "
                "is UNDERPAINT_LABEL_STUDIO_URL the address of Label Studio, sub-path included?",
                response.status_code,
            ) from error

    def _complaint(self, response: httpx.Response) -> str:
        said = f"{response.request.method} {response.url.copy_with(query=None)} answered {response.status_code}"
        if response.is_redirect:
            return f"{said}, a redirect to {response.headers['location']}: set UNDERPAINT_LABEL_STUDIO_URL accordingly"
        if response.status_code == 401 and _JWT.fullmatch(self._token):
            return (
                f"{said}: the personal access token in UNDERPAINT_LABEL_STUDIO_TOKEN is revoked, expired or from "
                "another Label Studio; create a new one under Account & Settings, Personal Access Token"
            )
        if response.status_code == 401:
            return (
                f"{said}: the token in UNDERPAINT_LABEL_STUDIO_TOKEN is wrong, or legacy tokens are switched off; "
                "switch them on under Organization, Access Token Settings, or use a personal access token"
            )
        if response.status_code == 403:
            return f"{said}: the user whose token this is may not do that; give them access, or use another's token"
        if response.status_code == 404:
            return f"{said}: it was deleted, the token's user can't see it, or UNDERPAINT_LABEL_STUDIO_URL is wrong"
        return f"{said}: {response.text[:300]}"

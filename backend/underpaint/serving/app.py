"""The HTTP front: Label Studio's ML backend protocol, as its 1.23 really speaks it.

Label Studio waits 1 s for /health and /webhook and 3 s for /setup, so those never wait for a prediction, a load,
Redis or Label Studio.
"""

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import redis
from anyio import CapacityLimiter, to_thread
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic_core import to_json
from starlette.exceptions import HTTPException as StarletteHTTPException

from underpaint.checkpoints.store import StoreError
from underpaint.labelstudio.client import LabelStudioError
from underpaint.labelstudio.label_config import LabelConfigError, parse
from underpaint.policy import Policy, PolicyError
from underpaint.project import ProjectError, check_key, key_of
from underpaint.serving.backend import Backend
from underpaint.serving.jobs import Job
from underpaint.serving.predictor import Call
from underpaint.serving.requests import Duplicate, JobStatus, Predict, Setup, Train, Validate, Webhook, read
from underpaint.settings import Settings

log = logging.getLogger(__name__)

# Predictions may fill their own threads, never those that answer /setup and /webhook; and calls of many tasks never
# those of the calls that a person waits for.
PREDICTIONS_AT_ONCE = 16
# Who watches jobs reads the store, which may be slow, and again and again.
WATCHING_AT_ONCE = 4
# A report holds names that others chose; it needs its own style and pictures, and nothing else.
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


async def bounded_body(request: Request) -> bytes:
    """The request's body; answers 413 once it grows over ``max_request_bytes``."""
    limit = request.app.state.backend.settings.max_request_bytes
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise HTTPException(
                413,
                f"the request is larger than {limit} bytes: select fewer tasks, or raise UNDERPAINT_MAX_REQUEST_BYTES",
            )
        chunks.append(chunk)
    return b"".join(chunks)


RawBody = Annotated[bytes, Depends(bounded_body)]
basic = HTTPBasic(auto_error=False)


def check_auth(request: Request, sent: Annotated[HTTPBasicCredentials | None, Depends(basic)]) -> None:
    """Compare Basic auth with the settings, where they ask for it."""
    settings: Settings = request.app.state.backend.settings
    if not settings.basic_auth_user:
        return
    expected = f"{settings.basic_auth_user}:{settings.basic_auth_password}".encode()
    given = f"{sent.username}:{sent.password}".encode() if sent else b""
    if not secrets.compare_digest(given, expected):
        raise HTTPException(
            401,
            "user or password missing or wrong: enter them in Settings → Model → Basic Authentication; for webhooks, "
            'which Label Studio sends without them, PATCH /api/webhooks/{id}/ with {"headers": {"Authorization": …}}',
            headers={"WWW-Authenticate": "Basic"},
        )


def create_app(settings: Settings) -> FastAPI:
    """The ASGI application; its backend's threads live as long as the server runs."""
    backend = Backend(settings)
    reading, urgent, bulk = (CapacityLimiter(PREDICTIONS_AT_ONCE) for _ in range(3))
    watching = CapacityLimiter(WATCHING_AT_ONCE)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        backend.start()
        yield
        await to_thread.run_sync(backend.stop)

    app = FastAPI(title="Underpaint", lifespan=lifespan, dependencies=[Depends(check_auth)])
    app.state.backend = backend
    _explain_errors(app)

    @app.get("/")
    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "UP", "model_class": "PaintingSegmenter", "champions": backend.champions.versions()}

    @app.post("/setup")
    def setup(raw: RawBody) -> dict[str, str]:
        asked = read(Setup, raw)
        project = check_key(asked.project)
        config = parse(asked.label_config)
        policy = Policy.of(asked.extra_params)
        backend.connect(project, asked.hostname, asked.access_token, policy)
        return {"model_version": backend.champions.version(project, config)}

    @app.post("/predict")
    async def predict(request: Request, raw: RawBody) -> Response:
        deadline = time.monotonic() + settings.predict_deadline
        async with _gone(request) as gone:
            call = await to_thread.run_sync(_call, raw, deadline, gone, limiter=reading)
            return await to_thread.run_sync(_predict, backend, call, limiter=urgent if call.urgent else bulk)

    @app.get("/metrics")
    def metrics() -> dict[str, float]:
        return backend.metrics()

    @app.post("/webhook")
    def webhook(raw: RawBody) -> dict[str, Any]:
        event = read(Webhook, raw)
        project = key_of(event.project)
        if event.action == "START_TRAINING":
            return {"job": backend.retrains.request(project)}
        if event.labels:
            backend.retrains.note(project, event.labels)
        return {"labels": event.labels}

    @app.post("/train", status_code=201)
    def train(raw: RawBody) -> dict[str, str]:
        return {"job": backend.retrains.request(check_key(read(Train, raw).project))}

    @app.post("/validate")
    def validate(raw: RawBody) -> dict[str, str]:
        parse(read(Validate, raw).config)
        return {"status": "ok"}

    @app.get("/versions")
    def versions(project: str | None = None) -> dict[str, list[str]]:
        if project is not None:
            return {"versions": [move.version for move in backend.store.promotions(check_key(project))]}
        return {"versions": sorted(set(backend.champions.versions().values()))}

    @app.get("/jobs")
    async def jobs(project: str | None = None) -> dict[str, list[Job]]:
        return {"jobs": await to_thread.run_sync(backend.jobs.all, project, limiter=watching)}

    @app.get("/jobs/{job}")
    async def one_job(job: str) -> Job:
        return _found(await to_thread.run_sync(backend.jobs.find, job, limiter=watching), job)

    @app.get("/jobs/{job}/report")
    async def report(job: str) -> Response:
        html = await to_thread.run_sync(backend.jobs.report, job, limiter=watching)
        if html is None:
            raise HTTPException(404, f"no retrain {job!r} has left a report: GET /jobs lists those that have")
        return Response(html, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": REPORT_POLICY})

    @app.post("/job_status")
    async def job_status(raw: RawBody) -> dict[str, Any]:
        asked = read(JobStatus, raw).job
        job = _found(await to_thread.run_sync(backend.jobs.find, asked, limiter=watching), asked)
        return {"job_status": job["status"], "error": job.get("error"), "meta": job}

    @app.post("/delete")
    def delete(raw: RawBody) -> dict[str, str]:
        # Label Studio removes a backend more easily than a team gets its labels' worth of training back.
        project = check_key(read(Train, raw).project)
        return {"status": f"checkpoints of project {project} are kept"}

    @app.post("/duplicate_model")
    def duplicate(raw: RawBody) -> dict[str, str]:
        asked = read(Duplicate, raw)
        source, target = check_key(asked.project_src), check_key(asked.project_dst)
        champion = backend.store.champion(source)
        if champion is None:
            raise HTTPException(404, f"project {source} has no champion to copy: train it first")
        backend.store.promote(target, champion.version, "label-studio", f"copied from {source}", champion.metrics)
        backend.champions.refresh(target)
        return {"model_version": champion.version}

    return app


@asynccontextmanager
async def _gone(request: Request) -> AsyncIterator[Callable[[], bool]]:
    """Whether the client hung up since; the request's body must have been read."""
    hung_up = threading.Event()

    async def listen() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        hung_up.set()

    listening = asyncio.create_task(listen())
    try:
        yield hung_up.is_set
    finally:
        listening.cancel()


def _call(raw: bytes, deadline: float, gone: Callable[[], bool]) -> Call:
    asked = read(Predict, raw)
    context = asked.params.context if asked.params else None
    tasks = [task.model_dump() for task in asked.tasks]
    return Call(check_key(asked.project), tasks, parse(asked.label_config), deadline, context, gone)


def _predict(backend: Backend, call: Call) -> Response:
    slots, version = backend.predict(call)
    # Slot by slot: rendering holds on to the interpreter, and a thousand slots in one go would keep /health waiting.
    results = b",".join(to_json(slot) for slot in slots)
    content = b'{"results":[%b],"model_version":%b}' % (results, to_json(version))
    return Response(content, media_type="application/json")


def _found(job: Job | None, identifier: str) -> Job:
    if job is None:
        raise HTTPException(
            404, f"no job {identifier!r} waits, runs or ended lately, and no retrain's run has this id: see GET /jobs"
        )
    return job


def _explain_errors(app: FastAPI) -> None:
    """Answer every fault as ``{"error": message}``: wrong requests 4xx, things that are down 503."""

    def answer(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
        log.warning("answered %d: %s", status, message)
        return JSONResponse({"error": message}, status, headers)

    @app.exception_handler(StarletteHTTPException)
    def refused(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(Exception)
    def unforeseen(_: Request, error: Exception) -> JSONResponse:
        return answer(500, f"{type(error).__name__}: {error}; the log has more")

    @app.exception_handler(LabelStudioError)
    @app.exception_handler(LabelConfigError)
    @app.exception_handler(PolicyError)
    @app.exception_handler(ProjectError)
    def wrong(_: Request, error: Exception) -> JSONResponse:
        return answer(400, str(error))

    @app.exception_handler(StoreError)
    def broken_store(_: Request, error: StoreError) -> JSONResponse:
        return answer(503, str(error))

    @app.exception_handler(redis.RedisError)
    def no_redis(_: Request, error: redis.RedisError) -> JSONResponse:
        return answer(503, f"Redis can't be reached ({error}): start it, or set REDIS_URL, then ask again")

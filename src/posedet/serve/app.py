"""The HTTP interface: one path that takes photos, and those that say how the server is."""

import asyncio
import hmac
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from posedet import __version__
from posedet.errors import ConfigError, PoseDetError
from posedet.files import one_line
from posedet.runtime.detector import PoseDet
from posedet.serve.describe import ERRORS, PHOTOS_BODY, POSES_ANSWER
from posedet.serve.observe import Metrics, Observed
from posedet.serve.refusals import RETRY_SECONDS, Refusal, busy, refusal_of
from posedet.serve.uploads import Held, received, uploads_in
from posedet.serve.worker import Format, Worker
from posedet.skeleton import Skeleton, find_skeleton

PAGE = Path(__file__).parent / "page"  # the built files of web/
NO_PAGE = "posedet: POST photos to /v1/poses, see /openapi.json; `make web` builds a page for here\n"
# A square photo of this size needs 1.1 GB in the network of `posedet-s`.
MAX_LONG_SIDE = 1920


@dataclass(frozen=True)
class Limits:
    """What the server takes.

    Attributes:
        max_body_bytes: Bytes of a request.
        body_seconds: Time in which a request must have arrived.
        max_pixels: Pixels of a photo. Decoding takes up to 16 bytes of memory for each.
        max_waiting: Photos that wait for the model, and photos of a request.
    """

    max_body_bytes: int = 20_000_000
    body_seconds: float = 30
    max_pixels: int = 16_000_000
    max_waiting: int = 128


class Settings(BaseModel):
    """The query string of `/v1/poses`."""

    model_config = ConfigDict(extra="forbid")

    skeleton: str | None = Field(
        None,
        max_length=1000,
        description="The keypoints to report: `coco`, `crowdpose`, `body19`, or names of keypoints separated by "
        "commas. Default: as the server was started.",
        examples=["crowdpose", "left_wrist,right_wrist"],
    )
    score_threshold: float | None = Field(
        None, ge=0, lt=1, allow_inf_nan=False, description="Minimum score of a reported pose.", examples=[0.4]
    )
    long_side: int | None = Field(
        None,
        ge=32,
        le=MAX_LONG_SIDE,
        description="Pixels to which the long side of a photo is resized. More finds smaller people but takes longer.",
        examples=[960],
    )
    format: Format = Field(
        "posedet", description="`posedet`: an object for each photo. `coco`: a list in COCO's format for results."
    )


def create_app(
    detector: PoseDet, limits: Limits, *, token: str | None = None, origins: Sequence[str] = (), page: Path = PAGE
) -> FastAPI:
    """Return the application around one open model.

    Args:
        detector: The detector to run, with the settings of requests that do not name others.
        limits: What a request may have.
        token: What clients must send as `Authorization: Bearer TOKEN`. Default: nothing.
        origins: Origins of web pages that browsers let read the answers (CORS). Default: none.
        page: A folder of static files with an `index.html`, shown at `/` if it exists.

    Raises:
        ConfigError: If the detector has tiles.
    """
    if detector.tiles is not None:
        raise ConfigError(f"tiles is {detector.tiles}, but the server looks at whole photos only")
    metrics, held = Metrics(), Held(limits.max_body_bytes)
    metrics.held.set_function(lambda: held.num_bytes)
    worker = Worker(detector, limits.max_waiting, metrics)
    # Hostile forms and headers take time. One thread leaves the rest of the processor to the others.
    checks = ThreadPoolExecutor(1, "check")
    bearer = HTTPBearer(auto_error=False)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        worker.close()
        checks.shutdown()

    app = FastAPI(
        title="posedet",
        summary="Finds people and their keypoints in photos.",
        version=__version__,
        lifespan=life,
        docs_url=None,  # their scripts come from another server
        redoc_url=None,
    )
    app.add_middleware(Observed, metrics=metrics)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )

    async def known_client(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    ) -> None:
        given = "" if credentials is None else credentials.credentials
        if token is not None and not hmac.compare_digest(given.encode(), token.encode()):
            raise Refusal(401, "token", "needs the server's token: Authorization: Bearer TOKEN")

    answers: dict[int | str, dict[str, Any]] = {200: POSES_ANSWER}
    answers |= {status: ERRORS[status] for status in (408, 413, 415, 422, 503)}
    guarded = [] if token is None else [Depends(known_client)]
    guarded_errors: dict[int | str, dict[str, Any]] = {} if token is None else {401: ERRORS[401]}

    @app.post(
        "/v1/poses",
        dependencies=guarded,
        openapi_extra={"requestBody": PHOTOS_BODY},
        responses=answers | guarded_errors,
    )
    async def find_poses(request: Request, settings: Annotated[Settings, Query()]) -> Response:
        """Find the poses in one photo or in several.

        The body is a photo, or a form with several. Nothing is stored.
        """
        request.state.facts = facts = {}
        asked = detector.adjusted(
            skeleton=_skeleton(settings.skeleton, detector.about.skeleton),
            score_threshold=settings.score_threshold,
            long_side=settings.long_side,
        )
        with held.room() as take:
            with metrics.stage("receive"):
                body = await received(request, take, max_bytes=limits.max_body_bytes, seconds=limits.body_seconds)
            facts["bytes"] = len(body)
            loop, kind = asyncio.get_running_loop(), request.headers.get("content-type", "")
            with metrics.stage("check"):
                uploads = await loop.run_in_executor(
                    checks, uploads_in, kind, body, limits.max_waiting, limits.max_pixels
                )
            del body
            facts["photos"] = len(uploads)
            texts = await worker.find(uploads, asked, settings.format, request.is_disconnected)
        metrics.photos.inc(len(uploads))
        joined = ", ".join(texts)
        content = f"[{joined}]" if settings.format == "coco" else f'{{"photos": [{joined}]}}'
        return Response(content, media_type="application/json")

    @app.get("/healthz", response_class=PlainTextResponse)
    async def alive() -> str:
        """Say that the process answers."""
        return "alive\n"

    @app.get("/readyz", response_class=PlainTextResponse, responses={503: ERRORS[503]})
    async def ready() -> str:
        """Say whether a photo sent now would be taken."""
        if worker.is_full:
            raise busy("too many photos are waiting")
        return "ready\n"

    @app.get("/metrics", response_class=PlainTextResponse, dependencies=guarded, responses=guarded_errors)
    async def numbers() -> Response:
        """Return the metrics in Prometheus' format."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    if (page / "index.html").is_file():
        static = StaticFiles(directory=page)

        async def page_file(request: Request) -> Response:
            return await static.get_response(request.url.path.lstrip("/") or "index.html", request.scope)

        # A mount at "/" would answer a wrong method for another path with 404 instead of 405.
        for place in page.iterdir():
            if place.is_dir():
                app.mount(f"/{place.name}", StaticFiles(directory=place))
            else:
                app.add_route(f"/{place.name}", page_file, methods=["GET", "HEAD"], include_in_schema=False)
        app.add_route("/", page_file, methods=["GET", "HEAD"], include_in_schema=False)
    else:

        @app.get("/", response_class=PlainTextResponse, include_in_schema=False)
        async def no_page() -> str:
            return NO_PAGE

    for error in (PoseDetError, RequestValidationError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(error, _refuse)
    return app


def _skeleton(text: str | None, own: Skeleton) -> Skeleton | list[str] | None:
    """Return what the query names. Unlike on the command line, it is never a file. Raises DataError."""
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    if len(names) != 1 or names[0] in own.keypoints:
        return names or None
    return own if names[0] == own.name else find_skeleton(names[0], own.keypoints)


async def _refuse(request: Request, error: Exception) -> Response:
    """Answer an error with one line, and leave its kind to the log."""
    refusal = _refusal_of(error)
    request.state.kind = refusal.kind
    headers = {503: {"Retry-After": str(RETRY_SECONDS)}, 401: {"WWW-Authenticate": "Bearer"}}.get(refusal.status, {})
    if isinstance(error, HTTPException):  # 405 names the methods that are allowed
        headers |= error.headers or {}
    return JSONResponse({"error": str(refusal)}, refusal.status, headers)


def _refusal_of(error: Exception) -> Refusal:
    if isinstance(error, PoseDetError):
        return refusal_of(error)
    if isinstance(error, RequestValidationError):
        return Refusal(422, "parameter", "; ".join(_one_line_of(each) for each in error.errors()))
    if isinstance(error, HTTPException):
        return Refusal(error.status_code, "path", f"{error.detail}; /openapi.json says what there is")
    if isinstance(error, ClientDisconnect):
        return Refusal(400, "gone", "the client has gone")
    return Refusal(500, "internal", "failed; the server's log says why")


def _one_line_of(error: dict[str, Any]) -> str:
    name = one_line(error["loc"][-1])
    if error["type"] == "extra_forbidden":
        return f"{name:.80}: unknown; the query takes {', '.join(Settings.model_fields)}"
    return f"{name:.80}: {one_line(error['input'])!r:.80}, {error['msg'][0].lower()}{error['msg'][1:]}"

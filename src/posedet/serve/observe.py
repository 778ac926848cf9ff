"""What can be seen of the server: Prometheus metrics, and log lines in JSON. Neither has contents of requests."""

import json
import logging
import time
import traceback
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("posedet_requests", "Answered requests", ("path", "status"), registry=registry)
        self.errors = Counter("posedet_errors", "Refused or failed requests", ("kind",), registry=registry)
        self.photos = Counter("posedet_photos", "Photos whose poses were answered", registry=registry)
        self.waiting = Gauge("posedet_waiting_photos", "Photos that wait for the model", registry=registry)
        self.running = Gauge("posedet_running_photos", "Photos in the model", registry=registry)
        self.held = Gauge("posedet_held_bytes", "Bytes of uploads in memory", registry=registry)
        self._stages = Histogram(
            "posedet_stage_seconds", "Time of a stage", ("stage",), buckets=_SECONDS, registry=registry
        )

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Return a context that notes how long a stage takes."""
        return self._stages.labels(name).time()


class Observed:
    """ASGI middleware that counts and logs each request.

    Handlers leave the `kind` of an error and further `facts` for the log in the state of the request.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 500

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observed_send)
        finally:
            # Only paths of this server: others would be contents, and labels without limit.
            path = getattr(scope.get("route"), "path", "other")
            state = scope.get("state", {})
            kind = state.get("kind", "internal" if status >= 500 else "other" if status >= 400 else None)
            self._metrics.requests.labels(path, status).inc()
            if kind is not None:
                self._metrics.errors.labels(kind).inc()
            facts = {"method": scope["method"], "path": path, "status": status, "kind": kind, **state.get("facts", {})}
            facts["ms"] = round(1000 * (time.perf_counter() - begin), 1)
            log.info("request", extra={"facts": {name: fact for name, fact in facts.items() if fact is not None}})


class JsonLines(logging.Formatter):
    """Formats a log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": moment, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        return json.dumps(line)

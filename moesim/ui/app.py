"""The server: a page, and answers to what it asks."""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import mimetypes
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from moesim.errors import ConfigError, Fault, InfeasibleError, TraceError
from moesim.ui.alternatives import any_layout, assess, layout_in, others, redundant_in
from moesim.ui.answer import answer
from moesim.ui.body import UPLOAD_S, chunks, read_json
from moesim.ui.catalogue import catalogue
from moesim.ui.exports import Download, asked_together, plan_of, planned, predicted_together, report_of
from moesim.ui.library import Library
from moesim.ui.scenario import field_of
from moesim.ui.security import Guard, Rules
from moesim.ui.suggestions import layouts_instead
from moesim.ui.uploads import MAX_BYTES, Inbox, title_of, tried
from moesim.ui.work import Gone, Worker

STATIC = Path(__file__).resolve().parent / "static"
_TOKEN = '<meta name="moesim-token" content="">'
_UNUSUAL = re.compile(r"[^\w.-]", re.ASCII)
# Some systems know these by other types, and browsers run no script and apply no style of another type.
for _suffix, _type in ((".js", "text/javascript"), (".css", "text/css"), (".svg", "image/svg+xml")):
    mimetypes.add_type(_type, _suffix)
#: Seconds after which the layouts that are left wait for the next request.
ALTERNATIVES_S = 1.0
#: Longer values are cut where a fault repeats them.
_MOST_SHOWN = 200


class Server:
    """What the routes share.

    Parameters
    ----------
    library
        What may be asked about.
    rules
        Who may ask.
    warm
        Whether the first question is answered before anybody asks it: compiling and reading take a second.
    """

    def __init__(self, library: Library, rules: Rules, *, warm: bool = False) -> None:
        self.library, self.rules, self._warm = library, rules, warm
        # Rendering and placing take seconds and touch nothing that answers keep: sliders go on beside them.
        self.worker, self.exporter = Worker(), Worker()
        self.inbox = Inbox()
        self._catalogue: dict[str, Any] | None = None

    @property
    def busy(self) -> bool:
        """Whether something is being computed, asked for or not."""
        return self.worker.busy or self.exporter.busy

    def app(self) -> ASGIApp:
        """Everything behind the guard."""

        def post(path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> Route:
            return Route(path, endpoint, methods=["POST"])

        routes = [
            Route("/", self.page),
            Route("/api/catalogue", self.catalogue),
            post("/api/answer", self.answer),
            post("/api/alternatives", self.alternatives),
            post("/api/traces", self.upload),
            post("/api/export/report", self.report),
            post("/api/export/plan", self.plan),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        handlers: dict[Any, Callable[[Request, Any], Response]] = {
            HTTPException: _refused,
            ConfigError: _faulty,
            TraceError: _faulty,
            InfeasibleError: _infeasible,
            ClientDisconnect: _gone,
            Gone: _gone,
            Exception: _broken,
        }
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)
        return Guard(app, self.rules)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        warming = asyncio.create_task(self._warm_up()) if self._warm else None
        try:
            yield
        finally:
            if warming is not None:
                warming.cancel()
            self.worker.close()
            self.exporter.close()
            self.inbox.close()

    async def _warm_up(self) -> None:
        await self._known()
        await self.worker.run(partial(answer, {}, self.library))

    async def page(self, _: Request) -> Response:
        """The page, with the token that its requests carry."""
        text = (STATIC / "index.html").read_text(encoding="utf-8")
        token = html.escape(self.rules.page_token, quote=True)
        return HTMLResponse(text.replace(_TOKEN, _TOKEN.replace('""', f'"{token}"')))

    async def catalogue(self, _: Request) -> Response:
        """What may be chosen."""
        return Json(await self._known())

    async def _known(self) -> dict[str, Any]:
        if self._catalogue is None:
            self._catalogue = await self.worker.run(partial(catalogue, self.library))
        return self._catalogue | {"traces": [row.to_dict() for row in self.library.traces]}

    async def answer(self, request: Request) -> Response:
        """The answer to a scenario; where its layout cannot be, what could be instead."""
        raw = await read_json(request)
        try:
            return Json(await self.worker.run(partial(answer, raw, self.library), request))
        except ConfigError as fault:
            found = await self.worker.run(partial(layouts_instead, raw, self.library), request)
            return error(422, _counted(fault), fault.faults, suggestions=found)

    async def alternatives(self, request: Request) -> Response:
        """Other layouts of the same devices, as many as a second allows."""
        raw = await read_json(request)
        near = layout_in(raw)
        asked = await self.worker.run(partial(any_layout, raw, self.library), request)
        waiting = await self.worker.run(partial(others, asked, near, redundant_in(raw)), request)
        rows, end = [], time.perf_counter() + ALTERNATIVES_S
        for other in waiting:
            rows.append(await self.worker.run(partial(assess, other, near), request))
            if time.perf_counter() > end:
                break
        return Json({"layouts": rows, "considered": len(rows), "total": len(waiting)})

    async def upload(self, request: Request) -> Response:
        """Store a trace, try it, and offer it."""
        name = title_of(request.query_params.get("name", ""))
        path = await self.inbox.store(chunks(request, MAX_BYTES, UPLOAD_S))
        try:
            await tried(path)
            row = await self.worker.run(partial(self.library.traces.add_upload, path, name))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return Json(row.to_dict())

    async def report(self, request: Request) -> Response:
        """A report of several scenarios."""
        raw = await read_json(request)
        asked, labels = await self.worker.run(partial(asked_together, raw, self.library), request)
        answers = await self.worker.run(partial(predicted_together, asked), request)
        return _sent(
            await self.exporter.run(
                partial(report_of, asked, answers, labels, self.library, self.inbox.folder), request
            )
        )

    async def plan(self, request: Request) -> Response:
        """A plan of experts."""
        raw = await read_json(request)
        asked, name = await self.worker.run(partial(planned, raw, self.library), request)
        return _sent(await self.exporter.run(partial(plan_of, asked, name, self.inbox.folder), request))


class Json(Response):
    """JSON in plain ASCII, as any text may be in it, never NaN."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:  # noqa: ANN401 - plain JSON values
        """The bytes."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def error(
    status: int,
    text: str,
    faults: tuple[Fault, ...] = (),
    headers: Mapping[str, str] | None = None,
    **more: object,
) -> Response:
    """What went wrong, and where."""
    rows = [
        {
            "where": field_of(fault.where),
            "message": fault.message,
            "value": _shown(fault.value),
            "allowed": fault.allowed,
        }
        for fault in faults
    ]
    return Json({"error": text, "faults": rows, **more}, status, headers)


def _shown(value: object) -> str | None:
    text = None if value is None else str(value)
    return text if text is None or len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."


def _counted(exception: ConfigError | TraceError) -> str:
    count = len(exception.faults)
    return "1 fault" if count == 1 else f"{count} faults"


def _sent(file: Download) -> Response:
    disposition = f'attachment; filename="{_UNUSUAL.sub("-", file.name)}"'
    return Response(file.content, 200, {"content-disposition": disposition}, file.media_type)


def _refused(_: Request, exception: HTTPException) -> Response:
    return error(exception.status_code, exception.detail, headers=exception.headers)


def _faulty(_: Request, exception: ConfigError | TraceError) -> Response:
    return error(422, _counted(exception), exception.faults)


def _infeasible(_: Request, exception: InfeasibleError) -> Response:
    return error(409, str(exception))


def _gone(*_: object) -> Response:
    return Response(status_code=499)


def _broken(*_: object) -> Response:
    return error(500, "this is a fault of moesim's; what was asked is in the page's address")

"""The server: a page, and answers to what it asks."""

from __future__ import annotations

import contextlib
import html
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from moesim.errors import ConfigError, Fault, InfeasibleError, TraceError
from moesim.ui.answer import answer
from moesim.ui.body import read_json
from moesim.ui.catalogue import catalogue
from moesim.ui.library import Library
from moesim.ui.scenario import field_of
from moesim.ui.security import Guard, Rules
from moesim.ui.work import Gone, Worker

STATIC = Path(__file__).resolve().parent / "static"
_TOKEN = '<meta name="moesim-token" content="">'
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
    """

    def __init__(self, library: Library, rules: Rules) -> None:
        self.library, self.rules = library, rules
        self.worker = Worker()
        self._catalogue: dict[str, Any] | None = None

    def app(self) -> ASGIApp:
        """Everything behind the guard."""
        routes = [
            Route("/", self.page),
            Route("/api/catalogue", self.catalogue),
            Route("/api/answer", self.answer, methods=["POST"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        handlers: dict[Any, Callable[[Request, Any], Response]] = {
            HTTPException: _refused,
            ConfigError: _faulty,
            TraceError: _faulty,
            InfeasibleError: _infeasible,
            Gone: _gone,
            Exception: _broken,
        }
        return Guard(
            Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan), self.rules
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self.worker.close()

    async def page(self, _: Request) -> Response:
        """The page, with the token that its requests carry."""
        text = (STATIC / "index.html").read_text(encoding="utf-8")
        token = html.escape(self.rules.page_token, quote=True)
        return HTMLResponse(text.replace(_TOKEN, _TOKEN.replace('""', f'"{token}"')))

    async def catalogue(self, request: Request) -> Response:
        """What may be chosen."""
        if self._catalogue is None:
            self._catalogue = await self.worker.run(partial(catalogue, self.library), request)
        return Json(self._catalogue)

    async def answer(self, request: Request) -> Response:
        """The answer to a scenario."""
        raw = await read_json(request)
        return Json(await self.worker.run(partial(answer, raw, self.library), request))


class Json(Response):
    """JSON in plain ASCII, as any text may be in it, never NaN."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:  # noqa: ANN401 - plain JSON values
        """The bytes."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def error(status: int, text: str, faults: tuple[Fault, ...] = (), headers: Any = None) -> Response:  # noqa: ANN401
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
    return Json({"error": text, "faults": rows}, status, headers)


def _shown(value: object) -> str | None:
    text = None if value is None else str(value)
    return text if text is None or len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."


def _refused(_: Request, exception: HTTPException) -> Response:
    return error(exception.status_code, exception.detail, headers=exception.headers)


def _faulty(_: Request, exception: ConfigError | TraceError) -> Response:
    count = len(exception.faults)
    return error(422, "1 fault" if count == 1 else f"{count} faults", exception.faults)


def _infeasible(_: Request, exception: InfeasibleError) -> Response:
    return error(409, str(exception))


def _gone(*_: object) -> Response:
    return Response(status_code=499)


def _broken(*_: object) -> Response:
    return error(500, "this is a fault of moesim's; what was asked is in the page's address")

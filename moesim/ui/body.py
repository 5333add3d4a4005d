"""Read what a request carries: within a size and a time, whatever its headers promise."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from moesim.units import show

MAX_JSON_BYTES = 256 * 1024
#: A request is sent within so many seconds, and an upload within more.
JSON_S, UPLOAD_S = 10.0, 120.0


async def chunks(request: Request, most_bytes: int, seconds: float) -> AsyncIterator[bytes]:
    """The body in parts.

    Raises
    ------
    HTTPException
        413 as soon as it is too large, 408 if it takes too long.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:19]) > most_bytes:
        raise _too_large(most_bytes)
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > most_bytes:
                    raise _too_large(most_bytes)
                yield part
    except TimeoutError:
        raise HTTPException(408, "the request took too long to arrive") from None


async def read_json(request: Request) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The body as JSON.

    Raises
    ------
    HTTPException
        If it is too large, too slow, of another type, or no JSON.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "the body has to be application/json")
    body = b"".join([part async for part in chunks(request, MAX_JSON_BYTES, JSON_S)])
    try:
        return json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is no JSON") from None


def _no_number(text: str) -> float:
    raise ValueError(text)


def _too_large(most_bytes: int) -> HTTPException:
    return HTTPException(413, f"the body is too large: at most {show(most_bytes, 'bytes')}")

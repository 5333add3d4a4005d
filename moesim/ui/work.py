"""One question at a time: the engine keeps what it has drawn, and that is not shared between threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request

T = TypeVar("T")

#: Questions that may wait.
MOST_WAITING = 32


class Gone(Exception):  # noqa: N818 - nobody is told of it
    """Whoever asked does not wait any more."""


class Worker:
    """A thread that answers questions one by one, first come, first served.

    A question whose sender has gone by the time its turn comes is dropped: the page cancels a slider's last
    move when the next one is made.

    Attributes
    ----------
    busy
        Whether the thread is at work.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "moesim-ui")
        self._turn = asyncio.Lock()
        self._waiting = 0
        self.busy = False

    async def run(self, function: Callable[[], T], request: Request | None = None) -> T:
        """What a function returns, when its turn has come.

        Raises
        ------
        HTTPException
            503 if too many wait.
        Gone
            If the sender of the request has gone.
        """
        if self._waiting >= MOST_WAITING:
            raise HTTPException(503, "too many questions wait", {"retry-after": "1"})
        self._waiting += 1
        try:
            async with self._turn:
                if request is not None and await request.is_disconnected():
                    raise Gone
                # A thread cannot be stopped: who leaves in between must not let the next one in.
                loop = asyncio.get_running_loop()
                return await asyncio.shield(loop.run_in_executor(self._pool, self._work, function))
        finally:
            self._waiting -= 1

    def _work(self, function: Callable[[], T]) -> T:
        self.busy = True
        try:
            return function()
        finally:
            self.busy = False

    def close(self) -> None:
        """Drop what waits, and leave what runs to its end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

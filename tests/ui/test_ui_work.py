"""One question at a time: what nobody waits for is dropped, and not too many wait."""

from __future__ import annotations

import asyncio
import threading

import pytest
from starlette.exceptions import HTTPException

from moesim.ui import work
from moesim.ui.work import Gone, Worker


class Sender:
    """A request whose sender may go."""

    gone = False

    async def is_disconnected(self):
        return self.gone


def test_a_question_whose_sender_has_gone_is_never_computed():
    async def play():
        worker, slow, asked = Worker(), threading.Event(), []
        first = asyncio.create_task(worker.run(lambda: slow.wait(10)))
        senders = [Sender() for _ in range(3)]
        moves = [
            asyncio.create_task(worker.run(lambda n=n: asked.append(n), sender))
            for n, sender in enumerate(senders)
        ]
        await asyncio.sleep(0.01)
        # A slider moved on twice: the page has cancelled all but the last.
        senders[0].gone = senders[1].gone = True
        slow.set()
        found = await asyncio.gather(first, *moves, return_exceptions=True)
        worker.close()
        return asked, found

    asked, found = asyncio.run(play())
    assert asked == [2]
    assert [type(one) for one in found] == [bool, Gone, Gone, type(None)]


def test_answers_never_run_beside_each_other_even_if_one_is_cancelled():
    async def play():
        worker, running, most = Worker(), 0, 0
        lock = threading.Lock()

        def count():
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            threading.Event().wait(0.02)
            with lock:
                running -= 1

        tasks = [asyncio.create_task(worker.run(count)) for _ in range(6)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        tasks[3].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        worker.close()
        return most

    assert asyncio.run(play()) == 1


def test_too_many_that_wait_are_told_to_come_again(monkeypatch):
    monkeypatch.setattr(work, "MOST_WAITING", 2)

    async def play():
        worker, slow = Worker(), threading.Event()
        waiting = [asyncio.create_task(worker.run(lambda: slow.wait(10))) for _ in range(2)]
        await asyncio.sleep(0.01)
        with pytest.raises(HTTPException) as raised:
            await worker.run(lambda: None)
        slow.set()
        await asyncio.gather(*waiting)
        await worker.run(lambda: None)
        worker.close()
        return raised.value

    refused = asyncio.run(play())
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"

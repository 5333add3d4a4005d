"""Pages under test: what they said and asked for, what they show, and waiting for their answers."""

from __future__ import annotations

import contextlib
from urllib.parse import urlsplit

#: A small model on one node: every answer takes milliseconds.
SMALL = (
    "model=gpt-oss-20b&hardware=h100-sxm-8&nodes=1&tp=1&pp=1&dp=8&ep=8&redundant=0&input_len=1024&output_len=256&"
    "concurrency=64&request_rate=none&dtype=auto&kv_cache_dtype=auto&backend=vllm&overlap=none&trace=none&"
    "routing=typical&ttft_limit_ms=none&tpot_limit_ms=none&seed=0"
)


class Watched:
    """A page, what it said on its console, and what it asked for."""

    def __init__(self, page):
        self.page, self.said, self.asked, self.failed = page, [], [], []
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("requestfailed", lambda request: self.failed.append((request.url, request.failure)))

    @property
    def elsewhere(self):
        """Requests to other machines."""
        return [
            url
            for url in self.asked
            if urlsplit(url).scheme not in {"data", "blob", "file"} and urlsplit(url).hostname != "127.0.0.1"
        ]

    @property
    def complaints(self):
        """Errors and warnings on the console."""
        return [text for text in self.said if text.partition(":")[0] in {"error", "warning", "assert"}]


def metric(page, name):
    """What stands large in a metric's card."""
    return page.locator(f'.metric[data-metric="{name}"] .big').inner_text()


def answered(page):
    """How many answers have been drawn."""
    return int(page.evaluate("() => document.body.dataset.answered"))


@contextlib.contextmanager
def next_answer(page):
    """Wait for the answer that what is done here leads to, the last one of it."""
    before = answered(page)
    yield
    page.wait_for_selector(f'body:not([data-answered="{before}"])[data-settled="yes"]')

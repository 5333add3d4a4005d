"""A real server, a real browser, and a record of everything that a page asked for and complained about."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
).split()
#: A small model on one node: every answer takes milliseconds.
SMALL = (
    "model=gpt-oss-20b&hardware=h100-sxm-8&nodes=1&tp=1&pp=1&dp=8&ep=8&redundant=0&input_len=1024&output_len=256&"
    "concurrency=64&request_rate=none&dtype=auto&kv_cache_dtype=auto&backend=vllm&overlap=none&trace=none&"
    "routing=typical&ttft_limit_ms=none&tpot_limit_ms=none&seed=0"
)


@pytest.fixture(scope="session")
def address():
    """Where `moesim ui` answers, on a free port."""
    command = [sys.executable, "-m", "moesim", "ui", "--port", "0"]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as server:
        found = server.stdout.readline().strip()
        assert found.startswith("http://127.0.0.1:"), found
        yield found
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="module")
def chromium():
    """A browser; of a module, as its loop keeps other tests of the process from having one."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        assert not os.environ.get("CI"), "CI has no Chromium"
        pytest.skip("there is no Chromium; install one")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


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


@pytest.fixture
def open_page(chromium):
    """Open pages in contexts of their own; `expects` names complaints that belong to the test.

    At the end every page must have been quiet, and have asked nothing of other machines.
    """
    opened = []

    @contextlib.contextmanager
    def kept():
        yield
        for watched, expects in opened:
            strange = [text for text in watched.complaints if not any(e in text for e in expects)]
            assert not strange
            assert not watched.elsewhere

    def open_one(url="about:blank", *, width=1280, height=900, expects=(), **options):
        context = chromium.new_context(
            viewport={"width": width, "height": height}, accept_downloads=True, **options
        )
        context.set_default_timeout(20_000)
        watched = Watched(context.new_page())
        opened.append((watched, expects))
        watched.page.goto(url)
        return watched

    try:
        with kept():
            yield open_one
    finally:
        for watched, _ in opened:
            watched.page.context.close()


@pytest.fixture
def what_if(open_page, address):
    """Open the page on a scenario, with its first answer."""

    def open_answered(fragment=SMALL, **options):
        watched = open_page(f"{address}#{fragment}", **options)
        watched.page.wait_for_selector("body[data-answered]")
        return watched

    return open_answered


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

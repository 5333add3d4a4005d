"""A real server, a real browser, and a record of everything that a page asked for and complained about."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys

import pytest
from pages import SMALL, Watched

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
).split()


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
        # It ends with the question that it is at, which may take a while on a busy machine.
        server.terminate()
        server.wait(120)


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
        context.set_default_timeout(60_000)
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

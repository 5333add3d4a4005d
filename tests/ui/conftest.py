"""A what-if server in this process, and the smallest scenario worth asking about."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from moesim.ui.app import Server
from moesim.ui.library import Library
from moesim.ui.security import Rules

ADDRESS = "http://127.0.0.1:8765"
#: One node, small experts, quick to draw.
SMALL = {
    "model": "gpt-oss-20b",
    "hardware": "h100-sxm-8",
    "nodes": 1,
    "tp": 1,
    "dp": 8,
    "ep": 8,
    "input_len": 1024,
    "output_len": 1024,
    "concurrency": 256,
}


@pytest.fixture(scope="session")
def library():
    return Library()


@pytest.fixture(scope="session")
def server(library):
    return Server(library, Rules())


@pytest.fixture(scope="session")
def bare(server):
    """Whoever is not our page: no token."""
    with TestClient(server.app(), base_url=ADDRESS, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def page(bare, server):
    """Our page: its token is in every request."""
    bare.headers["x-moesim"] = server.rules.page_token
    yield bare
    del bare.headers["x-moesim"]


@pytest.fixture
def ask(page):
    """The answer to the small scenario with changes, which has to be one."""

    def asked(**changes):
        found = page.post("/api/answer", json=SMALL | changes)
        assert found.status_code == 200, found.text
        return found.json()

    return asked

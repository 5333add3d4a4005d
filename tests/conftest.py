"""Fixtures every test may use."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Workers share the cores, and matrices are small: threads of linear algebra would only wait for each other.
# Said before numpy is loaded; commands that tests start inherit it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Machines differ in speed, and a check-in must not fail by chance: there the same cases are tried every time.
settings.register_profile("moesim", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("moesim")

#: All are modules of one name, which examples in docstrings would be looked for in.
collect_ignore_glob = ["*conftest.py"]
ROOT = Path(__file__).resolve().parent.parent


#: Rooms of the second half of the tests; their loops, which take long to compile, are not the first half's.
SECOND_HALF = frozenset(
    "offload policy residency placement rebalancing near throughput overlap systems reporting trace model "
    "cli".split()
)
#: Rooms that use every loop.
LAST = frozenset({"docs", "cli"})
#: What a GPU can be played with; see `moesim.reference.cuda.emulate`.
COMPILERS = (os.environ["CXX"],) if os.environ.get("CXX") else ("g++", "clang++", "c++")


def pytest_collection_modifyitems(items):
    """Part the tests so that two workers, with half of them each at first, compile different loops.

    What uses every loop comes last in each half, when the other worker has compiled its own.
    """

    def place(item):
        room = item.path.relative_to(ROOT).parts[1].removesuffix(".py")
        return room in SECOND_HALF, room in LAST

    items.sort(key=place)
    if not (sys.platform == "linux" and any(map(shutil.which, COMPILERS))):
        absent = pytest.mark.skip(reason="a GPU is played on Linux with g++ or clang++ alone; install one")
        for item in items:
            if item.get_closest_marker("emulation"):
                item.add_marker(absent)


def pytest_collection_finish():
    """Leave what has been imported out of later collections of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Return a path inside the shared measurement data, or skip where it is absent."""
    folder = Path(os.environ.get("MOESIM_SHARED", ROOT.parent / "shared" / "data"))

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"{name} is not in {folder}; set MOESIM_SHARED to the folder that holds it")
        return path

    return find


@pytest.fixture
def moesim(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run the program in this process: exit code, standard output, standard error."""
    from moesim.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["moesim", *map(str, arguments)])
        # The program prints warnings its own way: back to the test's when it is over.
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return stopped.value.code, captured.out, captured.err

    return run

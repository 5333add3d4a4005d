"""Traces that come over the network: stored apart, tried in a process of their own, then offered.

A file from anywhere may be made to exhaust memory or time, or to break a library. The process that reads it
first has limits of both; only what it reads to the end is read here.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from moesim.errors import Fault, TraceError

MAX_BYTES = 64 * 10**6
#: What reading one may take: memory, and seconds.
MEMORY_BYTES, SECONDS = 4 * 2**30, 60
#: What one may take once it is read.
HELD_BYTES = 512 * 2**20
_MOST_NAME = 120
_COLUMNS = ("topk_ids", "request", "position", "phase", "topk_weights", "token_id")


class Inbox:
    """A private folder for uploads, removed at the end.

    Attributes
    ----------
    folder
        Where it is.
    """

    def __init__(self) -> None:
        self._owner = tempfile.TemporaryDirectory(prefix="moesim-ui-")
        self.folder = Path(self._owner.name)
        self._count = 0

    async def store(self, parts: AsyncIterator[bytes]) -> Path:
        """Write what comes to a new file; nothing stays of what breaks off."""
        self._count += 1
        path = self.folder / f"upload-{self._count}"
        try:
            with path.open("xb") as stream:
                async for part in parts:
                    stream.write(part)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def close(self) -> None:
        """Remove everything."""
        self._owner.cleanup()


async def tried(path: Path) -> None:
    """Read a file in a process of its own.

    Raises
    ------
    TraceError
        With what is wrong with it, or that it took too much.
    """
    # Beside what is imported here, and nothing that lies where the file does.
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "moesim.ui.uploads", str(path)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
    )
    try:
        async with asyncio.timeout(SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        raise TraceError(Fault("takes too long to read", allowed=f"{SECONDS} s")) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        faults = json.loads(output)
    except ValueError:
        raise TraceError(Fault("reading it broke off: it takes too much memory, or is broken")) from None
    if faults:
        raise TraceError([Fault(**fault) for fault in faults])


def title_of(name: str) -> str:
    r"""What a file is called, as text of one line: never a path.

    >>> title_of("../../etc/pass\nwd"), title_of("")
    ('pass?wd', 'trace')
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(c if c.isprintable() else "?" for c in last)[:_MOST_NAME].strip() or "trace"


def try_file(path: Path) -> list[dict[str, Any]]:
    """Read a trace as `load_trace` does; what is wrong with it, empty if nothing."""
    from moesim.trace import RoutingTrace, load_trace
    from moesim.trace.limits import size_fault
    from moesim.ui.traces import known_models

    try:
        found = load_trace(path, candidates=known_models)
    except TraceError as error:
        faults = list(error.faults)
    except (MemoryError, RecursionError):
        faults = [Fault("needs more memory than an upload may take")]
    else:
        if isinstance(found, RoutingTrace):
            columns = (getattr(found, name) for name in _COLUMNS)
            held = sum(column.nbytes for column in columns if column is not None)
        else:
            held = found.counts.nbytes
        fault = size_fault(held, "the whole trace", HELD_BYTES)
        faults = [] if fault is None else [fault]
    own = str(path)
    return [
        {
            "message": fault.message.replace(own, "the file"),
            "where": fault.where.replace(own, "the file"),
            "value": None if fault.value is None else str(fault.value),
            "allowed": fault.allowed,
        }
        for fault in faults
    ]


def _limit() -> None:
    """Bound what this process may take, where the system knows such limits."""
    try:
        import resource
    except ImportError:
        return
    for kind, most in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CPU, SECONDS)):
        resource.setrlimit(kind, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _limit()
    sys.stdout.write(json.dumps(try_file(Path(sys.argv[1]))))

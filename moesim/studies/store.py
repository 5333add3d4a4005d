"""A folder of results, keyed by configuration hash: what several studies have in common is computed once."""

from __future__ import annotations

import json
import os
import socket
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

import filelock
import pyarrow as pa
import pyarrow.compute as pc

from moesim.errors import ConfigError, Fault
from moesim.files import atomic_write
from moesim.studies.batch import SUFFIX, CorruptFileError, read_batch, table_of, write_batch
from moesim.studies.key import canonical
from moesim.studies.rows import FAILED

BATCHES, LOCK, HOLDER = "batches", ".lock", ".holder.json"
#: Files beyond which they are put together before a study goes on.
MANY_FILES = 200


class Store:
    """Results in a folder, for one writer at a time.

    Parameters
    ----------
    folder
        Made if it is not there.

    Attributes
    ----------
    warnings
        What was found to be wrong: damaged files, a run that was killed.

    Raises
    ------
    ConfigError
        If another run writes there, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batches = folder / BATCHES
        self.warnings: list[str] = []
        self._rows: list[dict[str, Any]] = []
        try:
            self.batches.mkdir(parents=True, exist_ok=True)
            # The system lets go of the lock when its holder ends, however that is.
            self._lock = filelock.FileLock(folder / LOCK, blocking=False)
            self._lock.acquire()
        except filelock.Timeout:
            raise ConfigError(
                Fault(f"another run writes there: {self._holder()}", allowed="another folder"),
                folder,
            ) from None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(Fault(f"cannot be written: {reason}"), folder) from None
        self._take_over()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.flush()
            (self.folder / HOLDER).unlink(missing_ok=True)
        finally:
            self._lock.release()

    def _holder(self) -> str:
        try:
            held = json.loads((self.folder / HOLDER).read_text(encoding="utf-8"))
            return f"process {held['pid']} on {held['host']}, since {held['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "which one is not known"

    def _take_over(self) -> None:
        """Clean up after a run that was killed, and say who holds the folder now."""
        if (self.folder / HOLDER).exists():
            self.warnings.append(f"{self.folder}: the last run was killed ({self._holder()}); going on")
        for left in (*self.batches.glob(f".*{SUFFIX}.*.tmp"), *self.folder.glob(".*.tmp")):
            left.unlink(missing_ok=True)
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        with atomic_write(self.folder / HOLDER) as stream:
            held = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
            cast("IO[str]", stream).write(json.dumps(held))

    def statuses(self) -> dict[str, str]:
        """Status by key of everything that is here; damaged files are set aside first."""
        sound = self._sound()
        if len(sound) > MANY_FILES:
            self._put_together(list(sound))
        found: dict[str, str] = {}
        for table in sound.values():
            for key, status in zip(*(table[n].to_pylist() for n in ("key", "status")), strict=True):
                if found.get(key, FAILED[0]) in FAILED:
                    found[key] = status
        return found

    def _sound(self) -> dict[Path, pa.Table]:
        """Keys and statuses of files that are whole; one that is not is named, and renamed."""
        found = {}
        for path in sorted(self.batches.glob(f"*{SUFFIX}")):
            try:
                found[path] = read_batch(path, ("key", "status"))
            except CorruptFileError as error:
                aside = path.with_suffix(f"{SUFFIX}.corrupt")
                path.replace(aside)
                self.warnings.append(
                    f"{path}: {error}; set aside as {aside.name}, what it held is computed again"
                )
        return found

    def _put_together(self, files: Sequence[Path]) -> None:
        """One file in the place of many; killed in between, both are there, and agree."""
        whole = write_batch(joined(read_batch(path) for path in files), self.batches)
        for path in files:
            if path != whole:
                path.unlink()

    def add(self, task: Mapping[str, Any], key: str, result: Mapping[str, Any]) -> None:
        """Keep a result; it is on the disk after the next `flush`."""
        identity = task["identity"]
        self._rows.append(
            {
                "key": key,
                "kind": identity["kind"],
                "status": result["status"],
                "reason": result["reason"],
                "identity": canonical(identity),
                "seconds": result.get("seconds"),
                "finished_s": time.time(),
                "values": result["values"],
            }
        )

    @property
    def waiting(self) -> int:
        """Results that are not on the disk yet."""
        return len(self._rows)

    def flush(self) -> None:
        """Write what is waiting."""
        if self._rows:
            write_batch(table_of(self._rows), self.batches)
            self._rows = []

    def results(self) -> pa.Table:
        """Everything that is on the disk, one row per key."""
        return results_in(self.folder)


def results_in(folder: Path) -> pa.Table:
    """Results in a folder, one row per key, sorted by it; files that are damaged are left out.

    Reads beside a run that is writing.
    """
    tables = []
    for path in sorted((folder / BATCHES).glob(f"*{SUFFIX}")):
        try:
            tables.append(read_batch(path))
        except CorruptFileError as error:
            warnings.warn(f"{path}: {error}; left out", stacklevel=2)
    return joined(tables)


def joined(tables: Iterable[pa.Table]) -> pa.Table:
    """Tables with different columns as one, one row per key: an answer before a failure, else the latest."""
    whole = pa.concat_tables([table_of([]), *tables], promote_options="default")
    failed = pc.is_in(whole["status"], pa.array(FAILED))
    order = pc.sort_indices(
        whole.append_column("failed", failed),
        sort_keys=[("key", "ascending"), ("failed", "ascending"), ("finished_s", "descending")],
    )
    whole = whole.take(order)
    keys = whole["key"].to_pylist()
    return whole.filter(pa.array([i == 0 or key != keys[i - 1] for i, key in enumerate(keys)], pa.bool_()))

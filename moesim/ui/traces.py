"""Routing traces that may be chosen: bundled ones, files that were named at the start, and uploads."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesim.errors import ConfigError, Fault, TraceError
from moesim.files import data_dir
from moesim.model import Model, load_model, names
from moesim.trace import Routing, RoutingTrace, load_trace

#: Bundled files, below the folder of traces, and the models that two of them were made for without saying so.
BUNDLED = {
    "deepseek-v3-synthetic.json": "deepseek-v3",
    "gpt-oss-20b-synthetic.npz": "gpt-oss-20b",
    "tiny-moe/trace.parquet": None,
}
#: Routing as read for a model, kept for the next question.
KEEP = 6
#: Uploads that are kept.
MOST_UPLOADS = 8
_BUNDLED, _GIVEN, _UPLOADED = "bundled", "file", "upload"


@dataclass(frozen=True, slots=True)
class Shelved:
    """A trace that may be chosen.

    Parameters
    ----------
    id
        What a scenario calls it.
    path
        Where it lies.
    name
        Of the file, as its owner calls it; text, never a path.
    origin
        ``bundled``, ``file`` or ``upload``.
    model
        What it says it was recorded from, or the smallest known model of its shape.
    kind
        ``tokens`` or ``loads``.
    tokens
        How many, where single tokens are held.
    layers, num_experts, top_k
        Its shape.
    """

    id: str
    path: Path
    name: str
    origin: str
    model: str
    kind: str
    tokens: int | None
    layers: int
    num_experts: int
    top_k: int | None

    @property
    def spelling(self) -> str:
        """How a command is told of it: an upload, by the name that its sender gave it."""
        return self.name if self.origin == _UPLOADED else str(self.path)

    def to_dict(self) -> dict[str, Any]:
        """What a page is told; the path stays here."""
        own = ("id", "name", "origin", "model", "kind", "tokens", "layers", "num_experts", "top_k")
        return {name: getattr(self, name) for name in own}


class Shelf:
    """The traces there are.

    Parameters
    ----------
    files
        Named at the start, beside the bundled ones.

    Raises
    ------
    ConfigError
        With every file that cannot be read.
    """

    def __init__(self, files: Sequence[str] = ()) -> None:
        self._rows: dict[str, Shelved] = {}
        self._read: OrderedDict[tuple[str, str], Routing] = OrderedDict()
        faults = []
        for name, model in BUNDLED.items():
            path = data_dir("traces") / name
            self._put(path, path.stem if model else path.parent.name, path.name, _BUNDLED, model)
        for text in files:
            try:
                self._put(Path(text), self._free_id(Path(text).stem), Path(text).name, _GIVEN)
            except TraceError as error:
                faults += [Fault(f"{error.source}: {fault}", "--trace") for fault in error.faults]
        if faults:
            raise ConfigError(faults)

    def __iter__(self) -> Iterator[Shelved]:
        # A copy: uploads come while others look.
        return iter(list(self._rows.values()))

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __getitem__(self, name: str) -> Shelved:
        return self._rows[name]

    @property
    def uploads(self) -> list[Shelved]:
        """Those that came over the network, oldest first."""
        return [row for row in self if row.origin == _UPLOADED]

    def add_upload(self, path: Path, name: str) -> Shelved:
        """Put an uploaded file among the others, under a name made from its content; the oldest make room.

        Parameters
        ----------
        path
            Where it was stored. It is removed when the trace is forgotten, or if there is one like it.
        name
            What the sender calls it.

        Raises
        ------
        TraceError
            If it cannot be read as a trace.
        """
        with path.open("rb") as stream:
            known = f"upload-{hashlib.file_digest(stream, 'sha256').hexdigest()[:12]}"
        if known in self._rows:
            path.unlink()
            return self._rows[known]
        row = self._put(path, known, name, _UPLOADED)
        for old in self.uploads[:-MOST_UPLOADS]:
            self._forget(old)
        return row

    def _forget(self, row: Shelved) -> None:
        del self._rows[row.id]
        for key in [key for key in self._read if key[0] == row.id]:
            del self._read[key]
        row.path.unlink(missing_ok=True)

    def routing(self, name: str, model: Model) -> Routing:
        """A trace as the routing of a model.

        Raises
        ------
        TraceError
            If it is not of this model's shape.
        """
        key = (name, model.name)
        if key not in self._read:
            self._read[key] = load_trace(self[name].path, shape=model)
            if len(self._read) > KEEP:
                self._read.popitem(last=False)
        self._read.move_to_end(key)
        return self._read[key]

    def _put(self, path: Path, name: str, title: str, origin: str, model: str | None = None) -> Shelved:
        shape = None if model is None else load_model(model)
        routing = load_trace(path, shape=shape, candidates=known_models)
        tokens = routing.num_tokens if isinstance(routing, RoutingTrace) else None
        self._rows[name] = row = Shelved(
            name,
            path,
            title,
            origin,
            routing.model,
            "loads" if tokens is None else "tokens",
            tokens,
            len(routing.moe_layer_ids),
            routing.num_experts,
            routing.top_k,
        )
        return row

    def _free_id(self, stem: str) -> str:
        plain = re.sub(r"[^\w.-]+", "-", stem, flags=re.ASCII).strip("-.")[:40] or "trace"
        number, found = 1, plain
        while found in self._rows:
            number += 1
            found = f"{plain}-{number}"
        return found


def known_models() -> list[Model]:
    """Models of the catalogue, for files that do not say what they were recorded from."""
    return [load_model(name) for name in names()]

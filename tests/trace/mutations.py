"""Damage files as accidents and enemies do, and say what reading them does."""

from __future__ import annotations

import gzip
import io
import random
import re
import zipfile
from pathlib import Path

import numpy as np
from trace_helpers import KNOWN

from moesim.errors import TraceError
from moesim.trace import RoutingTrace, load_trace

NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
TEXTS = (
    b"-1", b"0", b"1e999", b"NaN", b"-Infinity", b"true", b"null", b'"x"', b"[]", b"{}", b"[[[[1]]]]", b"",
    b"65535", b"65536", b"2147483647", b"2147483648", b"-2147483649", b"18446744073709551616", b"9" * 400,
    b"9" * 5000, b"0.5", b"\xff\xfe", b"\xf0\x9f\x98\x80", b"\0", b'"', b"\n", b"\t\t", b",", b"[" * 2000,
)  # fmt: skip
HUGE = (
    0,
    1,
    2**7,
    2**8 - 1,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**64 - 1,
)
MAX_BYTES = 1 << 20


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to four things wrong."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(MUTATIONS)(data, rng)
        if not data:
            return b""
    return data[:MAX_BYTES]


def _span(data, rng, longest=64):
    at = rng.randrange(len(data))
    return at, min(len(data), at + rng.randint(1, longest))


def _truncate(data, rng):
    return data[: rng.randrange(len(data))]


def _flip(data, rng):
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 16))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _overwrite(data, rng):
    a, b = _span(data, rng)
    return data[:a] + rng.choice((b"\0", b"\xff", b" ", bytes([rng.randrange(256)]))) * (b - a) + data[b:]


def _delete(data, rng):
    a, b = _span(data, rng, max(1, len(data) // 4))
    return data[:a] + data[b:]


def _duplicate(data, rng):
    a, b = _span(data, rng, max(1, len(data) // 2))
    return data[:b] + data[a:b] * rng.choice((1, 1, 2, 50)) + data[b:]


def _splice(data, rng):
    a, b = _span(data, rng, max(1, len(data) // 2))
    at = rng.randrange(len(data))
    return data[:at] + data[a:b] + data[at + (b - a) * rng.randint(0, 1) :]


def _length(data, rng):
    """A whole number of 1 to 8 bytes, as lengths and offsets are, at any place."""
    size = rng.choice((1, 2, 4, 4, 8, 8))
    at = rng.randrange(len(data))
    value = (rng.choice(HUGE) + rng.randint(-1, 1)) % 256**size
    return data[:at] + value.to_bytes(size, "little") + data[at + size :]


def _number(data, rng):
    """Another number, or none, in place of a number of the text."""
    found = list(NUMBER.finditer(data))
    if not found:
        return _length(data, rng)
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(TEXTS) + data[match.end() :]


def _insert(data, rng):
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(TEXTS) + data[at:]


def _lines(data, rng):
    """Lines in another order, or twice."""
    lines = data.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[i] = lines[j]
    return b"\n".join(lines)


MUTATIONS = (
    _truncate, _flip, _flip, _overwrite, _delete, _duplicate, _splice, _length, _length, _number, _number,
    _insert, _lines,
)  # fmt: skip


def damaged_file(data: bytes, rng: random.Random) -> bytes:
    """A damaged file; half the time packed ones are damaged inside, where checksums do not tell."""
    if data.startswith(b"\x1f\x8b") and rng.random() < 0.7:
        return gzip.compress(mutated(gzip.decompress(data), rng), 1, mtime=0)
    if data.startswith(b"PK") and rng.random() < 0.8:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = rng.choice(list(members))
        if rng.random() < 0.1:
            del members[name]
        elif members[name]:
            members[name] = mutated(members[name], rng)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        return out.getvalue()
    return mutated(data, rng)


class Case:
    """A valid sample, and damaged ones made of it.

    Parameters
    ----------
    sample
        The file or folder.
    work
        Folder to write damaged ones into.
    """

    def __init__(self, sample: Path, work: Path):
        self.sample, self.work = sample, work
        self.folder = sample.is_dir()
        names = sorted(p for p in sample.rglob("*") if p.is_file()) if self.folder else [sample]
        self.files = {p.relative_to(sample.parent): p.read_bytes() for p in names}
        self.target = work / sample.name
        for name, data in self.files.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(data)
        self._dirty: Path | None = None

    def damage(self, seed: str) -> Path:
        """Write the damaged sample of a seed and return its path."""
        rng = random.Random(seed)
        if self._dirty is not None:
            (self.work / self._dirty).write_bytes(self.files[self._dirty])
        name = rng.choice(list(self.files))
        path = self.work / name
        if self.folder and rng.random() < 0.03:
            path.unlink()
        elif self.folder and rng.random() < 0.03:
            path.write_bytes(self.files[rng.choice(list(self.files))])
        else:
            path.write_bytes(damaged_file(self.files[name], rng))
        self._dirty = name
        return self.target


def outcome(path: Path, shape: object, seed: str) -> str:
    """Read a file; the kind of outcome, ``trace`` or ``refused``.

    Any exception but a `TraceError` passes through, and so does a trace that contradicts itself.
    """
    rng = random.Random(seed)
    hints = rng.choice(({"shape": shape}, {"shape": shape}, {}, {"candidates": KNOWN}, {"top_k": 2}))
    try:
        trace = load_trace(path, **hints)
    except TraceError as error:
        if not error.faults or not all(fault.message for fault in error.faults):
            raise AssertionError("a TraceError without a fault") from error
        str(error).encode()
        return "refused"
    totals = trace.load_counts().totals
    if isinstance(trace, RoutingTrace):
        tokens = trace.num_tokens
        fine = all(len(c) == tokens for c in (trace.request, trace.position, trace.phase)) and tokens > 0
        fine = fine and int(trace.topk_ids.max()) < trace.num_experts
        fine = fine and min(trace.request.min(), trace.position.min(), trace.phase.min()) >= 0
        fine = fine and (trace.topk_weights is None or np.isfinite(trace.topk_weights).all())
        fine = fine and (totals.sum(axis=1) == tokens * trace.top_k).all()
    else:
        fine = bool(np.isfinite(totals).all() and (totals >= 0).all())
    if not fine or len(trace.moe_layer_ids) != len(totals):
        raise AssertionError("a trace that contradicts itself")
    return "trace"

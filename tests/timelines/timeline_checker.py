"""What a timeline has to keep: the format's own rules, and ours about tracks."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path

NEEDED = {
    "M": {"name", "pid", "tid", "args"},
    "X": {"name", "cat", "pid", "tid", "ts", "dur", "args"},
    "C": {"name", "pid", "ts", "args"},
    "i": {"name", "cat", "pid", "tid", "ts", "s", "args"},
    "s": {"name", "cat", "pid", "tid", "ts", "id"},
    "f": {"name", "cat", "pid", "tid", "ts", "id", "bp"},
}


@dataclass
class Slice:
    name: str
    kind: str
    start: int
    end: int
    facts: dict


@dataclass
class Checked:
    """A timeline that keeps the rules; tracks by the names of process and track."""

    about: dict
    tracks: dict[tuple[str, str], list[Slice]]
    events: list[dict] = field(repr=False)

    def of(self, process: str, track: str) -> list[Slice]:
        return self.tracks[process, track]


def check(path: Path) -> Checked:
    """Read a file and hold it against every rule."""
    raw = path.read_bytes()
    document = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw, parse_constant=_refuse)
    events = document["traceEvents"]
    processes, tracks = {}, {}
    for event in events:
        assert NEEDED[event["ph"]] | {"ph"} == set(event), event
        assert isinstance(event.get("tid", 0), int)
        assert isinstance(event["pid"], int)
        if event["ph"] != "M":
            assert event["pid"] in processes, "a process is named before anything happens in it"
            _whole(event["ts"])
        if event["ph"] == "M":
            found = processes if event["name"].startswith("process") else tracks
            key = event["pid"] if found is processes else (event["pid"], event["tid"])
            kind = event["name"].split("_", 1)[1]
            assert kind not in found.setdefault(key, {}), "named twice"
            found[key][kind] = event["args"]["name" if kind == "name" else "sort_index"]
    for named in (processes, tracks):
        assert all(set(facts) == {"name", "sort_index"} for facts in named.values())
    assert len({facts["name"] for facts in processes.values()}) == len(processes)
    assert len({facts["sort_index"] for facts in processes.values()}) == len(processes)
    slices: dict[tuple[int, int], list[Slice]] = {}
    for event in events:
        if event["ph"] in "Xi":
            assert (event["pid"], event["tid"]) in tracks
        if event["ph"] == "X":
            start, length = _whole(event["ts"]), _whole(event["dur"])
            assert start >= 0
            assert length >= 0
            slices.setdefault((event["pid"], event["tid"]), []).append(
                Slice(event["name"], event["cat"], start, start + length, event["args"])
            )
    assert set(slices) | {(e["pid"], e["tid"]) for e in events if e["ph"] == "i"} == set(tracks)
    for mine in slices.values():
        _nest(mine)
    _flows([e for e in events if e["ph"] in "sf"], slices)
    named = {
        (processes[pid]["name"], tracks[pid, tid]["name"]): sorted(mine, key=lambda s: (s.start, -s.end))
        for (pid, tid), mine in slices.items()
    }
    assert len(named) == len(slices), "two tracks of a process share a name"
    return Checked(document["otherData"], named, events)


def _refuse(constant: str):
    raise AssertionError(f"{constant} is no JSON")


def _whole(us: float) -> int:
    ns = us * 1000
    assert abs(ns - round(ns)) < 1e-3 + 1e-9 * abs(ns), f"{us} us are no whole nanoseconds"
    return round(ns)


def _nest(slices: list[Slice]) -> None:
    """Slices of a track follow each other or lie within each other."""
    open_ends: list[int] = []
    for s in sorted(slices, key=lambda s: (s.start, -s.end)):
        while open_ends and open_ends[-1] <= s.start:
            open_ends.pop()
        assert not open_ends or s.end <= open_ends[-1], s
        open_ends.append(s.end)


def _flows(events: list[dict], slices: dict[tuple[int, int], list[Slice]]) -> None:
    """Every arrow has two ends, in that order, each in a slice."""
    ends: dict[int, list[dict]] = {}
    for event in events:
        ends.setdefault(event["id"], []).append(event)
        at = _whole(event["ts"])
        assert any(s.start <= at <= s.end for s in slices[event["pid"], event["tid"]]), event
    for source, target in ends.values():
        assert (source["ph"], target["ph"]) == ("s", "f")
        assert source["ts"] <= target["ts"]

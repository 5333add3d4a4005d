"""The formats moesim reads: one small module each, found by content.

To add a format, write a module with a `READER` and list it in `_MODULES`; a package outside moesim names its
`Reader` under the entry point group ``moesim.trace_readers`` instead, and is asked when no built-in reader
knows the file.
"""

from __future__ import annotations

from importlib import import_module

from moesim.errors import Fault, TraceError
from moesim.trace.peek import Peek
from moesim.trace.readers.base import Reader

GROUP = "moesim.trace_readers"
_MODULES = (
    "npz",
    "npy",
    "parquet",
    "sglang_json",
    "sglang_pt",
    "vllm_npz",
    "olmoe_pkl",
    "olmoe_npz",
    "sglang_records",
    "sglang_routed",
    "route_jsonl",
    "trtllm",
    "balance_jsonl",
    "eplb",
    "selection_json",
    "flame",
    "esft",
    "fingerprint_json",
    "moe_beyond_csv",
    "speculative_jsonl",
    "imatrix",
    "router_logits",
    "folder",
)


def built_in() -> list[Reader]:
    """The readers moesim ships."""
    return [import_module(f"{__name__}.{module}").READER for module in _MODULES]


def plug_ins() -> list[Reader]:
    """The readers other installed packages offer."""
    from importlib.metadata import entry_points

    readers = []
    for entry in entry_points(group=GROUP):
        reader = entry.load()
        if not isinstance(reader, Reader):
            raise TraceError(
                Fault(f"{entry.value} is no moesim.trace.readers.Reader", f"plug-in {entry.name}")
            )
        readers.append(reader)
    return readers


def find_reader(peek: Peek) -> Reader:
    """The reader that knows a file.

    Raises
    ------
    TraceError
        If none does; the message lists the formats.
    """
    known = built_in()
    for offered in (known, plug_ins):
        readers = offered() if callable(offered) else offered
        scored = [(reader.sniff(peek), -i, reader) for i, reader in enumerate(readers)]
        best = max(scored, key=lambda entry: entry[:2], default=None)
        if best is not None and best[0] > 0:
            return best[2]
    formats = "; ".join(reader.title for reader in known)
    if peek.is_folder:
        held = ", ".join(peek.names[:4]) + (", ..." if len(peek.names) > 4 else "") or "nothing"
        what = f"is a folder in no known trace format (it holds {held})"
    else:
        what = f"is in no known trace format (it begins with {peek.head[:8]!r})"
    raise TraceError(Fault(what, allowed=formats), peek.path)


__all__ = ["GROUP", "Reader", "built_in", "find_reader", "plug_ins"]

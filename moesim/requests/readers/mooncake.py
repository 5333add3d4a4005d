"""Mooncake's traces: one JSON object per line.

``timestamp`` in ms, ``input_length``, ``output_length``, and ``hash_ids``: names of the prompt's blocks of
512 tokens.
"""

from __future__ import annotations

from moesim.requests.readers.base import RequestReader
from moesim.requests.rows import Rows
from moesim.requests.source import Source, seconds, whole
from moesim.requests.types import RequestTrace

#: Tokens of one block that ``hash_ids`` name.
BLOCK_TOKENS = 512
_KEYS = ("timestamp", "input_length", "output_length")


def _sniff(source: Source) -> bool:
    return set(_KEYS) <= source.first_object().keys()


def _read(source: Source) -> RequestTrace:
    rows = Rows(source)
    silent = without = 0
    for number, item in source.objects(rows.faults):
        where = f"line {number}, "
        arrival_s = seconds(item.get("timestamp"), where + "timestamp", rows.faults, per=1e3)
        read = whole(item.get("input_length"), where + "input_length", rows.faults)
        written = whole(item.get("output_length"), where + "output_length", rows.faults)
        hashes = item.get("hash_ids")
        if hashes is None:
            without += 1
        elif not _are_hashes(hashes):
            rows.faults.add(where + "hash_ids", "is no list of whole numbers of at most 63 bits")
            continue
        elif read is not None and len(hashes) > -(-read // BLOCK_TOKENS):
            most = f"at most {-(-read // BLOCK_TOKENS)} blocks of {BLOCK_TOKENS} in {read} tokens"
            rows.faults.add(where + "hash_ids", f"has {len(hashes)} names", allowed=most)
            continue
        if read == 0 or written == 0:
            silent += 1
            continue
        rows.add(arrival_s, read, written, session=_name(item.get("session_id")), hashes=hashes)
    if silent:
        rows.notes.append(f"{silent} requests without input or output tokens were left out")
    if without and without < len(rows):
        rows.notes.append(f"{without} requests have no hash_ids")
    return rows.finish("mooncake", prefix_block_tokens=BLOCK_TOKENS)


def _are_hashes(value: object) -> bool:
    return isinstance(value, list) and all(type(h) is int and -(2**63) <= h < 2**63 for h in value)


def _name(value: object) -> str | None:
    return str(value) if isinstance(value, str | int) else None


READER = RequestReader(
    "mooncake", 'Mooncake JSONL {"timestamp", "input_length", "output_length", "hash_ids"}', _sniff, _read
)

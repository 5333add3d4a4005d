"""What SGLang's expert distribution recorder saves in mode ``per_pass`` or ``per_token``.

Every rank writes ``expert_distribution_recorder_<time>_<rank>.pt``: a dict of `records`, one per forward
pass, and `last_physical_to_logical_map` ``[layers, slots]``. The files of all ranks are a folder; one file
alone is read as one rank. A record of mode ``per_pass`` has `global_physical_count` ``[layers, slots]``, to
be summed over ranks; one of mode ``per_token`` also has `topk_ids_of_layer` ``[layers, tokens, 8]`` (-1
where unused), `input_ids`, `positions` and `extend_seq_lens`. Slots are those of the deployment, and are
mapped to experts. There is a row for every decoder layer. A pass with `extend_seq_lens` is one over
prompts; the number of `forward_mode` has meant different things in different versions, and is not looked
at.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault, TraceError
from moesim.trace.assemble import Origin, load_counts
from moesim.trace.json_text import short, shown
from moesim.trace.limits import size_fault
from moesim.trace.peek import Peek
from moesim.trace.readers.base import Reader
from moesim.trace.requests_of import Follower
from moesim.trace.schema import MAX_EXPERTS
from moesim.trace.shape import Hints
from moesim.trace.tokens import Tokens
from moesim.trace.types import DECODE, PREFILL, LoadCounts, Routing

Array = npt.NDArray[Any]
_MAP, _COUNT, _IDS = "last_physical_to_logical_map", "global_physical_count", "topk_ids_of_layer"
_PREFIX = "expert_distribution_recorder_"


def _sniff(peek: Peek) -> float:
    if peek.is_folder:
        names = [n for n in peek.names if n.endswith(".pt")]
        own = bool(names) and all(n.rsplit("/", 1)[-1].startswith(_PREFIX) for n in names)
        return 0.9 if own and b"records" in peek.child(names[0]).pickle_head else 0.0
    return 1.0 if b"records" in peek.pickle_head[:200] else 0.0


def _read(peek: Peek, hints: Hints) -> Routing:
    files = [n for n in peek.names if n.endswith(".pt")] if peek.is_folder else [""]
    if len(files) > 1 and size_fault(2 * peek.size, "the folder"):
        raise TraceError(size_fault(2 * peek.size, "the folder") or "", peek.path)
    records: dict[tuple[int, int], dict[str, Any]] = {}
    slots: Array | None = None
    for name in files:
        own, mapped = _file(peek.child(name) if name else peek)
        if slots is not None and not np.array_equal(slots, mapped):
            raise TraceError(Fault(f"differs from the map of {files[0]}", f"{name}: {_MAP}"), peek.path)
        slots = mapped
        for record in own:
            key = record["forward_pass_id"], record["rank"]
            if key in records:
                raise TraceError(
                    Fault("is there twice", f"forward pass {key[0]} of rank {key[1]}"), peek.path
                )
            records[key] = record
    if slots is None or not records:
        raise TraceError(Fault("holds no forward pass", "records"), peek.path)
    with_ids = [_IDS in record for record in records.values()]
    if all(with_ids):
        return _tokens(records, slots, peek).trace(hints)
    if any(with_ids):
        raise TraceError(Fault("mixes recordings per pass and per token", "records"), peek.path)
    return _loads(records, slots, peek, hints)


def _file(peek: Peek) -> tuple[list[dict[str, Any]], Array]:
    """The records of a file, each with an array of ids or counts, and the map."""
    from moesim.trace.torch_zip import read_torch

    saved = read_torch(peek.path)
    if not isinstance(saved, dict) or not isinstance(saved.get("records"), list):
        raise TraceError(Fault("is missing, or no list", "records"), peek.path)
    mapped = saved.get(_MAP)
    if (
        not isinstance(mapped, np.ndarray)
        or mapped.ndim != 2
        or mapped.dtype.kind not in "iu"
        or not mapped.size
    ):
        raise TraceError(Fault("is missing, or no tensor [layers, slots]", _MAP), peek.path)
    if int(mapped.min()) < -1 or int(mapped.max()) >= MAX_EXPERTS or int(mapped.max()) < 0:
        found = f"{mapped.min()} to {mapped.max()}"
        raise TraceError(Fault("does not map to experts", _MAP, found, f"0 to {MAX_EXPERTS - 1}"), peek.path)
    faults = [
        f for i, r in enumerate(saved["records"]) if (f := _record_fault(r, mapped.shape, f"records[{i}]"))
    ]
    if faults:
        raise TraceError(shown(faults, "records"), peek.path)
    return saved["records"], mapped.astype(np.int64)


def _record_fault(record: object, shape: tuple[int, ...], where: str) -> Fault | None:
    if not isinstance(record, dict):
        return Fault("is no record", where, short(record))
    for name in ("forward_pass_id", "rank"):
        if type(record.get(name)) is not int:
            return Fault("is missing, or no number", f"{where}.{name}", short(record.get(name)))
    ids, counts = record.get(_IDS), record.get(_COUNT)
    if _IDS in record:
        good = (
            isinstance(ids, np.ndarray)
            and ids.ndim == 3
            and ids.dtype.kind in "iu"
            and ids.shape[0] == shape[0]
        )
        if not good or (ids.size and (int(ids.min()) < -1 or int(ids.max()) >= shape[1])):  # type: ignore[union-attr]
            allowed = f"whole numbers [{shape[0]}, tokens, 8] of -1 to {shape[1] - 1}"
            return Fault("is no tensor of slots", f"{where}.{_IDS}", allowed=allowed)
        return _columns_fault(record, ids.shape[1], where)  # type: ignore[union-attr]
    if not isinstance(counts, np.ndarray) or counts.shape != shape or counts.dtype.kind not in "iu":
        return Fault("is missing, or no tensor of counts", f"{where}.{_COUNT}", allowed=str(list(shape)))
    return None


def _columns_fault(record: dict[str, Any], tokens: int, where: str) -> Fault | None:
    for name in ("input_ids", "positions"):
        values = record.get(name)
        if not isinstance(values, list) or len(values) != tokens or not _wholes(values):
            return Fault(f"is no list of {tokens} numbers", f"{where}.{name}", short(values))
    lengths = record.get("extend_seq_lens")
    if lengths is not None and (
        not isinstance(lengths, list) or not _wholes(lengths) or sum(lengths) != tokens
    ):
        return Fault(f"does not add up to {tokens} tokens", f"{where}.extend_seq_lens", short(lengths))
    return None


def _wholes(values: list[Any]) -> bool:
    return all(type(v) is int and 0 <= v < 2**31 - 1 for v in values)


def _loads(
    records: dict[tuple[int, int], dict[str, Any]], slots: Array, peek: Peek, hints: Hints
) -> LoadCounts:
    passes = sorted({number for number, _ in records})
    layers, width = slots.shape
    experts = int(slots.max()) + 1
    fault = size_fault(8 * len(passes) * layers * (experts + width), "the counts")
    if fault:
        raise TraceError(fault, peek.path)
    physical = np.zeros((len(passes), layers, width), np.int64)
    row = {number: i for i, number in enumerate(passes)}
    for (number, _), record in records.items():
        physical[row[number]] += record[_COUNT]
    if physical[:, slots < 0].any():
        raise TraceError(Fault("has load in slots without an expert", _COUNT), peek.path)
    counts = np.zeros((len(passes), layers, experts))
    for layer in range(layers):
        for slot, expert in enumerate(slots[layer].tolist()):
            if expert >= 0:
                counts[:, layer, expert] += physical[:, layer, slot]
    return load_counts(counts, _origin(slots, records, peek, "per_pass"), hints)


def _tokens(records: dict[tuple[int, int], dict[str, Any]], slots: Array, peek: Peek) -> Tokens:
    total = sum(record[_IDS].size for record in records.values())
    fault = size_fault(4 * total, "the tokens")
    if fault:
        raise TraceError(fault, peek.path)
    widths = {record[_IDS].shape[2] for record in records.values()}
    if len(widths) > 1:
        raise TraceError(Fault("differs between records in top-k", _IDS, sorted(widths)), peek.path)
    followers: dict[int, Follower] = defaultdict(Follower)
    first_of_pass: dict[int, dict[str, Any]] = {}
    parts, owners, positions, token_ids, phases = [], [], [], [], []
    copies = 0
    rows = np.arange(slots.shape[0])[:, None, None]
    for (number, rank), record in sorted(records.items(), key=lambda item: item[0]):
        ids = record[_IDS]
        if not ids.shape[1]:
            continue
        # Ranks of one tensor-parallel group see the same tokens.
        first = first_of_pass.setdefault(number, record)
        if first is not record and _same(first, record):
            copies += 1
            continue
        experts = np.where(ids < 0, -1, slots[rows, np.maximum(ids, 0)]).astype(np.int32)
        parts.append(experts.transpose(1, 0, 2))
        places, lengths = record["positions"], record.get("extend_seq_lens")
        follower = followers[rank]
        own = follower.decode(places) if lengths is None else follower.prefill(places, lengths)
        owners += [(rank, request) for request in own]
        positions += places
        token_ids += record["input_ids"]
        phases += [DECODE if lengths is None else PREFILL] * len(own)
    if not parts:
        raise TraceError(Fault("holds no token", "records"), peek.path)
    numbers: dict[tuple[int, int], int] = {}
    request = np.array([numbers.setdefault(owner, len(numbers)) for owner in owners], np.int64)
    notes = ["requests are not recorded: they were told apart by positions"]
    unsure = sum(follower.ambiguous for follower in followers.values())
    if unsure:
        notes.append(f"{unsure} tokens could have continued more than one request: the batch's order decided")
    if copies:
        notes.append(f"left out {copies} passes of ranks that saw the same tokens as another")
    order = np.argsort(request, kind="stable")
    return Tokens(
        ids=np.concatenate(parts)[order],
        origin=_origin(slots, records, peek, "per_token", tuple(notes)),
        request=request[order],
        position=np.array(positions, np.int64)[order],
        phase=np.array(phases, np.int8)[order],
        token_id=np.array(token_ids, np.int64)[order],
        drop_blank=True,
    )


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    lists = all(a[name] == b[name] for name in ("input_ids", "positions"))
    return lists and np.array_equal(a[_IDS], b[_IDS])


def _origin(
    slots: Array, records: dict[tuple[int, int], Any], peek: Peek, mode: str, notes: tuple[str, ...] = ()
) -> Origin:
    ranks = len({rank for _, rank in records})
    if slots.shape[1] > int(slots.max()) + 1:
        notes = (
            *notes,
            f"{slots.shape[1]} slots of the deployment were mapped to {int(slots.max()) + 1} experts",
        )
    metadata = {"mode": mode, "ranks": str(ranks)}
    return Origin(peek.path, num_experts=int(slots.max()) + 1, warnings=notes, metadata=metadata)


READER = Reader("sglang-records", "SGLang .pt of recorder mode per_pass or per_token", _sniff, _read)

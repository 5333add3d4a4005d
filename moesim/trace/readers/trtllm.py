"""TensorRT-LLM's expert statistics: a folder with ``meta_info.json`` and the files of every rank.

``rank<r>.safetensors`` has a count of every expert under ``<iteration>_<layer>``, to be summed over ranks;
``rank<r>_raw.safetensors`` has the experts of every token of the rank under the same names. Layers are
decoder layers. With raw files the folder is a routing trace, otherwise load counts, a step per iteration.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault, TraceError
from moesim.trace.assemble import Origin, load_counts
from moesim.trace.json_text import is_whole, read_json, short, shown
from moesim.trace.limits import size_fault
from moesim.trace.peek import Peek
from moesim.trace.readers.base import Reader
from moesim.trace.safetensors import Tensor, read_tensor, tensors_of
from moesim.trace.schema import MAX_EXPERTS, MAX_LAYERS, MAX_TOP_K
from moesim.trace.shape import Hints
from moesim.trace.tokens import Tokens
from moesim.trace.types import LoadCounts, Routing

Array = npt.NDArray[Any]
_META = "meta_info.json"
_COUNTS, _RAW = re.compile(r"rank(\d{1,6})\.safetensors"), re.compile(r"rank(\d{1,6})_raw\.safetensors")
_KEY = re.compile(r"(\d{1,9})_(\d{1,4})")


def _sniff(peek: Peek) -> float:
    held = any(_COUNTS.fullmatch(n) or _RAW.fullmatch(n) for n in peek.names)
    return 1.0 if held and _META in peek.names else 0.0


def _read(peek: Peek, hints: Hints) -> Routing:
    experts, top_k = _meta(peek)
    raw = [n for n in peek.names if _RAW.fullmatch(n)]
    if raw:
        return _tokens(_files(peek, raw), experts, top_k, peek).trace(hints)
    counts = [n for n in peek.names if _COUNTS.fullmatch(n)]
    return _loads(_files(peek, counts), experts, top_k, peek, hints)


def _meta(peek: Peek) -> tuple[int, int]:
    meta = read_json(peek.child(_META))
    wanted = {"num_experts": MAX_EXPERTS, "num_experts_per_token": MAX_TOP_K}
    values = {name: meta.get(name) if isinstance(meta, dict) else None for name in wanted}
    faults = [
        Fault("is missing, or no such number", name, short(values[name]), f"1 to {top}")
        for name, top in wanted.items()
        if not is_whole(values[name], 1, top)
    ]
    if faults:
        raise TraceError(faults, peek.path / _META)
    return int(meta["num_experts"]), int(meta["num_experts_per_token"])


_Files = dict[str, dict[tuple[int, int], Tensor]]


def _files(peek: Peek, names: list[str]) -> _Files:
    """The tensors of every rank's file by iteration and layer; all files must have all of them."""
    names = sorted(names, key=lambda name: (len(name), name))
    files: _Files = {}
    faults = []
    for name in names:
        files[name] = {}
        for key, tensor in tensors_of(peek.path / name).items():
            match = _KEY.fullmatch(key)
            if match is None or int(match[2]) >= MAX_LAYERS:
                faults.append(Fault("is no iteration and layer", f"{name}: {short(key)}", allowed="100_3"))
            else:
                files[name][int(match[1]), int(match[2])] = tensor
    every = set().union(*files.values())
    iterations, layers = {i for i, _ in every}, {layer for _, layer in every}
    if not every:
        faults.append(Fault("hold no statistics", ", ".join(names[:3])))
    for name, held in files.items():
        missing = len(iterations) * len(layers) - len(held)
        if missing:
            faults.append(Fault(f"lacks {missing} of its iterations and layers", name))
    if faults:
        raise TraceError(shown(faults), peek.path)
    return files


def _loads(files: _Files, experts: int, top_k: int, peek: Peek, hints: Hints) -> LoadCounts:
    keys = sorted(next(iter(files.values())))
    iterations, layers = sorted({i for i, _ in keys}), sorted({layer for _, layer in keys})
    _raise_shapes(files, lambda t: t.shape == (experts,) and t.dtype[0] in "IU", f"[{experts}]", peek)
    fault = size_fault(8 * len(keys) * experts, "the counts")
    if fault:
        raise TraceError(fault, peek.path)
    counts = np.zeros((len(iterations), len(layers), experts))
    for name, held in files.items():
        for n, key in enumerate(keys):
            counts[n // len(layers), n % len(layers)] += read_tensor(peek.path / name, held[key])
    origin = Origin(
        peek.path,
        num_experts=experts,
        layer_ids=tuple(layers),
        metadata={"ranks": str(len(files)), "iterations": f"{iterations[0]} to {iterations[-1]}"},
    )
    return load_counts(counts, origin, hints, top_k)


def _tokens(files: _Files, experts: int, top_k: int, peek: Peek) -> Tokens:
    keys = sorted(next(iter(files.values())))
    iterations, layers = sorted({i for i, _ in keys}), sorted({layer for _, layer in keys})
    allowed = f"[tokens, {top_k}]"
    _raise_shapes(
        files, lambda t: len(t.shape) == 2 and t.shape[1] == top_k and t.dtype[0] in "IU", allowed, peek
    )
    parts: list[Array] = []
    faults, copies = [], 0
    total = sum(held[i, layers[0]].shape[0] for held in files.values() for i in iterations)
    fault = size_fault(4 * total * len(layers) * top_k, "the tokens")
    if fault:
        raise TraceError(fault, peek.path)
    for iteration in iterations:
        own: list[Array] = []
        for name, held in files.items():
            lengths = {held[iteration, layer].shape[0] for layer in layers}
            if len(lengths) > 1:
                what = f"has {min(lengths)} to {max(lengths)} tokens, depending on the layer"
                faults.append(Fault(what, f"{name}: iteration {iteration}"))
                continue
            rows = [read_tensor(peek.path / name, held[iteration, layer]) for layer in layers]
            ids = np.stack([np.clip(r, -1, MAX_EXPERTS).astype(np.int32) for r in rows], axis=1)
            # Ranks of one tensor-parallel group see the same tokens.
            if own and len(ids) and np.array_equal(own[0], ids):
                copies += 1
            else:
                own.append(ids)
        parts += [ids for ids in own if len(ids)]
    if faults:
        raise TraceError(shown(faults), peek.path)
    if not parts:
        raise TraceError(Fault("holds no token"), peek.path)
    notes = ["requests are not recorded: the tokens of a rank in an iteration stand as one"]
    if copies:
        notes.append(f"left out {copies} iterations of ranks that saw the same tokens as another")
    origin = Origin(peek.path, num_experts=experts, layer_ids=tuple(layers), warnings=tuple(notes))
    request = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    return Tokens(np.concatenate(parts), origin, request=request)


def _raise_shapes(files: _Files, good: Any, allowed: str, peek: Peek) -> None:  # noqa: ANN401
    faults = [
        Fault(
            f"is {tensor.dtype} {list(tensor.shape)}",
            f"{name}: {i}_{layer}",
            allowed=f"whole numbers {allowed}",
        )
        for name, held in files.items()
        for (i, layer), tensor in held.items()
        if not good(tensor)
    ]
    if faults:
        raise TraceError(shown(faults), peek.path)


READER = Reader("trtllm", "folder of TensorRT-LLM's expert statistics", _sniff, _read)

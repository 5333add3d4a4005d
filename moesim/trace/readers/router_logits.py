"""Scores of every expert from a router: ``.npy`` or ``.pt`` of one layer, or a folder with one per layer.

Arrays are ``[samples, tokens, experts]`` or ``[tokens, experts]`` of real numbers before the softmax; the k
largest are the experts that were chosen (the lower id first where scores are equal). Models that choose by
another rule - groups, a bias - are not what is read. Where a folder's names differ in just one number, that
number is the decoder layer.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault, TraceError
from moesim.trace.arrays import read_npy
from moesim.trace.assemble import Origin
from moesim.trace.json_text import shown
from moesim.trace.limits import size_fault
from moesim.trace.peek import Peek
from moesim.trace.readers.base import token_reader
from moesim.trace.schema import MAX_EXPERTS, MAX_LAYERS
from moesim.trace.shape import Found, Hints, fit
from moesim.trace.tokens import Tokens
from moesim.trace.types import PREFILL

Array = npt.NDArray[Any]
_NUMBER = re.compile(r"(\d+)")
_IN_NAME = re.compile(r"(?:^|[_.-])(?:layer[_-]?|l)?(\d{1,3})(?=[_.-])", re.IGNORECASE)
_TENSOR = b"ctorch._utils\n_rebuild_tensor"
_BLOCK = 8192


def _sniff(peek: Peek) -> float:
    if not peek.is_folder:
        return 0.7 if _TENSOR in peek.pickle_head[:40] else 0.0
    files = _files(peek)
    if len(files) < 2 or _layers(files) is None:
        return 0.0
    first = peek.child(files[0])
    return 0.6 if first.head.startswith(b"\x93NUMPY") or _TENSOR in first.pickle_head[:40] else 0.0


def is_scores(array: Array) -> bool:
    """Whether real numbers are scores, not counts: some are negative."""
    return array.dtype.kind == "f" and array.ndim in (2, 3) and bool((array < 0).any())


def _tokens(peek: Peek, hints: Hints) -> Tokens:
    if peek.is_folder:
        files = _files(peek)
        return _of_layers(peek, files, _layers(files), hints)
    return of_scores([_array(peek)], layer_in(peek.path.name), peek, hints)


def layer_in(name: str) -> tuple[int] | None:
    """The layer that a file's name gives, if it has just one number of its own.

    >>> layer_in("mixtral-8x7b_03_c4.pt"), layer_in("layer_12.npy"), layer_in("scores.npy")
    ((3,), (12,), None)
    """
    named = _IN_NAME.findall(name)
    return (int(named[0]),) if len(named) == 1 else None


def of_scores(scores: list[Array], layers: tuple[int, ...] | None, peek: Peek, hints: Hints) -> Tokens:
    """The tokens whose scores are given, one array per layer."""
    faults = []
    for i, array in enumerate(scores):
        if array.ndim not in (2, 3) or array.dtype.kind != "f" or not array.size:
            what = f"is {array.dtype} {list(array.shape)}"
            faults.append(Fault(what, f"layer {i}", allowed="real numbers [samples, tokens, experts]"))
        elif array.shape != scores[0].shape:
            faults.append(
                Fault(f"is {list(array.shape)}, the first is {list(scores[0].shape)}", f"layer {i}")
            )
        elif not np.isfinite(array).all():
            faults.append(Fault("holds NaN or infinity", f"layer {i}"))
    if faults:
        raise TraceError(shown(faults), peek.path)
    top_k, experts = _top_k(scores[0].shape[-1], len(scores), layers, hints, peek), scores[0].shape[-1]
    flat = [array.reshape(-1, experts) for array in scores]
    ids = np.empty((len(flat[0]), len(flat), top_k), np.uint16)
    for i, array in enumerate(flat):
        for start in range(0, len(array), _BLOCK):
            part = slice(start, start + _BLOCK)
            ids[part, i] = np.argsort(-array[part], axis=1, kind="stable")[:, :top_k]
    samples, tokens = (1, len(flat[0])) if scores[0].ndim == 2 else scores[0].shape[:2]
    return Tokens(
        ids,
        Origin(peek.path, num_experts=experts, layer_ids=layers),
        request=np.repeat(np.arange(samples), tokens),
        position=np.tile(np.arange(tokens), samples),
        phase=np.full(len(ids), PREFILL, np.int8),
    )


def _top_k(experts: int, rows: int, layers: tuple[int, ...] | None, hints: Hints, peek: Peek) -> int:
    found = Found(rows=rows, max_id=experts - 1, num_experts=experts, layer_ids=layers)
    known = hints.known_top_k or fit(found, hints, peek.path).top_k
    if known is None:
        raise TraceError(
            Fault("holds router scores: how many experts are chosen must be said", "top_k"), peek.path
        )
    if known > experts or experts > MAX_EXPERTS:
        raise TraceError(Fault(f"has scores of {experts} experts", "top_k", known), peek.path)
    return known


def _of_layers(peek: Peek, files: list[str], layers: tuple[int, ...] | None, hints: Hints) -> Tokens:
    if layers is None:
        raise TraceError(Fault("does not say which file is which layer"), peek.path)
    fault = size_fault(3 * peek.size, "the folder")
    if fault:
        raise TraceError(fault, peek.path)
    order = np.argsort(layers)
    scores = [_array(peek.child(files[i])) for i in order]
    return of_scores(scores, tuple(sorted(layers)), peek, hints)


def _array(peek: Peek) -> Array:
    if peek.head.startswith(b"\x93NUMPY"):
        try:
            with peek.open() as stream:
                return read_npy(stream, peek.size, "the array")
        except TraceError as error:
            raise TraceError(error.faults, peek.path) from None
    from moesim.trace.torch_zip import read_torch

    saved = read_torch(peek.path)
    if not isinstance(saved, np.ndarray):
        raise TraceError(Fault("is no tensor of scores"), peek.path)
    return saved


def _files(peek: Peek) -> list[str]:
    return [n for n in peek.names if PurePosixPath(n).suffix in (".npy", ".pt", ".pth")]


def _layers(files: list[str]) -> tuple[int, ...] | None:
    """The only number in which the names differ, for each of them."""
    split = [_NUMBER.split(name) for name in files]
    if len({len(parts) for parts in split}) != 1:
        return None
    differs = [i for i, column in enumerate(zip(*split, strict=True)) if len(set(column)) > 1]
    if len(differs) != 1 or differs[0] % 2 == 0:
        return None
    numbers = tuple(int(parts[differs[0]]) for parts in split if len(parts[differs[0]]) < 6)
    distinct = len(set(numbers)) == len(files)
    return numbers if distinct and max(numbers) < MAX_LAYERS else None


READER = token_reader(
    "router-logits", "router scores of every expert, a file or a folder of layers", _sniff, _tokens
)

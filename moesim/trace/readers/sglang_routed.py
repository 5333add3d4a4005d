"""Experts that SGLang returns with a response: base64 in `meta_info`, JSON or JSON lines of responses.

The text decodes to int32 ``[tokens, decoder layers, top_k]``; slots without an expert are -1. Neither layers
nor top-k is written down: they come from the model, or from the one known model that fits. The last token of
an answer was never an input, so it has no routing.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault, TraceError
from moesim.trace.assemble import Origin
from moesim.trace.json_text import is_whole, json_lines, read_json, short
from moesim.trace.limits import MAX_BYTES, MAX_JSON_BYTES, size_fault
from moesim.trace.peek import Peek
from moesim.trace.readers.base import token_reader
from moesim.trace.schema import MAX_EXPERTS
from moesim.trace.shape import Hints, Shape
from moesim.trace.tokens import Tokens
from moesim.trace.types import DECODE, PREFILL

_KEY = "routed_experts"
Ids = npt.NDArray[np.int32]


def _sniff(peek: Peek) -> float:
    if not peek.looks_like_json:
        return 0.0
    return 0.9 if peek.contains(f'"{_KEY}"'.encode(), MAX_JSON_BYTES) else 0.0


def _tokens(peek: Peek, hints: Hints) -> Tokens:
    parts: list[Ids] = []
    prompts: list[int | None] = []
    lengths: list[int | None] = []
    held = 0
    for where, response in _responses(peek):
        ids, prompt, length = _response(response, where, peek)
        held += 4 * ids.nbytes
        fault = size_fault(held, "the responses", MAX_BYTES)
        if fault:
            raise TraceError(fault, peek.path)
        parts.append(ids)
        prompts.append(prompt)
        lengths.append(length)
    if not parts:
        raise TraceError(Fault("holds no response with routing", _KEY), peek.path)
    shape = _shape(parts, lengths, hints, peek)
    cubes = [ids.reshape(-1, shape.num_layers, shape.top_k) for ids in parts]
    request = np.repeat(np.arange(len(cubes)), [len(cube) for cube in cubes])
    phase = None
    if all(prompt is not None for prompt in prompts):
        pairs = zip(cubes, prompts, strict=True)
        phase = np.concatenate(
            [np.where(np.arange(len(c)) < (p or 0), PREFILL, DECODE).astype(np.int8) for c, p in pairs]
        )
    ids = np.concatenate(cubes)
    return Tokens(ids, Origin(peek.path), request=request, phase=phase, drop_blank=True)


def _responses(peek: Peek) -> Iterator[tuple[str, object]]:
    """Every response, and where it stands: a document, a list of them, or one on each line."""
    number, first = next(peek.lines(), (1, b""))
    if first.lstrip().startswith(b"{") and first.rstrip().endswith(b"}"):
        for number, response in json_lines(peek):
            yield f"line {number}", response
        return
    document = read_json(peek)
    if isinstance(document, list):
        for i, response in enumerate(document):
            yield f"[{i}]", response
    else:
        yield "", document


def _response(response: object, where: str, peek: Peek) -> tuple[Ids, int | None, int | None]:
    """Ids of one response, tokens of its prompt, and tokens that have routing, where they are known."""
    info = response.get("meta_info", response) if isinstance(response, dict) else None
    text = info.get(_KEY) if isinstance(info, dict) else None
    place = f"{where}.{_KEY}".removeprefix(".")
    if not isinstance(info, dict) or not isinstance(text, str):
        raise TraceError(Fault("is missing, or no base64 text", place, short(text)), peek.path)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise TraceError(Fault("is no base64 text, or is truncated", place), peek.path) from None
    if not data or len(data) % 4:
        raise TraceError(
            Fault(f"has {len(data)} bytes", place, allowed="whole numbers of 4 bytes"), peek.path
        )
    ids = np.frombuffer(data, "<i4")
    if int(ids.min()) < -1 or int(ids.max()) >= MAX_EXPERTS:
        found = f"{ids.min()} to {ids.max()}"
        raise TraceError(Fault("holds no expert ids", place, found, f"-1 to {MAX_EXPERTS - 1}"), peek.path)
    prompt, answer = info.get("prompt_tokens"), info.get("completion_tokens")
    known = is_whole(prompt, 1)
    length = prompt + answer - 1 if known and is_whole(answer, 1) else None  # type: ignore[operator]
    return ids, prompt if known else None, length


def _shape(parts: list[Ids], lengths: list[int | None], hints: Hints, peek: Peek) -> Shape:
    """The model whose layers and top-k divide every response into tokens."""
    if hints.shape is not None:
        faults = [
            Fault(
                f"has {len(ids)} numbers, which is no multiple of {hints.shape.name}'s "
                f"{hints.shape.num_layers} layers x top-{hints.shape.top_k}",
                f"response {i}",
            )
            for i, ids in enumerate(parts)
            if len(ids) % (hints.shape.num_layers * hints.shape.top_k)
        ]
        if faults:
            raise TraceError(faults[:5], peek.path)
        return hints.shape
    fitting = [s for s in hints.known_shapes() if _fits(s, parts, lengths, hints)]
    alike = {(s.num_layers, s.top_k) for s in fitting}
    if len(alike) == 1:
        return fitting[0]
    what = f"could be of {', '.join(s.name for s in fitting[:6])}" if fitting else "fits no known model"
    raise TraceError(Fault(f"does not say its layers and top-k, and {what}", "model"), peek.path)


def _fits(shape: Shape, parts: list[Ids], lengths: list[int | None], hints: Hints) -> bool:
    cell = shape.num_layers * shape.top_k
    if hints.top_k not in (None, shape.top_k) or hints.num_experts not in (None, shape.num_experts):
        return False
    for ids, length in zip(parts, lengths, strict=True):
        if len(ids) % cell or int(ids.max()) >= shape.num_experts:
            return False
        if length is not None and len(ids) // cell not in (length, length + 1):
            return False
        # A token's experts are distinct; holes are not experts, and a dense layer holds nothing else.
        rows = np.sort(ids[: cell * 64].reshape(-1, shape.top_k), axis=1)
        if ((rows[:, 1:] == rows[:, :-1]) & (rows[:, 1:] > 0)).any():
            return False
    return True


READER = token_reader("sglang-routed", "SGLang responses with base64 routed_experts", _sniff, _tokens)

"""vLLM's `routed_experts` in an ``.npz``, with the token ids of prompt and output of one request if at hand.

`routed_experts` is ``[tokens, layers, top_k]`` with a row for every decoder layer; dense layers are zero. The
last generated token was never run through the model, so it has no routing. Files that moesim wrote hold all
requests of a trace, and the columns that tell them apart.
"""

from __future__ import annotations

import numpy as np

from moesim.errors import Fault, TraceError
from moesim.trace.arrays import Array, layer_list, read_npz
from moesim.trace.assemble import Origin
from moesim.trace.peek import Peek
from moesim.trace.readers.base import token_reader
from moesim.trace.schema import MAX_EXPERTS
from moesim.trace.shape import Hints
from moesim.trace.tokens import Tokens
from moesim.trace.types import DECODE, PREFILL

_IDS, _PROMPT, _OUTPUT = "routed_experts", "prompt_token_ids", "output_token_ids"
_COLUMNS = ("request", "position", "phase", "token_id")


def _sniff(peek: Peek) -> float:
    return 1.0 if f"{_IDS}.npy" in peek.zip_names else 0.0


def _find(peek: Peek, hints: Hints) -> Tokens:  # noqa: ARG001 - every reader is called alike
    arrays = read_npz(peek.path, (_IDS, _PROMPT, _OUTPUT, *_COLUMNS, "num_experts", "moe_layer_ids"))
    ids = arrays[_IDS]
    tokens = len(ids) if ids.ndim else 0
    columns: dict[str, Array | None] = {name: arrays.get(name) for name in _COLUMNS}
    experts = arrays.get("num_experts")
    known = experts is not None and experts.ndim == 0 and experts.dtype.kind in "iu"
    count = int(experts) if known and experts is not None else None
    note: tuple[str, ...] = ()
    if columns["request"] is None:
        columns["request"] = np.zeros(tokens, np.int32)
        columns["token_id"], columns["phase"], note = _tokens(arrays, tokens, peek)
    if count is not None and not 1 <= count <= MAX_EXPERTS:
        raise TraceError(Fault("is no number of experts", "num_experts", count), peek.path)
    given = arrays.get("moe_layer_ids")
    layers = layer_list(given, given.size, peek.path) if given is not None else None
    if layers is not None:
        if ids.ndim != 3 or layers[-1] >= ids.shape[1]:
            raise TraceError(Fault(f"is {list(ids.shape)}, without layer {layers[-1]}", _IDS), peek.path)
        ids = ids[:, list(layers)]
    origin = Origin(peek.path, num_experts=count, layer_ids=layers, warnings=note)
    return Tokens(ids, origin, **columns, drop_blank=True)


def _tokens(
    arrays: dict[str, Array], tokens: int, peek: Peek
) -> tuple[Array | None, Array | None, tuple[str, ...]]:
    """Token ids, phases, and what is to be noted, from the ids of prompt and output."""
    given = {name: arrays[name] for name in (_PROMPT, _OUTPUT) if name in arrays}
    wrong = [
        Fault(f"is {a.dtype} {list(a.shape)}", name, allowed="whole numbers in a row")
        for name, a in given.items()
        if a.ndim != 1 or a.dtype.kind not in "iu"
    ]
    if wrong:
        raise TraceError(wrong, peek.path)
    if _PROMPT not in given:
        return None, None, ()
    prompt = len(given[_PROMPT])
    phase = np.where(np.arange(tokens) < prompt, PREFILL, DECODE).astype(np.int8)
    if _OUTPUT not in given:
        return None, phase, ()
    every = np.concatenate([given[_PROMPT], given[_OUTPUT]])
    if tokens not in (len(every), len(every) - 1):
        what = f"has {tokens} tokens, prompt and output together have {len(every)}"
        raise TraceError(Fault(what, _IDS), peek.path)
    note = ("the last generated token has no routing: it was never an input",) if tokens < len(every) else ()
    return every[:tokens], phase, note


READER = token_reader("vllm-npz", ".npz with vLLM's routed_experts", _sniff, _find)

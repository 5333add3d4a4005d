"""vLLM's `routed_experts` of one request in an ``.npz``, with the token ids of prompt and output if at hand.

`routed_experts` is ``[tokens, layers, top_k]`` with a row for every decoder layer; dense layers are zero. The
last generated token was never run through the model, so it has no routing.
"""

from __future__ import annotations

import numpy as np

from moesim.errors import Fault, TraceError
from moesim.trace.arrays import Array, read_npz
from moesim.trace.assemble import Origin, routing_trace
from moesim.trace.peek import Peek
from moesim.trace.readers.base import Reader
from moesim.trace.shape import Hints
from moesim.trace.types import DECODE, PREFILL, RoutingTrace

_IDS, _PROMPT, _OUTPUT = "routed_experts", "prompt_token_ids", "output_token_ids"


def _sniff(peek: Peek) -> float:
    return 1.0 if f"{_IDS}.npy" in peek.zip_names else 0.0


def _read(peek: Peek, hints: Hints) -> RoutingTrace:
    arrays = read_npz(peek.path, (_IDS, _PROMPT, _OUTPUT))
    ids = arrays[_IDS]
    tokens = len(ids) if ids.ndim else 0
    token_id, phase, note = _tokens(arrays, tokens, peek)
    return routing_trace(
        ids,
        Origin(peek.path, warnings=note),
        hints,
        request=np.zeros(tokens, np.int32),
        token_id=token_id,
        phase=phase,
        drop_blank=True,
    )


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


READER = Reader("vllm-npz", ".npz with vLLM's routed_experts", _sniff, _read)

"""Tables of step times: made, read and changed as named arrays, packed for the loops that use them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moesim.serving.kernel.price import FIELDS, IN_TURN, Prices

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]


class Tables(NamedTuple):
    """Parts of a step of one model, all layers together.

    Parameters
    ----------
    tokens, dense_s
        Tokens of a lane ``[n]``, and what depends on them alone: that of the attention blocks, that beside
        routed experts, and what is outside of layers, ``[3, n]``.
    everyone, experts_s
        Tokens of all lanes ``[m]``, and dispatch, routed experts and combine, ``[periods, 2, 3, m]``, where
        steps decode alone and where they read prompts.
    sequences, context, decode_s
        Decoding sequences ``[s]``, their mean context ``[c]``, attention ``[s, c]``.
    prompts, read, seen, prefill_s
        Prompts ``[i]``, their tokens read ``[p]``, tokens that each of these sees on average ``[q]``, and
        attention ``[i, p, q]``.
    given, heads_s
        Tokens that the head looks at ``[h]``, and the head ``[h]``.
    least_s
        What a step takes at least, because the host starts kernel after kernel: of steps that decode, that
        read, and that do both, ``[3]``.
    beside_s
        As `decode_s`, in steps that read prompts as well, ``[s, c]``.
    layers, experts_layers
        Layers in all, and those with routed experts.
    """

    tokens: F8
    dense_s: F8
    everyone: F8
    experts_s: F8
    sequences: F8
    context: F8
    decode_s: F8
    prompts: F8
    read: F8
    seen: F8
    prefill_s: F8
    given: F8
    heads_s: F8
    least_s: F8
    beside_s: F8
    layers: int
    experts_layers: int


def flat(seconds: float) -> Tables:
    """A step of one length, whatever is in it."""
    one, none = np.ones(1), np.zeros(1)
    return Tables(
        tokens=one,
        dense_s=np.array([[seconds], [0.0], [0.0]]),
        everyone=one,
        experts_s=np.zeros((1, 2, 3, 1)),
        sequences=one,
        context=one,
        decode_s=np.zeros((1, 1)),
        prompts=one,
        read=one,
        seen=one,
        prefill_s=np.zeros((1, 1, 1)),
        given=one,
        heads_s=none,
        least_s=np.zeros(3),
        beside_s=np.zeros((1, 1)),
        layers=1,
        experts_layers=0,
    )


def packed(
    step: Tables,
    draft: Tables | None = None,
    *,
    drafts: int = 0,
    pattern: int = IN_TURN,
    micro: int = 1,
    host_s: float = 0.0,
    hidden: bool = False,
    padded: I8 | None = None,
    period_tokens: F8 | None = None,
    period_stall_s: F8 | None = None,
    gathered: bool = False,
) -> Prices:
    """Tables as the loops take them.

    Parameters
    ----------
    step, draft
        Parts of a step, and of drafting one token of every decoding sequence.
    drafts, pattern, micro, host_s, hidden, padded, period_tokens, period_stall_s, gathered
        As in `Prices`.
    """
    index = np.zeros((2, FIELDS, 2), np.int64)
    data: list[F8] = []
    start = 0
    for i, tables in enumerate((step, draft or flat(0.0))):
        for j, value in enumerate(tables[:-2]):
            array = np.asarray(value, np.float64)
            data.append(array.ravel())
            index[i, j] = start, len(array)
            start += array.size
        index[i, -2:, 0] = tables.layers, tables.experts_layers
    return Prices(
        np.concatenate(data),
        index,
        int(drafts),
        int(pattern),
        int(micro),
        float(host_s),
        bool(hidden),
        np.zeros(0, np.int64) if padded is None else padded,
        np.zeros(1) if period_tokens is None else period_tokens,
        np.zeros(1) if period_stall_s is None else period_stall_s,
        bool(gathered),
    )


def unpacked(prices: Prices, of_draft: bool = False) -> Tables:
    """The tables of a step, or of drafting, as named arrays that share memory with `prices`."""
    index = prices.where[int(of_draft)]
    at = dict(zip(Tables._fields, index.tolist(), strict=True))

    def grid(name: str) -> F8:
        start, size = at[name]
        return prices.data[start : start + size]

    def table(name: str, *shape: int) -> F8:
        start = at[name][0]
        return prices.data[start : start + int(np.prod(shape))].reshape(shape)

    size = {name: value[1] for name, value in at.items()}
    return Tables(
        grid("tokens"),
        table("dense_s", 3, size["tokens"]),
        grid("everyone"),
        table("experts_s", size["experts_s"], 2, 3, size["everyone"]),
        grid("sequences"),
        grid("context"),
        table("decode_s", size["sequences"], size["context"]),
        grid("prompts"),
        grid("read"),
        grid("seen"),
        table("prefill_s", size["prompts"], size["read"], size["seen"]),
        grid("given"),
        grid("heads_s"),
        grid("least_s"),
        table("beside_s", size["sequences"], size["context"]),
        at["layers"][0],
        at["experts_layers"][0],
    )

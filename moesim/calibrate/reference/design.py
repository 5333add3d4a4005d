"""What is run to learn a machine: layers that are not those that are predicted.

Three families, all of whole layers, because a product inside a layer is slower than one repeated alone (its
weights are cold, its tokens were just gathered):

* *ladders* send 1, 2, 3, 4, 6, ... tokens to the experts of one layer, so that a few sizes show the whole
  course from reading weights to arithmetic; short ones have every number of few tokens, on more sizes;
* *spreads* send the same number of tokens to each of many experts, and cover batches, numbers of experts and
  of experts per token, for what is done beside the experts;
* *loads* leave half of the experts in slow memory: what a load adds to a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.reference.layer import Case, IntArray, LayerShape

#: Tokens of the experts of a ladder, up to what its layer allows.
LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)
#: Operations of a ladder's experts at most: some 40 ms.
MOST_FLOPS = 3e9
#: Hidden size and width of ladders.
LADDERS = (
    (256, 160),
    (256, 832),
    (320, 384),
    (384, 96),
    (384, 1536),
    (512, 192),
    (576, 704),
    (640, 288),
    (768, 128),
    (768, 1088),
    (960, 480),
    (1024, 224),
    (1024, 1664),
    (1280, 832),
    (1408, 320),
    (1536, 576),
)
#: Tokens of the experts of a short ladder: where libraries change from one way of multiplying to another.
SHORT = (1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 10, 12)
#: Hidden size and width of short ladders.
SHORTS = (
    (192, 416),
    (192, 704),
    (224, 192),
    (224, 320),
    (224, 928),
    (256, 96),
    (256, 288),
    (256, 640),
    (288, 128),
    (288, 1056),
    (320, 224),
    (320, 512),
    (352, 96),
    (352, 384),
    (384, 160),
    (384, 224),
    (384, 1152),
    (416, 160),
    (448, 352),
    (448, 576),
    (480, 768),
    (512, 128),
    (544, 192),
    (576, 160),
    (576, 1024),
    (640, 96),
    (640, 800),
    (672, 448),
    (704, 704),
    (736, 224),
    (768, 128),
    (800, 320),
    (864, 544),
    (928, 128),
    (960, 960),
    (992, 256),
    (1056, 576),
    (1088, 448),
    (1120, 96),
    (1184, 384),
    (1248, 128),
    (1280, 832),
    (1376, 160),
    (1440, 288),
)
#: Experts, experts per token, tokens, hidden size, width of spreads.
SPREADS = (
    (4, 1, 1, 192, 96),
    (8, 2, 1, 640, 1408),
    (16, 4, 2, 320, 544),
    (128, 8, 1, 1152, 416),
    (64, 8, 3, 448, 256),
    (32, 4, 6, 896, 640),
    (16, 2, 10, 1344, 448),
    (256, 8, 16, 512, 160),
    (64, 6, 24, 704, 352),
    (8, 2, 48, 448, 960),
    (128, 8, 64, 384, 224),
    (32, 4, 96, 640, 320),
    (64, 6, 160, 832, 160),
    (128, 4, 256, 576, 128),
    (32, 8, 384, 320, 192),
    (16, 4, 640, 704, 256),
    (128, 8, 1024, 256, 96),
    (64, 6, 1536, 320, 96),
    (8, 2, 2048, 448, 288),
    (16, 1, 3072, 384, 160),
)
#: Hidden size, width, and tokens of each expert of loads.
LOADS = (
    (256, 128, 2),
    (384, 256, 12),
    (512, 448, 4),
    (704, 512, 24),
    (960, 704, 8),
    (1280, 960, 3),
    (1216, 1344, 16),
)
#: Experts of loads, and how many a token goes to.
LOAD_EXPERTS, LOAD_TOP_K = 8, 2
#: Layers that are run again later: from few tokens to many, and quick.
ANCHORS = (
    "ladder-256x832",
    "ladder-640x288",
    "ladder-960x480",
    "short-448x352",
    "short-864x544",
    "spread-64x448x256",
    "spread-128x384x224",
    "spread-32x640x320",
)


@dataclass(frozen=True, slots=True)
class Trial:
    """A layer to run.

    Parameters
    ----------
    case
        The layer.
    counts
        Tokens of each expert, ``[experts]``.
    """

    case: Case
    counts: tuple[int, ...]

    @property
    def ids(self) -> IntArray:
        """Experts of each token, ``[tokens, top_k]``, all of a token different."""
        return ids_of(self.counts, self.case.shape.top_k)


def trials(dtype: str) -> tuple[Trial, ...]:
    """All layers of one data type, ladders first, then spreads, then loads."""
    return tuple(
        [_ladder("ladder", LADDER, hidden, width, dtype) for hidden, width in LADDERS]
        + [_ladder("short", SHORT, hidden, width, dtype) for hidden, width in SHORTS]
        + [_spread(*sizes, dtype) for sizes in SPREADS]
        + loads(dtype)
    )


def loads(dtype: str) -> list[Trial]:
    """Layers with half of their experts in slow memory."""
    return [_load(*sizes, dtype) for sizes in LOADS]


def is_anchor(trial: Trial) -> bool:
    """Whether a layer is one of those that are run again later, to see how much the machine has changed."""
    return trial.case.shape.name in ANCHORS


def _ladder(name: str, rungs: tuple[int, ...], hidden: int, width: int, dtype: str) -> Trial:
    flops = np.cumsum(rungs) * 6.0 * hidden * width
    counts = [n for n, sofar in zip(rungs, flops, strict=True) if sofar <= MOST_FLOPS]
    # No expert may have more tokens than there are, and every token goes to as many.
    top_k = max(sum(counts) // max(counts), 1)
    counts[-1] -= sum(counts) % top_k
    # In any order: the first expert of a layer finds cold buffers, and should not always be the smallest.
    np.random.default_rng([hidden, width]).shuffle(counts)
    shape = LayerShape(f"{name}-{hidden}x{width}", len(counts), top_k, hidden, width)
    return Trial(Case(shape, sum(counts) // top_k, dtype=dtype), tuple(counts))


def _spread(experts: int, top_k: int, tokens: int, hidden: int, width: int, dtype: str) -> Trial:
    shape = LayerShape(f"spread-{experts}x{hidden}x{width}", experts, top_k, hidden, width)
    each, more = divmod(tokens * top_k, experts)
    return Trial(Case(shape, tokens, dtype=dtype), tuple(each + (e < more) for e in range(experts)))


def _load(hidden: int, width: int, each: int, dtype: str) -> Trial:
    shape = LayerShape(f"load-{hidden}x{width}", LOAD_EXPERTS, LOAD_TOP_K, hidden, width)
    case = Case(shape, each * LOAD_EXPERTS // LOAD_TOP_K, offloaded=0.5, dtype=dtype)
    return Trial(case, (each,) * LOAD_EXPERTS)


def ids_of(counts: tuple[int, ...], top_k: int) -> IntArray:
    """Routing that sends `counts` tokens to the experts: dealt out so that a token meets no expert twice.

    Parameters
    ----------
    counts
        Tokens of each expert, ``[experts]``; none more than there are tokens, ``sum(counts) / top_k``.
    top_k
        Experts of each token.

    Returns
    -------
    ndarray
        int32 ``[tokens, top_k]``.

    Examples
    --------
    >>> ids_of((2, 1, 1), 2).tolist()
    [[0, 1], [0, 2]]
    """
    pairs = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return np.ascontiguousarray(pairs.reshape(top_k, -1).T)

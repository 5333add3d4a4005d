"""Tables of step times from a deployment, and how far they are from it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.engine.deployment import Deployment
from moesim.serving.check import errors_of
from moesim.serving.grids import F8, octaves, refined
from moesim.serving.kernel.price import IN_TURN, TWO_BATCH, Prices
from moesim.serving.parts import DECODE, PREFILL, Parts, exchanged_s
from moesim.serving.settings import Scheduler
from moesim.serving.tables import Tables, flat, packed

#: Share of a step that a part may be off between points of its table.
TOLERANCE = 0.005
#: Batches that a table is checked on.
CHECKED = 200
#: Batch sizes that routing is drawn for, to a doubling, as in `moesim.engine.experts`.
PER_OCTAVE = 4

_KEPT: OrderedDict[tuple[object, ...], tuple[Prices, Deployment]] = OrderedDict()
_KEEP = 256


@dataclass(frozen=True, slots=True, eq=False)
class StepTable:
    """A table, and how far it is from the deployment it was made of.

    Parameters
    ----------
    prices
        The table.
    error_median, error_worst
        Of random batches between its points, relative; NaN if none were tried.
    checked
        How many.
    """

    prices: Prices
    error_median: float
    error_worst: float
    checked: int


def constant_prices(step_s: float) -> Prices:
    """Every step takes the same time: for the theory of queues."""
    return packed(flat(step_s))


def prices_of(
    deployment: Deployment,
    budget: int,
    most: int,
    longest: int,
    scheduler: Scheduler,
    spread: F8 | None = None,
) -> Prices:
    """Tables for steps of at most `budget` tokens and `most` sequences of `longest` tokens per lane."""
    return step_table(deployment, budget, most, longest, scheduler, checked=0, spread=spread).prices


def step_table(
    deployment: Deployment,
    budget: int,
    most: int,
    longest: int,
    scheduler: Scheduler,
    *,
    checked: int = CHECKED,
    seed: int = 0,
    spread: F8 | None = None,
) -> StepTable:
    """Tables of a deployment's step times, checked against it.

    Parameters
    ----------
    deployment
        What is served on what, with its overlap, drafts, launches and the engine's traits.
    budget, most, longest
        Tokens and sequences of a lane in one step, and tokens of a sequence, at most.
    scheduler
        Says which graphs were captured and whether the host plans ahead.
    checked
        Random batches to compare on; 0 for none.
    seed
        Of these.
    spread
        How unequal contexts are, as in `Parts`; equal by default, as the deployment has them.

    Notes
    -----
    A lane with a budget is asked for steps of at most that; where a prompt is read whole whatever its length,
    the budget has to be as long as the longest.
    """
    if not scheduler.chunked:
        budget = max(budget, longest)
    bounds = tuple(float(octaves(1.0, float(n))[-1]) for n in (budget, most, longest))
    spread = np.zeros(0) if spread is None else spread
    key = (id(deployment), bounds, spread.tobytes())
    if key in _KEPT:
        _KEPT.move_to_end(key)
    else:
        # The deployment is held as well: its id stays its own as long as it lives.
        _KEPT[key] = _made(deployment, bounds, spread), deployment
        if len(_KEPT) > _KEEP:
            _KEPT.popitem(last=False)
    prices = _KEPT[key][0]
    median, worst = np.nan, np.nan
    if checked:
        errors = errors_of(prices, deployment, budget, most, longest, checked, seed)
        median, worst = float(np.median(errors)), float(errors.max())
    padded = padded_of(scheduler.graph_sizes if not deployment.launch_s else ())
    return StepTable(prices._replace(padded=padded, hidden=scheduler.asynchronous), median, worst, checked)


def vllm_graph_sizes(most: int) -> tuple[int, ...]:
    """Tokens of decode steps that vLLM captures graphs for unless told otherwise.

    1, 2, 4, then every 8 up to 256 and every 16 up to twice the sequences that may run, at most 512
    (``_set_cudagraph_sizes`` of vllm/config/vllm.py). Ranks of data-parallel attention all run the graph of
    the fullest one, idle ones too (``coordinate_batch_across_dp`` of vllm/v1/worker/dp_utils.py).

    Parameters
    ----------
    most
        Sequences of a lane that may run (``--max-num-seqs``).

    Examples
    --------
    >>> vllm_graph_sizes(8)
    (1, 2, 4, 8, 16)
    >>> len(vllm_graph_sizes(1024)), vllm_graph_sizes(1024)[-1]
    (51, 512)
    """
    largest = min(2 * most, 512)
    sizes = (1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16))
    return tuple(size for size in sizes if size <= largest)


def padded_of(sizes: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Tokens that steps of 0, 1, ... tokens run where graphs of these sizes were captured.

    >>> padded_of((1, 2, 4)).tolist()
    [1, 1, 2, 4, 4]
    """
    if not sizes:
        return np.zeros(0, np.int64)
    known = np.unique(np.asarray(sizes, np.int64))
    return np.asarray(known[np.searchsorted(known, np.arange(known[-1] + 1))])


def _made(deployment: Deployment, bounds: tuple[float, ...], spread: F8) -> Prices:
    budget, most, longest = bounds
    queries = 1.0 + deployment.speculation.tokens
    lanes, overlapped = deployment.layout.dp, deployment.overlap != "none"
    low = 0.5 if overlapped else 1.0
    step = tables_of(Parts(deployment, queries, spread), low, budget, most, longest, lanes)
    draft = None
    if deployment.draft is not None:
        draft = tables_of(Parts(deployment.draft), low, most, most, longest, lanes, reads=False)
    pattern = TWO_BATCH if overlapped else IN_TURN
    drafts, host_s = deployment.speculation.tokens, deployment.traits.host_s
    gathered = lanes > 1 and any(each.gathers for _, each in deployment.expert_steps())
    return packed(step, draft, drafts=drafts, pattern=pattern, host_s=host_s, gathered=gathered)


def tables_of(
    parts: Parts,
    low: float,
    budget: float,
    most: float,
    longest: float,
    lanes: float,
    *,
    reads: bool = True,
    experts: Callable[[float], tuple[F8, F8]] | None = None,
) -> Tables:
    """Tables of parts of a step.

    Parameters
    ----------
    parts
        What is tabled.
    low
        Share of a sequence or a prompt that is asked for at least: a half with two half batches.
    budget, most, longest
        Tokens and sequences of a lane, and tokens of a sequence, at most.
    lanes
        That send their tokens to the experts.
    reads
        Whether steps read prompts at all.
    experts
        Takes the seconds of the smallest step and makes what `experts_of` does, where experts are not the
        deployment's own.
    """
    one = np.ones(1)
    # Errors of parts are shares of a step.
    scale = parts.smallest()

    def table(
        function: Callable[..., F8],
        *axes: F8,
        whole: tuple[bool, ...],
        counts: Callable[..., Any] | None = None,
    ) -> tuple[tuple[F8, ...], F8]:
        return refined(function, axes, scale, TOLERANCE, whole, counts)

    (tokens,), _ = table(lambda x: parts.dense(x).sum(axis=0), octaves(low, budget), whole=(True,))
    top = min(most * parts.queries, budget)
    (given,), heads_s = table(parts.heads, octaves(low, max(top, most)), whole=(True,))
    (sequences, context), _ = table(
        # Alone and beside prompts, on points that suit both.
        lambda s, c: (parts.decoding(s, c) + parts.beside(s, c)) / 2.0,
        octaves(low, most),
        octaves(1.0, longest),
        whole=(True, False),
    )
    points = [m.ravel() for m in np.meshgrid(sequences, context, indexing="ij")]
    decode_s, beside_s = (
        f(*points).reshape(len(sequences), len(context)) for f in (parts.decoding, parts.beside)
    )
    (prompts, read, seen), prefill_s = (one, one, one), np.zeros((1, 1, 1))
    if reads:
        (prompts, read, seen), prefill_s = table(
            parts.reading,
            # A few long prompts and many short ones count as many of middling length.
            octaves(low, budget),
            octaves(low, budget),
            octaves(0.5, longest),
            whole=(True, True, False),
            # No more prompts than tokens, and nothing before the first token.
            counts=lambda n, t, m: (n <= t) & (m >= t / n / 2.0),
        )
    everyone, experts_s = one, np.zeros((2, 3, 1))
    if experts is not None:
        everyone, experts_s = experts(scale)
    elif parts.deployment.model.moe is not None:
        everyone, experts_s = experts_of(
            parts.deployment, top * lanes, budget * lanes if reads else 0.0, scale
        )
    return Tables(
        tokens,
        parts.dense(tokens),
        everyone,
        experts_s[None],
        sequences,
        context,
        decode_s,
        prompts,
        read,
        seen,
        prefill_s,
        given,
        heads_s,
        parts.least(),
        beside_s,
        int(parts.deployment.model.num_layers),
        len(parts.deployment.model.moe_layer_ids),
    )


def experts_of(deployment: Deployment, decoded: float, read: float, scale: float) -> tuple[F8, F8]:
    """Tables of a deployment's routed experts and their exchange; see `expert_sizes`."""
    return expert_sizes(lambda tokens, phase: exchanged_s(deployment, tokens, phase), decoded, read, scale)


def expert_sizes(
    function: Callable[[F8, int], F8], decoded: float, read: float, scale: float
) -> tuple[F8, F8]:
    """Tables of experts and their exchange.

    Parameters
    ----------
    function
        Takes tokens of all lanes and a phase, and returns seconds ``[3, tokens]``.
    decoded, read
        Tokens of all lanes, at most, of a step that only decodes and of one that reads; 0 without such steps.
    scale
        Seconds that every step takes.

    Returns
    -------
    tuple
        Tokens ``[m]``, and dispatch, experts and combine of either kind of step ``[2, 3, m]``.
    """
    small, fast = _exchanged(lambda tokens: function(tokens, DECODE), decoded, scale)
    large, slow = _exchanged(lambda tokens: function(tokens, PREFILL), read, scale) if read else (small, fast)
    everyone = np.union1d(small, large)
    return everyone, np.stack([on_lines(everyone, small, fast), on_lines(everyone, large, slow)])


def _exchanged(function: Callable[[F8], F8], most: float, scale: float) -> tuple[F8, F8]:
    """Batch sizes, and what experts and their exchange take, ``[3, sizes]``.

    Routing is drawn for some of the sizes that an expert step interpolates between, as many as it takes.
    """
    steps = np.arange(PER_OCTAVE * (np.ceil(np.log2(max(most, 2.0))) + 1))
    sizes = np.unique(np.round(2.0 ** (steps / PER_OCTAVE)))
    sizes = sizes[: np.searchsorted(sizes, most) + 1]
    n = len(sizes)
    stride = 2 * PER_OCTAVE
    chosen = sorted({*range(0, n, stride), n - 1})
    known = dict(zip(chosen, function(sizes[chosen]).T, strict=True))
    cells = list(pairwise(chosen))
    while cells := [(a, b) for a, b in cells if b - a > 1]:
        middles = [(a + b) // 2 for a, b in cells]
        known.update(zip(middles, function(sizes[middles]).T, strict=True))
        halves = []
        for (a, b), c in zip(cells, middles, strict=True):
            w = (sizes[c] - sizes[a]) / (sizes[b] - sizes[a])
            straight = known[a] + w * (known[b] - known[a])
            if abs(straight - known[c]).sum() > TOLERANCE * (known[c].sum() + scale):
                halves += [(a, c), (c, b)]
        cells = halves
    found = sorted(known)
    return sizes[found], np.stack([known[i] for i in found], axis=1)


def on_lines(x: F8, knots: F8, values: F8) -> F8:
    """Straight lines through points, ``[rows, knots]``, the last going on."""
    i = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, max(len(knots) - 2, 0))
    if len(knots) == 1:
        return np.repeat(values, len(x), axis=1)
    w = (x - knots[i]) / (knots[i + 1] - knots[i])
    return np.asarray(values[:, i] + w * (values[:, i + 1] - values[:, i]))

"""How far tables of step times are from the deployment they were made of, on random batches."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.engine.deployment import Deployment
from moesim.ops import Batch
from moesim.serving.grids import F8
from moesim.serving.kernel.price import Prices, seconds_of
from moesim.serving.state import CONTEXT, LOADS, PAIRS, PREFILL, PROMPTS, QUERIES, SEQUENCES, STORED


def errors_of(
    prices: Prices, deployment: Deployment, budget: int, most: int, longest: int, checked: int, seed: int
) -> F8:
    """Relative errors on random batches, half of which only decode, ``[checked]``.

    Lanes are unevenly loaded, from one alone to all alike, and batches are of all sizes within the limits,
    mixed and of prompts alone.
    """
    rng = np.random.default_rng(seed)
    errors = []
    for reads in (False, True):
        many = checked // 2 if reads else checked - checked // 2
        loads, batch = random_batches(rng, deployment, budget, most, longest, many, reads)
        ours, engine = seconds_of_all(prices, loads), engine_seconds(deployment, batch)
        errors.append(np.abs(ours - engine) / engine)
    return np.concatenate(errors)


@compiled
def seconds_of_all(prices: Prices, loads: F8) -> F8:
    """Seconds of steps ``[steps, lanes, LOADS]``."""
    seconds = np.empty(len(loads))
    for i in range(len(loads)):
        seconds[i] = seconds_of(prices, loads[i], 0)
    return seconds


def engine_seconds(deployment: Deployment, batch: Batch) -> F8:
    """Seconds of the same steps by the engine's model, drafts and all."""
    seconds = np.empty(batch.size)
    # Steps that are asked for together count as starting the same kernels.
    kinds = (batch.sequences > 0) + 2 * (batch.prompts > 0)
    for kind in np.unique(kinds):
        seconds[kinds == kind] = deployment.step(_only(batch, kinds == kind)).seconds
    if deployment.draft is not None:
        decoding = Batch.of(
            sequences=batch.sequences,
            context=np.maximum(batch.context, 1.0),
            # All lanes decode alike here, or this one alone.
            ranks=batch.ranks,
        )
        one = deployment.draft.step(decoding).seconds
        seconds = seconds + deployment.speculation.tokens * np.where(batch.sequences > 0, one, 0.0)
    return np.asarray(seconds)


def _only(batch: Batch, chosen: npt.NDArray[np.bool_]) -> Batch:
    return Batch(**{f.name: getattr(batch, f.name)[chosen] for f in fields(batch)})


def random_batches(
    rng: np.random.Generator,
    deployment: Deployment,
    budget: int,
    most: int,
    longest: int,
    many: int,
    reads: bool,
) -> tuple[F8, Batch]:
    """Random steps as loads of lanes ``[steps, lanes, LOADS]``, and as the engine's model takes them."""
    queries, lanes = 1 + deployment.speculation.tokens, deployment.layout.dp
    room = budget // queries
    sequences = np.floor(_spread(rng, 1.0, min(most, room), many))
    if reads:
        # A third reads prompts alone; drafts decode with all lanes alike or one alone.
        sequences = np.where(rng.random(many) < 1.0 / 3.0, 0.0, np.minimum(sequences, room - 1))
    context = _spread(rng, 1.0, longest, many)
    prompts, chunk, past = np.zeros((3, many))
    if reads:
        prompts = np.floor(_spread(rng, 1.0, np.minimum(most, budget - queries * sequences), many))
        read = np.floor(_spread(rng, prompts, budget - queries * sequences, many))
        chunk = np.minimum(read / prompts, longest)
        past = rng.choice([0.0, 1.0], many) * _spread(rng, 1.0, np.maximum(longest - chunk, 1.0), many)
    load = np.zeros((many, LOADS))
    load[:, PROMPTS], load[:, PREFILL] = prompts, prompts * chunk
    load[:, PAIRS] = prompts * chunk * (past + chunk / 2.0)
    load[:, STORED] = prompts * (past + chunk)
    load[:, SEQUENCES], load[:, QUERIES] = sequences, queries * sequences
    load[:, CONTEXT] = sequences * context
    loads = np.zeros((many, lanes, LOADS))
    loads[:, 0] = load
    busy = np.floor(_spread(rng, 1.0, lanes, many))
    for lane in range(1, lanes):
        # Others are as this one, or decode fewer sequences, or do nothing.
        alike = load.copy()
        if not reads and deployment.draft is None:
            share = rng.random(many)
            alike[:, SEQUENCES] = alike[:, QUERIES] = np.floor(share * sequences)
            alike[:, CONTEXT] = np.floor(share * sequences) * context * rng.random(many)
        loads[:, lane] = np.where((lane < busy)[:, None], alike, 0.0)
    whole = (loads[:, :, PREFILL] + loads[:, :, QUERIES]).sum(axis=1)
    batch = Batch.of(
        sequences=sequences,
        context=context,
        prompts=prompts,
        chunk=chunk,
        past=past,
        ranks=whole / (load[:, PREFILL] + load[:, QUERIES]),
        queries=float(queries),
    )
    return loads, batch


def _spread(rng: np.random.Generator, low: F8 | float, high: F8 | float, many: int) -> F8:
    """Numbers spread evenly over magnitudes."""
    low, high = np.asarray(low), np.maximum(np.asarray(high), low)
    return np.asarray(np.exp(np.log(low) + rng.random(many) * (np.log(high) - np.log(low))))

"""Which experts each token of a case goes to: drawn by a law, or taken from a recorded trace."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.reference.layer import Case, IntArray

_NONE_RECORDED: Mapping[str, Recorded] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """Routing of a model's tokens, as ``trace:NAME`` uses it.

    Parameters
    ----------
    name
        What cases call it.
    ids
        Experts, integers ``[tokens, layers, top_k]``, tokens of a request in order.
    num_experts
        Experts of a layer.
    source
        Where it comes from, for reports.
    real
        Whether a model was run for it, rather than a law drawn from.
    """

    name: str
    ids: npt.NDArray[np.integer]
    num_experts: int
    source: str
    real: bool


def route(
    case: Case,
    recorded: Mapping[str, Recorded] = _NONE_RECORDED,
    *,
    tokens: int | None = None,
    draw: int = 0,
) -> IntArray:
    """Experts of each token.

    Parameters
    ----------
    case
        Its routing is ``uniform`` (without replacement), ``zipf:S`` (without replacement, by weights
        rank^-S over experts in random order), ``ragged`` (popularity spread over orders of magnitude, a
        quarter of the experts without a token), ``one-hot`` (every token to the same experts) or
        ``trace:NAME`` (consecutive tokens of one layer of a recording).
    recorded
        Recordings by name.
    tokens
        How many, if not as many as the case has.
    draw
        0 for the tokens of the case; 1, 2, ... for others with the same experts popular: in recordings,
        those before.

    Returns
    -------
    ndarray
        int32 ``[tokens, top_k]``, different experts in each row. The same for the same arguments, whatever
        weights or data type the case has.

    Examples
    --------
    >>> from moesim.reference.layer import Case, LayerShape
    >>> shape = LayerShape("tiny", 4, 2, 64, 64)
    >>> route(Case(shape, 3, "one-hot")).tolist()
    [[0, 1], [0, 1], [0, 1]]
    """
    shape, number = case.shape, case.tokens if tokens is None else tokens
    law, _, argument = case.routing.partition(":")
    key = (case.seed, shape.num_experts, shape.top_k, case.tokens, zlib.crc32(case.routing.encode()))
    fixed, drawn = np.random.default_rng(key), np.random.default_rng((*key, draw + 1))
    if law == "trace":
        return _rows(case, _recording(case, argument, recorded), number, draw, fixed)
    if law == "one-hot":
        return np.tile(fixed.permutation(shape.num_experts)[: shape.top_k].astype(np.int32), (number, 1))
    weights = _popularity(case, law, argument, fixed)
    return _without_replacement(weights, number, shape.top_k, drawn)


def _popularity(case: Case, law: str, argument: str, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Weight of every expert, ``[experts]``."""
    experts = case.shape.num_experts
    if law == "uniform" and not argument:
        return np.ones(experts)
    if law == "zipf" and (exponent := _number(argument)) is not None:
        return np.asarray((rng.permutation(experts) + 1.0) ** -exponent)
    if law == "ragged" and not argument:
        weights = rng.lognormal(0.0, 2.0, experts)
        idle = min(experts // 4, experts - case.shape.top_k)
        weights[rng.permutation(experts)[:idle]] = 0.0
        return weights
    allowed = "uniform, one-hot, ragged, zipf:S, trace:NAME"
    raise ConfigError(Fault("is no routing", "routing", case.routing, allowed))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0.0 <= value <= 100.0 else None


def _without_replacement(
    weights: npt.NDArray[np.float64], tokens: int, top_k: int, rng: np.random.Generator
) -> IntArray:
    """Draw different experts for each token one after the other, each in proportion to its weight.

    The k largest of log-weights with Gumbel noise are such a draw (Efraimidis and Spirakis, Information
    Processing Letters 97(5), 2006).
    """
    with np.errstate(divide="ignore"):
        keys = np.log(weights) + rng.gumbel(size=(tokens, len(weights)))
    return np.argsort(-keys, axis=1, kind="stable")[:, :top_k].astype(np.int32)


def _recording(case: Case, name: str, recorded: Mapping[str, Recorded]) -> Recorded:
    """The recording a case names, checked against its layer."""
    if name not in recorded:
        known = ", ".join(sorted(recorded)) or "no recording was given"
        raise ConfigError(Fault("is no recording", "routing", case.routing, known))
    found, shape = recorded[name], case.shape
    faults = []
    if found.ids.shape[2] != shape.top_k:
        faults.append(
            Fault("has another number of experts per token", name, found.ids.shape[2], str(shape.top_k))
        )
    if found.num_experts > shape.num_experts:
        faults.append(Fault("has more experts", name, found.num_experts, str(shape.num_experts)))
    if not found.ids.shape[0] or not found.ids.shape[1]:
        faults.append(Fault("has no tokens", name))
    if faults:
        raise ConfigError(faults, f"recorded routing of {shape.name}")
    return found


def _rows(case: Case, found: Recorded, number: int, draw: int, rng: np.random.Generator) -> IntArray:
    """Consecutive tokens of one layer, from a drawn place on, round the end if need be."""
    length = len(found.ids)
    layer = int(rng.integers(found.ids.shape[1]))
    start = int(rng.integers(max(length - case.tokens, 0) + 1))
    rows = (start - draw * number + np.arange(number)) % length
    return np.ascontiguousarray(found.ids[rows, layer], dtype=np.int32)

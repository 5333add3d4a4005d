"""The requests to generate: how many, how long, of which archetype and phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.synthesis.profile import Profile

Array = npt.NDArray[Any]
PHASES = ("prefill", "decode", "both")
#: Variance of a request's taste that is its own, not its archetype's, is the square of this.
_JITTER = 0.15


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The requests to generate.

    Parameters
    ----------
    lengths, prompts
        Tokens of each request, and how many of them are prefill, int64 ``[requests]``.
    archetype
        Of each request.
    scores
        float32 ``[requests, F]``.
    """

    lengths: Array
    prompts: Array
    archetype: Array
    scores: Array

    @property
    def tokens(self) -> int:
        """Tokens of all requests."""
        return int(self.lengths.sum())


def plan(
    profile: Profile,
    tokens: int,
    requests: int | None = None,
    phase: str | None = None,
    seed: int = 0,
    prompt_share: float = 0.5,
) -> Plan:
    """Choose archetypes and lengths of requests.

    Archetypes come in proportion to their shares, as evenly as whole numbers allow; lengths are those of the
    archetypes, stretched to fit `tokens`.

    Parameters
    ----------
    profile
        What to imitate.
    tokens
        Tokens in total.
    requests
        Requests; None for as many as make them as long as those of the profile.
    phase
        ``prefill``, ``decode`` or ``both``; None for what the profile was fitted to.
    seed
        Seed.
    prompt_share
        With ``both``, the share of each request that is prefill.

    Raises
    ------
    ConfigError
        Naming every option that is out of range.
    """
    faults = plan_faults(tokens, requests, phase, seed)
    if faults:
        raise ConfigError(faults)
    phase = PHASES[profile.phase] if phase is None else phase
    mean = float((profile.share * profile.lengths).sum())
    R = requests if requests is not None else max(1, round(tokens / mean))
    rng = np.random.default_rng(seed)
    marks = (rng.random() + np.arange(R)) / R
    archetype = np.minimum(np.searchsorted(np.cumsum(profile.share), marks), len(profile.share) - 1)
    archetype = rng.permutation(archetype)
    noise = rng.standard_normal((R, profile.scores.shape[1])).astype(np.float32)
    scores = np.sqrt(1 - _JITTER**2) * profile.scores[archetype] + _JITTER * noise
    lengths = _stretch(profile.lengths[archetype], tokens)
    share = {"prefill": 1.0, "decode": 0.0, "both": prompt_share}[phase]
    prompts = np.minimum(np.ceil(lengths * share), lengths).astype(np.int64)
    return Plan(lengths, prompts, archetype, scores.astype(np.float32))


def _stretch(lengths: Array, tokens: int) -> Array:
    """Whole numbers of at least 1 in proportion to `lengths`, with the sum `tokens`.

    >>> _stretch(np.array([1, 1, 4]), 12).tolist()
    [2, 3, 7]
    """
    spare = tokens - len(lengths)
    ends = np.floor(np.cumsum(lengths) / lengths.sum() * spare + 1e-9)
    return np.asarray(np.diff(ends, prepend=0), np.int64) + 1


def plan_faults(tokens: int, requests: int | None, phase: str | None, seed: int) -> list[Fault]:
    """What is out of range, by command-line option."""
    faults = []
    if not 1 <= tokens < 2**31:
        faults.append(Fault("is out of range", "--tokens", tokens, "1 to 2**31 - 1"))
    if requests is not None and not 1 <= requests <= max(tokens, 1):
        faults.append(Fault("is out of range", "--requests", requests, "1 to the number of tokens"))
    if phase is not None and phase not in PHASES:
        faults.append(Fault("is no phase", "--phase", phase, ", ".join(PHASES)))
    if not 0 <= seed < 2**63:
        faults.append(Fault("is out of range", "--seed", seed, "0 to 2**63 - 1"))
    return faults

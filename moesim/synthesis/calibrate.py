"""Move a profile's few strengths until what it generates has the moments it should have.

The likelihood fits each draw given what was really chosen before it. Generation feeds on its own draws, so
that small errors add up over tokens and layers. The cure is simulated moments: generate, compare, correct.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.synthesis.moments import Moments, moments
from moesim.synthesis.profile import Profile
from moesim.synthesis.requests import Plan
from moesim.synthesis.sampling import runs

_MOST = 1.5
_LAG_GAIN = np.array([1.0, 0.5, 0.5, 0.5])
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Aim:
    """What the generated moments should be; None for what may be what it is.

    Parameters are those of `Moments`; `phase` says whose loads are meant (0, 1, or 2 for both alike),
    `by_kinds` that the mutual information is to be reached by the kinds' strength, not the coupling's.
    """

    load: Array | None = None
    lag: Array | None = None
    far: Array | None = None
    information: Array | None = None
    phase: int = 2
    by_kinds: bool = False

    @classmethod
    def of(cls, found: Moments) -> Aim:
        """To have the moments of a trace."""
        return cls(found.load, found.lag, found.far, found.information)


def calibrate(
    profile: Profile, aim: Aim, layouts: Plan, *, rounds: int = 12, seed: int = 0, debias: bool = False
) -> tuple[Profile, Moments]:
    """Correct a profile by simulated moments.

    Each round generates `layouts` with a new seed, and moves, layer by layer, the base by the loads,
    the recency of the last tokens by the overlaps with them, the archetypes' strength by the overlap of
    distant tokens of a request, and the coupling's (or the kinds') strength by the mutual
    information. Steps shrink in the last rounds, which averages the noise of single rounds.

    Parameters
    ----------
    profile
        Where to begin.
    aim
        Where to arrive.
    layouts
        The requests to generate.
    rounds
        Rounds.
    seed
        Of the first round.
    debias
        As in `moments`.

    Returns
    -------
    Profile, Moments
        The corrected profile, and the moments of the last round.
    """
    tokens = layouts.tokens
    phases = slice(None) if aim.phase == 2 else slice(aim.phase, aim.phase + 1)
    for n in range(rounds):
        ids, position = draw(profile, layouts, seed + 1 + n)
        found = moments(ids, position, profile.num_experts, seed, debias=debias)
        step = 1.0 if n < 0.6 * rounds else 0.4
        base, recency = profile.base.copy(), profile.recency.copy()
        coupling_scale, archetype_scale = profile.coupling_scale, profile.archetype_scale
        if aim.load is not None:
            # Rare experts wander: what is added is three tokens' worth.
            ratio = np.log2((aim.load + 3 / tokens) / (found.load + 3 / tokens))
            base[phases] += (0.8 * step * np.clip(ratio, -3, 3)).astype(np.float32)
        if aim.lag is not None:
            off = aim.lag - found.lag
            count = min(off.shape[1], recency.shape[1])
            gain = 3.0 * step / np.maximum(aim.lag, 0.05)
            recency[:, :count] += (gain * off)[:, :count] * _LAG_GAIN[:count]
            recency = np.clip(recency, -4, 10).astype(np.float32)
        if aim.far is not None:
            ratio = (aim.far + 1e-3) / (found.far + 1e-3)
            archetype_scale = np.clip(archetype_scale * ratio ** (0.8 * step), 0.02, 4).astype(np.float32)
        kind_scale = profile.kind_scale
        if aim.information is not None:
            ratio = np.maximum(aim.information, 1e-4) / np.maximum(found.information, 1e-4)
            if aim.by_kinds:
                # A layer's kinds serve both of its neighbours.
                ratio = np.sqrt(ratio * np.append(ratio[1:], ratio[-1]))
                ratio[0] = ratio[0] ** 2
            change = np.clip(ratio ** (0.6 * step), 0.5, 2)
            if aim.by_kinds:
                kind_scale = np.clip(kind_scale * change, 0.02, 4).astype(np.float32)
            else:
                # Beyond some strength a fitted coupling amplifies its own noise, and says less.
                coupling_scale = np.clip(coupling_scale * change, 0.3, _MOST).astype(np.float32)
        profile = replace(
            profile,
            base=base,
            recency=recency,
            coupling_scale=coupling_scale,
            kind_scale=kind_scale,
            archetype_scale=archetype_scale,
        )
    return profile, found


def draw(profile: Profile, layouts: Plan, seed: int) -> tuple[Array, Array]:
    """Ids ``[tokens, layers, k]`` and positions ``[tokens]`` of planned requests."""
    parts = list(runs(profile, layouts, seed))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[2] for p in parts])

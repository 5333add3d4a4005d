"""Two pools of one set of experts, in high and low precision, with HOBBIT's four-term score."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled

#: What becomes of an access: found in high or in low precision, loaded in high or in low, left out.
HIGH_HIT, LOW_HIT, HIGH_LOAD, LOW_LOAD, SKIPPED = range(5)


@compiled
def mixed_outcomes(
    experts: npt.NDArray[np.int32],
    wanted: npt.NDArray[np.int8],
    starts: npt.NDArray[np.int64],
    request: npt.NDArray[np.int32],
    layers: int,
    num_experts: int,
    shared: bool,
    slots: tuple[int, int],
    terms: tuple[float, float, float, float],
    found: npt.NDArray[Any],
) -> None:
    """Accesses of each layer by outcome, added to `found`, int64 ``[layers, 5]``.

    Parameters
    ----------
    experts, starts, request
        As in `moesim.policy.Steps`.
    wanted
        Precision of each access if it is missed: 0 high, 1 low, -1 none.
    slots
        Of a pool in high and in low precision.
    terms
        Weights of recency, frequency, use at high precision and layer distance.
    """
    pools = 1 if shared else layers
    members = layers * num_experts
    most = max(slots)
    held = np.empty((2, pools, most + 1), np.int64)
    number = np.zeros((2, pools), np.int64)
    here = np.zeros((2, members), np.bool_)
    last = np.full(members, -1, np.int64)
    clock = np.zeros(members, np.int64)
    count, fine = np.zeros(members, np.int64), np.zeros(members, np.int64)
    first, now = 0, 0
    for step in range(len(request)):
        if step and request[step] != request[step - 1]:
            first = step
            last[:] = -1
            count[:] = 0
            fine[:] = 0
        for layer in range(layers):
            pool = 0 if shared else layer
            for i in range(starts[step * layers + layer], starts[step * layers + layer + 1]):
                x = np.int64(layer * num_experts + experts[i])
                now += 1
                last[x], clock[x] = step, now
                count[x] += 1
                fine[x] += wanted[i] == 0
                if here[0, x] or (wanted[i] != 0 and here[1, x]):
                    found[layer, HIGH_HIT if here[0, x] else LOW_HIT] += 1
                    continue
                if wanted[i] < 0:
                    found[layer, SKIPPED] += 1
                    continue
                level = np.int64(wanted[i])
                found[layer, HIGH_LOAD + level] += 1
                if slots[level] == 0:
                    continue
                if number[level, pool] == slots[level]:
                    best, victim = np.inf, 0
                    for n in range(slots[level]):
                        y = held[level, pool, n]
                        recent = last[y] - first + 1 if last[y] >= 0 else 0
                        ahead = (y // num_experts - layer) % layers
                        key = (terms[0] * recent + terms[1] * count[y] + terms[2] * fine[y]) / (
                            step - first + 1
                        )
                        key += terms[3] * (1 - ahead / layers)
                        if key < best or (key == best and clock[y] < clock[held[level, pool, victim]]):
                            best, victim = key, n
                    here[level, held[level, pool, victim]] = False
                    held[level, pool, victim] = x
                else:
                    held[level, pool, number[level, pool]] = x
                    number[level, pool] += 1
                here[level, x] = True

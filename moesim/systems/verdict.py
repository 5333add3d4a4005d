"""What is said of a row: four verdicts, in this order.

``reproduced``
    Ours is within 15 % of what was published, and of a gain, it is one.
``assumption-bound``
    It is not, but moving what the source does not give over plausible ranges takes it there.
``direction``
    Not even that, but a gain is a gain and a loss is a loss.
``not reproduced``
    None of these; the row says why.
"""

from __future__ import annotations

from collections.abc import Sequence

REPRODUCED = "reproduced"
BOUND = "assumption-bound"
DIRECTION = "direction"
NOT = "not reproduced"
VERDICTS = (REPRODUCED, BOUND, DIRECTION, NOT)

#: How far a reproduced figure may be off, as a fraction.
TOLERANCE = 0.15


def judge(
    published: float | None,
    ours: float | None,
    swept: Sequence[float] = (),
    neutral: float | None = None,
    towards: int = 0,
) -> str:
    """The verdict on a row.

    Parameters
    ----------
    published, ours
        The two figures; None where there is none.
    swept
        Ours over the ranges of the assumptions. Between two of them, every value is taken to be reached.
    neutral
        The value that means neither gain nor loss, for figures that are gains.
    towards
        Where no figure is published but a direction: 1 for more than `neutral`, -1 for less.

    Examples
    --------
    >>> judge(2.0, 2.2), judge(2.0, 1.5, [1.2, 1.8]), judge(2.0, 1.5, [1.4, 1.6], neutral=1.0)
    ('reproduced', 'assumption-bound', 'direction')
    >>> judge(2.0, 0.9, neutral=1.0), judge(None, 0.9)
    ('not reproduced', 'not reproduced')
    >>> judge(1.05, 0.98, neutral=1.0)
    'not reproduced'
    >>> judge(None, 1.3, neutral=1.0, towards=1)
    'direction'
    """
    if published is None and ours is not None and neutral is not None and (ours - neutral) * towards > 0:
        return DIRECTION
    if published is None or ours is None:
        return NOT
    near, far = sorted((published * (1 - TOLERANCE), published * (1 + TOLERANCE)))
    if neutral is not None:
        # A small gain is no loss, however near the two are.
        near, far = (max(near, neutral), far) if published > neutral else (near, min(far, neutral))
    if near <= ours <= far and ours != neutral:
        return REPRODUCED
    reached = [ours, *swept]
    if min(reached) <= far and max(reached) >= near:
        return BOUND
    if neutral is not None and (ours - neutral) * (published - neutral) > 0:
        return DIRECTION
    return NOT

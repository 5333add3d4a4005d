"""Degrees of parallelism as they were run, from degrees as they were written down.

Part of the public tables hold products where a degree belongs: tensor parallelism 64 with expert parallelism
8 is a node of 8 GPUs with TP 8 and EP 8. What is certain is put right and named; the rest is called doubtful.
"""

from __future__ import annotations

from dataclasses import dataclass

from moesim.layout.parallelism import Parallelism

#: Devices of one engine beyond which an aggregated deployment is hard to believe.
MOST = 8


@dataclass(frozen=True, slots=True)
class Degrees:
    """Degrees as recorded; None where blank, and 0 means blank too.

    Parameters
    ----------
    tp, pp, dp
        Attention tensor, pipeline and attention data parallelism.
    moe_tp, ep
        Expert tensor and expert parallelism.
    """

    tp: int
    pp: int | None = None
    dp: int | None = None
    moe_tp: int | None = None
    ep: int | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """A layout, and what had to be assumed to get it.

    Parameters
    ----------
    layout
        As it was run.
    repairs
        What was put right.
    doubtful
        Why the layout is hard to believe; empty if it is not.
    """

    layout: Parallelism
    repairs: tuple[str, ...] = ()
    doubtful: str = ""


def read_degrees(recorded: Degrees, moe: bool) -> Reading:
    """The layout that recorded degrees stand for.

    Parameters
    ----------
    recorded
        Of one engine.
    moe
        Whether the model has experts; without, expert degrees mean nothing.

    Examples
    --------
    >>> str(read_degrees(Degrees(tp=64, dp=1, moe_tp=8, ep=8), moe=True).layout)
    'tp=8 pp=1 dp=1 ep=8'
    >>> read_degrees(Degrees(tp=4, dp=4, moe_tp=1, ep=16), moe=True).repairs
    ('TP 4 x DP 4 with EP 16 read as DP 4 with EP 4',)
    """
    tp, pp, dp = recorded.tp, recorded.pp or 1, recorded.dp or 1
    ep, moe_tp = (recorded.ep or 1, recorded.moe_tp or 1) if moe else (1, 1)
    repairs: list[str] = []
    doubtful = ""
    # A blank attention DP marks tables of another origin, whose products were never taken.
    if ep > 1 and tp == ep * ep and moe_tp == ep and recorded.dp:
        repairs.append(f"TP {tp} with EP {ep} read as TP {ep}")
        tp, moe_tp = ep, 1
    elif ep > 1 and dp == ep * ep:
        repairs.append(f"DP {dp} with EP {ep} read as DP {ep}")
        dp, moe_tp = ep, 1
    elif tp == dp > 1 and ep == tp * dp:
        repairs.append(f"TP {tp} x DP {dp} with EP {ep} read as DP {dp} with EP {dp}")
        tp, ep, moe_tp = 1, dp, 1
    elif moe and tp * dp == 1 < moe_tp * ep and recorded.moe_tp:
        repairs.append(f"TP 1 with experts in {moe_tp * ep} parts read as TP {moe_tp * ep}")
        doubtful = "attention and experts are recorded on different numbers of devices"
        tp, moe_tp = moe_tp * ep, moe_tp
    if (tp * dp) % ep:
        doubtful = f"EP {ep} does not divide the {tp * dp} devices"
    elif moe and recorded.moe_tp and recorded.ep and moe_tp * ep != tp * dp:
        doubtful = doubtful or "attention and experts are recorded on different numbers of devices"
    return Reading(Parallelism(tp, pp, dp, ep), tuple(repairs), doubtful)


def read_aggregated(recorded: Degrees, moe: bool) -> Reading:
    """The layout of an aggregated deployment; more devices than a node has are doubtful.

    >>> read_aggregated(Degrees(tp=36, moe_tp=36, ep=1), moe=True).doubtful
    'TP 36 is more likely the devices of both sides of a disaggregated deployment'
    """
    found = read_degrees(recorded, moe)
    if found.layout.tp <= MOST or found.doubtful:
        return found
    why = f"TP {found.layout.tp} is more likely the devices of both sides of a disaggregated deployment"
    return Reading(found.layout, found.repairs, why)


def read_pools(prefill: Degrees, decode: Degrees, moe: bool) -> tuple[Reading, Reading, str]:
    """Layouts of the two sides of a disaggregated deployment, and what is doubtful about them together.

    Where the decode side repeats the prefill side's EP but has more devices, its own EP is unknown: those
    tables had one EP column for both. Such a worker is read as recorded, and doubtful.
    """
    first = read_degrees(prefill, moe)
    repeated = moe and (decode.ep or 1) > 1 and decode.ep == prefill.ep and decode.tp > (decode.ep or 1)
    if repeated:
        # Not a square: TP 16 with EP 4 is as often recorded here as TP 24, 32 and 48 are.
        second = Reading(Parallelism(decode.tp, decode.pp or 1, decode.dp or 1, decode.ep or 1))
    else:
        second = read_degrees(decode, moe)
    notes = [f"prefill: {first.doubtful}" if first.doubtful else ""]
    notes.append(f"decode: {second.doubtful}" if second.doubtful else "")
    if repeated:
        notes.append(f"decode: EP {decode.ep} of {decode.tp} devices repeats the prefill side's")
    elif decode.tp == prefill.tp > MOST and (decode.dp or 1) == (prefill.dp or 1) == 1 == (decode.ep or 1):
        notes.append(f"TP {decode.tp} on both sides is more likely the devices of the whole deployment")
    elif (decode.tp > MOST or prefill.tp > MOST) and (decode.dp or 1) == 1:
        notes.append(f"TP {max(decode.tp, prefill.tp)} may stand for attention data parallelism")
    return first, second, "; ".join(note for note in notes if note)

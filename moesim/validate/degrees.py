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


def read_pools(
    prefill: Degrees, decode: Degrees, moe: bool, counted: bool, backend: str = ""
) -> tuple[Reading, Reading, str]:
    """Layouts of the two sides of a disaggregated deployment, and what is doubtful about them together.

    Tables without worker counts have one column of EP for both sides, and call attention data parallelism TP.
    Rows that are also recorded elsewhere in full (some hundred) say what they mean: the EP of a decode worker
    is its devices; all 14 of 16 and more devices had data-parallel attention, and so had all 13 prefill
    workers of TensorRT-LLM on 16 GPUs, though the decode workers of these had not.

    Parameters
    ----------
    prefill, decode
        Of one worker of each side.
    moe
        Whether the model has experts.
    counted
        Whether worker counts are recorded; such rows are right as they are.
    backend
        Of the row.
    """
    if counted or not moe:
        first, second = read_degrees(prefill, moe), read_degrees(decode, moe)
        notes = [f"{s}: {r.doubtful}" for s, r in (("prefill", first), ("decode", second)) if r.doubtful]
        return first, second, "; ".join(notes)
    if _all_one(prefill) and _all_one(decode):
        return _as_is(prefill), _as_is(decode), "every degree is 1: the layout is not recorded"
    if prefill.tp == decode.tp > MOST and (prefill.ep or 1) == (decode.ep or 1) == 1:
        why = f"TP {decode.tp} on both sides is more likely the devices of the whole deployment"
        return _as_is(prefill), _as_is(decode), why
    first = read_degrees(prefill, moe)
    if backend == "trtllm" and prefill.tp == prefill.ep == 16 and (prefill.dp or 1) == 1:
        first = Reading(Parallelism(1, 1, 16, 16), ("TP 16 with EP 16 read as DP 16 with EP 16",))
    n, ep = decode.tp, decode.ep or 1
    if not (1 < ep < n and ep == prefill.ep and (decode.dp or 1) == 1):
        return first, read_degrees(decode, moe), ""
    wide = n > MOST
    text = f"TP {n} with EP {ep} read as {'DP' if wide else 'TP'} {n} with EP {n}"
    return first, Reading(Parallelism(1 if wide else n, 1, n if wide else 1, n), (text,)), ""


def _as_is(recorded: Degrees) -> Reading:
    return Reading(Parallelism(recorded.tp, recorded.pp or 1, recorded.dp or 1, recorded.ep or 1))


def _all_one(recorded: Degrees) -> bool:
    return recorded.tp == (recorded.pp or 1) == (recorded.dp or 1) == (recorded.ep or 1) == 1

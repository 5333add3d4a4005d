"""What to change where a scenario cannot be answered."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from moesim.errors import ConfigError, InfeasibleError
from moesim.layout import Parallelism
from moesim.ui.alternatives import any_layout, holds, laid_out, layout_in, others, redundant_in
from moesim.ui.library import Library
from moesim.ui.scenario import Asked

#: Layouts that are tried for room.
_TRIED = 24
#: Of the most that is kept up with: a rate that leaves some air.
_AIR = 0.9


def instead(asked: Asked, refusal: InfeasibleError) -> list[dict[str, Any]]:
    """Changes that make an infeasible scenario fit, each with its reason.

    Parameters
    ----------
    asked
        What does not fit.
    refusal
        Why.

    Returns
    -------
    list
        ``change`` (fields and their new values) and ``message``; empty if nothing was found.
    """
    return list(_for_rate(refusal) if refusal.resource == "request rate" else _for_room(asked, refusal))


def layouts_instead(raw: object, library: Library) -> list[dict[str, Any]]:
    """The nearest layout that can be laid out, for a scenario whose own cannot; one without else wrong.

    The first that has room is taken, or else the nearest.
    """
    try:
        asked = any_layout(raw, library)
    except ConfigError:
        return []
    near = layout_in(raw)
    found = others(asked, near, redundant_in(raw))
    if not found:
        return []
    best = next((other for other in found[:_TRIED] if holds(other)), found[0])
    return [_moved(best, f"{best.layout} uses all {asked.hardware.num_devices} devices")]


def _for_rate(refusal: InfeasibleError) -> Iterator[dict[str, Any]]:
    most = refusal.available * _AIR
    if most > 0:
        digits = 2 - math.floor(math.log10(most))
        rate = math.floor(most * 10**digits) / 10**digits
        if rate > 0:
            yield {"change": {"request_rate": rate}, "message": f"{rate:g} requests/s are kept up with"}


def _for_room(asked: Asked, refusal: InfeasibleError) -> Iterator[dict[str, Any]]:
    if asked.scenario.kv_cache_dtype != "fp8":
        small = asked.scenario.model_copy(update={"kv_cache_dtype": "fp8"})
        engine = replace(asked.engine, kv_cache_dtype="fp8")
        if holds(replace(asked, scenario=small, engine=engine)):
            yield {"change": {"kv_cache_dtype": "fp8"}, "message": "a cache in 8 bits fits"}
    elsewhere = islice(others(asked, asked.layout, asked.scenario.redundant), _TRIED)
    fitting = next((other for other in elsewhere if holds(other)), None)
    if fitting is not None:
        yield _moved(fitting, f"{fitting.layout} fits on the same devices")
    nodes, text = refusal.details.get("fewest_nodes"), refusal.details.get("fewest_nodes_layout")
    if isinstance(nodes, int) and nodes != asked.scenario.nodes:
        layout = Parallelism(**{name: int(n) for name, n in re.findall(r"(\w+)=(\d+)", str(text))})
        larger = replace(asked, hardware=asked.hardware.with_nodes(nodes))
        moved = laid_out(larger, layout, asked.scenario.redundant)
        yield _moved(moved, f"{nodes} nodes hold it, laid out {layout}", nodes=nodes)


def _moved(asked: Asked, message: str, **more: int) -> dict[str, Any]:
    names = ("tp", "pp", "dp", "ep", "redundant")
    return {"change": {**more, **{n: getattr(asked.scenario, n) for n in names}}, "message": message}

"""Lines to copy: the command that gives the same answer, and those that start serving engines."""

from __future__ import annotations

import shlex
from collections import OrderedDict
from dataclasses import replace
from typing import Any

from moesim.engine.deployment import BACKENDS
from moesim.errors import InfeasibleError
from moesim.planning import Candidate, launch
from moesim.planning.launch import script
from moesim.ui.library import Library
from moesim.ui.scenario import Asked, Scenario, whole

_OPTIONS = {
    "nodes": "--nodes",
    "tp": "--tp",
    "pp": "--pp",
    "dp": "--dp",
    "ep": "--ep",
    "input_len": "--input-len",
    "output_len": "--output-len",
}
#: Options that are left out where they are what the command takes anyway.
_OPTIONAL = {
    "redundant": "--redundant",
    "dtype": "--dtype",
    "kv_cache_dtype": "--kv-cache-dtype",
    "backend": "--backend",
    "overlap": "--overlap",
    "routing": "--routing",
    "seed": "--seed",
}

_LAUNCHES: OrderedDict[tuple[object, ...], tuple[dict[str, dict[str, Any]], Asked]] = OrderedDict()
_KEEP = 64


def predict_line(scenario: Scenario, library: Library) -> str:
    """The `moesim predict` line of a scenario; an upload stands under the name its sender gave it.

    >>> print(predict_line(Scenario(model="gpt-oss-20b", nodes=1, dp=8, ep=8, concurrency=64), Library()))
    moesim predict --model gpt-oss-20b --hardware h200-sxm-8 --nodes 1 --tp 1 --pp 1 --dp 8 --ep 8
    --input-len 4096 --output-len 1024 --concurrency 64
    """
    words = ["moesim", "predict", "--model", library.models[scenario.model]]
    words += ["--hardware", library.machines[scenario.hardware]]
    asked = (
        {"concurrency": "--concurrency"}
        if scenario.request_rate is None
        else {"request_rate": "--request-rate"}
    )
    for name, option in (_OPTIONS | asked).items():
        words += [option, f"{whole(getattr(scenario, name))!r}"]
    for name, option in _OPTIONAL.items():
        value = getattr(scenario, name)
        if value != Scenario.model_fields[name].default:
            words += [option, str(value)]
    if scenario.trace is not None:
        words += ["--trace", library.traces[scenario.trace].spelling]
    return shlex.join(words)


def launch_lines(asked: Asked) -> dict[str, dict[str, Any]]:
    """How each engine is started in this layout, or the reason why it cannot be, by engine."""
    key = (id(asked.model), id(asked.hardware), asked.layout, asked.engine, asked.scenario.redundant)
    if key not in _LAUNCHES:
        # Traffic changes no line. The objects are held as well: an id stays theirs as long as they live.
        _LAUNCHES[key] = ({backend: _lines(asked, backend) for backend in BACKENDS}, asked)
        if len(_LAUNCHES) > _KEEP:
            _LAUNCHES.popitem(last=False)
    _LAUNCHES.move_to_end(key)
    return _LAUNCHES[key][0]


def _lines(asked: Asked, backend: str) -> dict[str, Any]:
    engine = replace(asked.engine, backend=backend)
    candidate = Candidate(asked.model, asked.hardware, asked.layout, 1, engine, asked.scenario.redundant)
    try:
        found = launch(candidate)
    except InfeasibleError as error:
        return {"script": None, "reason": str(error), "notes": []}
    return {"script": script(found), "reason": "", "notes": list(found.notes)}

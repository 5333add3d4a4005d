"""The routing that ``trace:NAME`` stands for: the user's recordings, else what is shipped."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from moesim.errors import ConfigError, Fault, MoesimError, TraceError
from moesim.model import Model, load_model
from moesim.reference.layer import Case
from moesim.reference.routings import Recorded
from moesim.synthesis import generate, load_profile
from moesim.trace import RoutingTrace, load_trace

#: Shipped profile of each model, made from public recordings or load counts (traces/profiles/README.md).
PROFILES = {
    "deepseek-v2-lite": "deepseek-v2-lite",
    "gpt-oss-20b": "gpt-oss",
    "mixtral-8x7b": "mixtral",
    "olmoe-1b-7b": "olmoe",
}
#: Tokens drawn from a profile at least; as many as the largest case has, if that is more.
_DRAWN = 4096


def recordings(cases: Sequence[Case], paths: Sequence[Path] = ()) -> dict[str, Recorded]:
    """Recorded routing of every name that the cases use.

    Parameters
    ----------
    cases
        What will be run.
    paths
        Recordings in any format that moesim reads, files or folders, or folders of such. Each belongs to the
        name whose layers have as many experts and experts per token; where two do, the longer counts.

    Returns
    -------
    dict
        By name. Names that no recording belongs to get tokens drawn from the shipped profile of the model,
        with `Recorded.real` false; those without a profile are missing.

    Raises
    ------
    ConfigError
        If a path cannot be read or fits no case, with every fault.
    """
    named: dict[str, list[Case]] = {}
    for case in cases:
        law, _, name = case.routing.partition(":")
        if law == "trace":
            named.setdefault(name, []).append(case)
    shapes = {name: (of[0].shape.num_experts, of[0].shape.top_k) for name, of in named.items()}
    models = [load_model(name) for name in shapes if name in PROFILES]
    found: dict[str, Recorded] = {}
    faults: list[Fault] = []
    for path in paths:
        try:
            traces = _read(path, models)
        except MoesimError as error:
            faults.append(Fault(str(error), "--traces"))
            continue
        fitting = [(n, t) for t in traces for n in shapes if shapes[n] == (t.num_experts, t.top_k)]
        if not fitting:
            allowed = ", ".join(f"{name} (top {k} of {e})" for name, (e, k) in shapes.items())
            faults.append(Fault("holds tokens of no case's model", "--traces", str(path), allowed))
        for name, trace in fitting:
            if name not in found or len(found[name].ids) < trace.num_tokens:
                source = trace.source or path.name
                found[name] = Recorded(name, trace.topk_ids, trace.num_experts, source, True)
    if faults:
        raise ConfigError(faults)
    for name, of in named.items():
        if name not in found and name in PROFILES:
            found[name] = _drawn(name, max(_DRAWN, *(case.tokens for case in of)))
    return found


def _read(path: Path, models: Sequence[Model]) -> list[RoutingTrace]:
    """One trace, or those directly inside a folder that is none itself; load counts have no tokens."""
    try:
        found = [load_trace(path, candidates=models)]
    except TraceError:
        inside = sorted(path.iterdir()) if path.is_dir() else []
        found = []
        for entry in inside:
            with contextlib.suppress(TraceError):
                found.append(load_trace(entry, candidates=models))
        if not found:
            raise
    return [trace for trace in found if isinstance(trace, RoutingTrace)]


def _drawn(name: str, tokens: int) -> Recorded:
    """Tokens from the shipped profile of a model."""
    trace = generate(load_profile(PROFILES[name]), tokens)
    return Recorded(name, trace.topk_ids, trace.num_experts, f"drawn from profile {PROFILES[name]}", False)

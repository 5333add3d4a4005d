"""One call that reads any known format."""

from __future__ import annotations

import os

from moesim.trace.peek import Peek
from moesim.trace.readers import find_reader
from moesim.trace.shape import Candidates, Hints, ShapeLike
from moesim.trace.types import Routing


def load_trace(
    path: str | os.PathLike[str],
    *,
    shape: ShapeLike | None = None,
    num_experts: int | None = None,
    candidates: Candidates = (),
    top_k: int | None = None,
) -> Routing:
    """Read a routing trace or load counts from any known format, told by content.

    Parameters
    ----------
    path
        The file, or the folder for formats that are folders.
    shape
        The model the trace is of (a `moesim.model.types.Model` or a `Shape`). The trace must fit it.
    num_experts
        Routed experts per layer, for files that do not say.
    candidates
        Known models, for files that say nothing when the caller does not either: the smallest that fits
        is taken, with a warning. A callable is called only if needed.
    top_k
        Experts per token, for files that do not show it: router scores, ids without gaps.

    Returns
    -------
    RoutingTrace or LoadCounts
        What was assumed or dropped is in its `warnings`.

    Raises
    ------
    TraceError
        If the file cannot be read, is in no known format, is damaged, or does not fit the model; every
        fault is named.
    """
    hints = Hints.of(shape, num_experts, candidates, top_k)
    peek = Peek(path)
    return find_reader(peek).read(peek, hints)

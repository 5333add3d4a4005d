"""Expert counts of several models and text domains in one ``.npz``.

There is an array ``MODEL__DOMAIN__counts [layers, experts]`` for each. The domains become steps. Which model
is meant follows from the number of experts.
"""

from __future__ import annotations

import numpy as np

from moesim.errors import Fault, TraceError
from moesim.trace.arrays import Array, read_npz
from moesim.trace.assemble import Origin, load_counts
from moesim.trace.peek import Peek
from moesim.trace.readers.base import Reader
from moesim.trace.readers.olmoe_pkl import LAYERS
from moesim.trace.shape import Hints
from moesim.trace.types import LoadCounts

_END = "__counts"


def _sniff(peek: Peek) -> float:
    return 1.0 if _names(peek) else 0.0


def _names(peek: Peek) -> list[str]:
    stems = [name.removesuffix(".npy") for name in peek.zip_names]
    return sorted(stem for stem in stems if stem.endswith(_END) and stem.count("__") == 2)


def _read(peek: Peek, hints: Hints) -> LoadCounts:
    arrays = read_npz(peek.path, _names(peek))
    wrong = [
        Fault(f"is {a.dtype} {list(a.shape)}", name, allowed="numbers [layers, experts]")
        for name, a in arrays.items()
        if a.ndim != 2 or a.dtype.kind not in "iuf"
    ]
    if wrong:
        raise TraceError(wrong, peek.path)
    families: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        family, domain, _ = name.split("__")
        families.setdefault(family, {})[domain] = array
    chosen = families[_choose(families, hints, peek)]
    shapes = {array.shape for array in chosen.values()}
    if len(shapes) > 1:
        raise TraceError(Fault("domains differ in layers or experts", value=sorted(shapes)), peek.path)
    counts = np.stack(list(chosen.values()))
    origin = Origin(
        peek.path,
        layer_ids=LAYERS if counts.shape[1] == len(LAYERS) else None,
        metadata={"steps": ", ".join(chosen)},
    )
    return load_counts(counts, origin, hints)


def _choose(families: dict[str, dict[str, Array]], hints: Hints, peek: Peek) -> str:
    wanted = hints.shape.num_experts if hints.shape else hints.num_experts
    experts = {family: next(iter(domains.values())).shape[1] for family, domains in families.items()}
    fitting = [family for family, width in experts.items() if wanted in (None, width)]
    if len(fitting) == 1:
        return fitting[0]
    held = "; ".join(f"{family} with {width} experts" for family, width in experts.items())
    what = "holds several models" if fitting else f"holds no model with {wanted} experts"
    raise TraceError(
        Fault(what, "model", allowed=f"{held}; say which by model or number of experts"), peek.path
    )


READER = Reader("olmoe-npz", ".npz of counts by model and domain", _sniff, _read)

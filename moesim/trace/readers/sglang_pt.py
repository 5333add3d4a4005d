"""The ``.pt`` files of SGLang's expert distribution recorder, mode ``stat`` or ``stat_approx``.

A dict of `rank`, `logical_count` int32 ``[steps, layers, experts]`` and
`average_utilization_rate_over_window`, summed over ranks already, with a row for every decoder layer. The
recorder's buffer is circular: places it never used are zero, and steps may begin anywhere.
"""

from __future__ import annotations

from moesim.errors import Fault, TraceError
from moesim.trace.assemble import Origin, load_counts
from moesim.trace.peek import Peek
from moesim.trace.readers.base import Reader
from moesim.trace.shape import Hints
from moesim.trace.types import LoadCounts

# The first object of a file torch wrote before version 1.6: a magic number in a pickle of its own.
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_KEY = "logical_count"
_UTILISATION = "average_utilization_rate_over_window"


def _sniff(peek: Peek) -> float:
    if peek.head.startswith(_LEGACY) or _KEY.encode() in peek.pickle_head[:400]:
        return 1.0
    # Any other torch file is more likely to be a dump gone wrong than anything else that moesim knows.
    return 0.3 if any(name.endswith("/data.pkl") for name in peek.zip_names) else 0.0


def _read(peek: Peek, hints: Hints) -> LoadCounts:
    import numpy as np

    from moesim.trace.torch_zip import read_torch

    if peek.head.startswith(_LEGACY):
        raise TraceError(
            Fault("is in torch's format before 1.6; load and save it with a newer torch"), peek.path
        )
    saved = read_torch(peek.path)
    if not isinstance(saved, dict) or not isinstance(saved.get(_KEY), np.ndarray):
        raise TraceError(Fault("is missing, or no tensor", _KEY), peek.path)
    metadata = {
        key: str(saved[key]) for key in ("rank", _UTILISATION) if isinstance(saved.get(key), int | float)
    }
    return load_counts(saved[_KEY], Origin(peek.path, metadata=metadata), hints)


READER = Reader("sglang-pt", "SGLang .pt of recorder mode stat", _sniff, _read)

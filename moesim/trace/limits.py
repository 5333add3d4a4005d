"""How much an untrusted file may make moesim allocate."""

from __future__ import annotations

from moesim.errors import Fault
from moesim.units import show

#: Arrays of one trace held in memory. Larger ones are read in batches from Parquet.
MAX_BYTES = 8 * 2**30
#: A JSON document costs many times its size in memory.
MAX_JSON_BYTES = 256 * 2**20
#: A line of a text, which may be a whole document.
MAX_LINE_BYTES = MAX_JSON_BYTES
#: A pickle holds the frame of a file; its tensors lie beside it.
MAX_PICKLE_BYTES = 64 * 2**20
#: Up to here any compression ratio is fine; beyond, at most `MAX_RATIO`.
FREE_BYTES = 256 * 2**20
MAX_RATIO = 100


def size_fault(
    wanted_bytes: int, where: str, allowed_bytes: int = MAX_BYTES, on_disk_bytes: int | None = None
) -> Fault | None:
    """The fault of a part that would need too much memory, or None.

    Parameters
    ----------
    wanted_bytes
        What it would take.
    where
        The part.
    allowed_bytes
        The most it may take.
    on_disk_bytes
        Size of the file it is unpacked from; unpacking to over `MAX_RATIO` times that is refused.

    Examples
    --------
    >>> print(size_fault(2**40, "topk_ids.npy"))
    topk_ids.npy: needs 1.1 TB of memory; allowed: at most 8.59 GB
    >>> size_fault(2**20, "topk_ids.npy")
    """
    if wanted_bytes > allowed_bytes:
        return Fault(
            f"needs {show(wanted_bytes, 'bytes')} of memory",
            where,
            allowed=f"at most {show(allowed_bytes, 'bytes')}",
        )
    if on_disk_bytes is not None and wanted_bytes > max(FREE_BYTES, MAX_RATIO * on_disk_bytes):
        return Fault(
            f"unpacks {show(on_disk_bytes, 'bytes')} to {show(wanted_bytes, 'bytes')}, as no real trace does",
            where,
            allowed=f"{MAX_RATIO} times the file's size",
        )
    return None

"""Seconds of single experts, and their division between a processor and one beside the memory.

Duplex keeps two tables, seconds of an expert by its tokens on either processor, and gives the experts with
the fewest tokens to the one beside the memory (arXiv:2409.01141, section V-B).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.cost import ExpertShape, peak_flops_per_s
from moesim.hardware.types import Processor

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def expert_seconds(tokens: Array, shape: ExpertShape, processor: Processor, memory: str) -> Array:
    """Seconds of each expert by itself on the bare roofline of a processor; 0 without tokens.

    Parameters
    ----------
    tokens
        Of each expert, ``[..., experts]``.
    shape
        Of an expert on one device.
    processor, memory
        Computes from that memory, at the share of its bandwidth that its description names.
    """
    share = processor.efficiency_of("expert_gemm", shape.dtype).memory[0][1]
    work = shape.flops_per_pair * tokens / peak_flops_per_s(processor, shape.dtype)
    moved = shape.weight_bytes + shape.bytes_per_pair * tokens
    read = moved / (processor.bandwidth_bytes_per_s[memory] * share)
    return np.where(tokens > 0, np.maximum(work, read), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """Experts in rising order of tokens, the first of them beside the memory.

    Parameters
    ----------
    seconds
        Until both processors are done, ``[...]``.
    count
        Experts beside the memory, those without tokens not counted, ``[...]``.
    near_tokens
        Tokens of these experts together, ``[...]``.
    """

    seconds: Array
    count: IntArray
    near_tokens: Array


def prefix_split(tokens: Array, main: Array, near: Array) -> Prefix:
    """Give the experts with the fewest tokens to the processor beside the memory, as many as end first.

    Parameters
    ----------
    tokens
        Of each expert, ``[..., experts]``.
    main, near
        Seconds of each expert on either, ``[..., experts]``.

    Examples
    --------
    >>> n = np.array([9.0, 1.0, 2.0])
    >>> found = prefix_split(n, np.array([3.0, 2.0, 2.0]), np.array([4.0, 1.0, 1.0]))
    >>> float(found.seconds), int(found.count)
    (3.0, 2)
    """
    order = np.argsort(tokens, axis=-1, kind="stable")
    nothing = np.zeros((*tokens.shape[:-1], 1))
    rising, slow, fast = (np.take_along_axis(a, order, axis=-1) for a in (tokens, main, near))
    before = np.concatenate((nothing, np.cumsum(fast, axis=-1)), axis=-1)
    after = np.concatenate((np.cumsum(slow[..., ::-1], axis=-1)[..., ::-1], nothing), axis=-1)
    ends = np.maximum(before, after)
    cut = ends.argmin(axis=-1)[..., None]
    given = np.concatenate((nothing, np.cumsum(rising, axis=-1)), axis=-1)
    hit = np.concatenate((nothing, np.cumsum(rising > 0, axis=-1)), axis=-1)

    def at(a: Array) -> Array:
        return np.take_along_axis(a, cut, axis=-1)[..., 0]

    return Prefix(at(ends), at(hit).astype(np.int64), at(given))

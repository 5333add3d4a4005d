"""A pool of weights larger than the caches: what is taken from it is cold.

Weights of a real model are cold: the other layers ran in between. Here they are cut from one buffer of random
numbers, always behind what was cut last, so that a byte comes back only after the whole buffer has passed
through the caches. Cases share the buffer, so that many fit into little memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.reference.exact import Bits, bf16_bits
from moesim.reference.machine import caches_bytes, memory_bytes

#: Size of a pool in last caches, its smallest size, and the largest that is taken without being asked.
CACHES, SMALLEST_BYTES, LARGEST_BYTES = 2.0, 128 * 2**20, 2**30
#: Where the machine does not tell its cache.
UNKNOWN_CACHE_BYTES = 64 * 2**20
#: Part of the free memory that is never gone beyond.
FREE_PART = 0.25
#: Numbers drawn before they repeat: odd, so that blocks of weights do not repeat with them.
PERIOD = 2**22 - 3
#: Deviation of the numbers: products over some hundred to some thousand inputs are of order one.
SCALE = 1.0 / 32.0
#: Blocks begin at whole cache lines.
LINE_BYTES = 64


@dataclass(frozen=True, slots=True)
class PoolSize:
    """How large a pool is, and why.

    Parameters
    ----------
    bytes
        Of the pool.
    cache_bytes
        Of the last cache as the machine reports it; a virtual machine's share may be smaller.
    known
        Whether the machine reports one.
    """

    bytes: int
    cache_bytes: int
    known: bool = True

    @property
    def cold(self) -> bool:
        """Whether the pool is so much larger than the last cache that what is cut from it is not there."""
        return self.bytes >= CACHES * self.cache_bytes

    def __str__(self) -> str:
        cache = f"{self.cache_bytes / 2**20:.0f} MiB" + ("" if self.known else " (assumed)")
        verdict = "weights are cold" if self.cold else "weights may be warm, for want of memory"
        return f"pool of {self.bytes / 2**20:.0f} MiB, last cache of {cache}: {verdict}"


def choose(limit_bytes: int | None = None) -> PoolSize:
    """Size of the pool for this machine: twice its last cache, within limits.

    Parameters
    ----------
    limit_bytes
        Largest size; without it 1 GiB, and never more than a quarter of the free memory.
    """
    if limit_bytes is not None and limit_bytes < 2**20:
        raise ConfigError(Fault("too small a pool of weights", "memory limit", limit_bytes, ">= 1 MiB"))
    caches = caches_bytes()
    cache = max(caches.values(), default=UNKNOWN_CACHE_BYTES)
    limit = LARGEST_BYTES if limit_bytes is None else limit_bytes
    free = memory_bytes()["available"]
    if free is not None:
        limit = max(min(limit, int(FREE_PART * free)), 2**20)
    return PoolSize(min(max(int(CACHES * cache), SMALLEST_BYTES), limit), cache, bool(caches))


class Ring:
    """Part of a buffer that is cut up round and round.

    Parameters
    ----------
    begin, end
        In words of 2 bytes; both at whole cache lines.
    """

    def __init__(self, begin: int, end: int) -> None:
        self.begin, self.end = begin, end
        self._next = begin

    def cut(self, count: int, words: int) -> npt.NDArray[np.int64]:
        """Begin of so many blocks of so many words each, ``[count]``."""
        length = words_of(2 * words)
        if count and length > self.end - self.begin:
            size = 2 * (self.end - self.begin)
            raise ConfigError(
                Fault("an expert is larger than the pool of weights", "memory limit", size, f">= {4 * words}")
            )
        starts = np.empty(count, dtype=np.int64)
        for i in range(count):
            if self._next + length > self.end:
                self._next = self.begin
            starts[i] = self._next
            self._next += length
        return starts


def words_of(size_bytes: int) -> int:
    """Words of 2 bytes in the whole cache lines that so many bytes take."""
    return -(-size_bytes // LINE_BYTES) * (LINE_BYTES // 2)


def fill(words: Bits, seed: int = 0) -> None:
    """Fill with normal numbers that are good as bf16 and as float32.

    Every 16 bits are a number in bf16. Two of them are a float32 near the second one, the first being the
    lower bits of its mantissa.
    """
    rng = np.random.default_rng(seed)
    count = min(PERIOD, len(words))
    numbers = bf16_bits(rng.standard_normal(count, dtype=np.float32) * np.float32(SCALE))
    for start in range(0, len(words), count):
        words[start : start + count] = numbers[: len(words) - start]

"""Memory of a runner: weights at home, slots that missing experts are copied into, buffers of the layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from moesim.reference.cpu.backing import file_of
from moesim.reference.cpu.pool import Ring, fill, words_of
from moesim.reference.exact import Bits, Float32, LayerInputs
from moesim.reference.layer import IntArray, LayerShape


class Workspace:
    """Buffers that all cases of a runner share, as the layers of a model do; each grows to the largest."""

    def __init__(self) -> None:
        self._held: dict[str, Float32] = {}

    def take(self, name: str, *shape: int) -> Float32:
        """Buffer of this shape, holding what was left in it."""
        size = math.prod(shape)
        held = self._held.get(name)
        if held is None or held.size < size:
            # Written once, so that no page is missing when it is timed.
            held = self._held[name] = np.full(size, 0.0, np.float32)
        return held[:size].reshape(shape)


class Memory:
    """Words of 2 bytes: first the homes of weights, then slots.

    Experts with a place in fast memory run where their home is. The others are copied from their home, or
    from a file with the same content, into the next slot: slots are cut from a ring as homes are, so that
    what a copy overwrites is as cold as a victim would be.

    Parameters
    ----------
    home_words, slot_words
        Sizes of the two.
    write
        Fills the homes.
    places
        Begin of each expert, where a case has weights of its own; else each run takes what comes next.
    backing
        ``memory`` or ``file``: what missing experts are copied from.
    """

    def __init__(
        self,
        home_words: int,
        slot_words: int,
        write: Callable[[Bits], None],
        places: npt.NDArray[np.int64] | None = None,
        backing: str = "memory",
    ) -> None:
        self.words: Bits = np.empty(home_words + slot_words, np.uint16)
        write(self.words[:home_words])
        self._home, self._slots = Ring(0, home_words), Ring(home_words, home_words + slot_words)
        self._places, self._backing = places, backing
        self._file: BinaryIO | None = None
        self._ready = False

    def make_ready(self) -> None:
        """Have slots and the file, before the first copy is timed."""
        if not self._ready:
            self.words[self._slots.begin :] = 0
            if self._backing == "file":
                self._file = file_of(self.words[: self._home.end])
            self._ready = True

    @property
    def handle(self) -> int:
        """Of the file that missing experts are read from; -1 where they are copied from memory."""
        return -1 if self._file is None else self._file.fileno()

    def homes(self, runs: IntArray, words: int) -> npt.NDArray[np.int64]:
        """Begin of the weights of these experts, of so many words each."""
        return self._home.cut(len(runs), words) if self._places is None else self._places[runs]

    def slots(self, count: int, words: int) -> npt.NDArray[np.int64]:
        """Begin of so many slots."""
        return self._slots.cut(count, words)

    def close(self) -> None:
        """Give it back."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self.words = np.empty(0, np.uint16)


def pooled(size_bytes: int, backing: str) -> Memory:
    """A pool of random numbers, and half as much for slots.

    Half is enough: between two uses of a slot at least as many bytes are read from homes as are written to
    slots.
    """
    home = words_of(size_bytes)
    return Memory(home, words_of(size_bytes // 2), fill, None, backing)


def owned(given: LayerInputs, shape: LayerShape, spare: int, backing: str) -> Memory:
    """Weights of one case, and `spare` slots."""
    words = shape.params * (given.down.dtype.itemsize // 2)
    length = words_of(2 * words)
    experts = shape.num_experts

    def write(homes: Bits) -> None:
        for e, block in enumerate(homes.reshape(experts, length)):
            gate_up = np.ascontiguousarray(given.gate_up[e]).ravel().view(np.uint16)
            block[: len(gate_up)] = gate_up
            block[len(gate_up) : words] = np.ascontiguousarray(given.down[e]).ravel().view(np.uint16)

    places = np.arange(experts, dtype=np.int64) * length
    return Memory(experts * length, spare * length, write, places, backing)

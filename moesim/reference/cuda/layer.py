"""The layer's memory and kernels: from tokens to outputs without a word to the host."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError
from moesim.reference.cuda import routing
from moesim.reference.cuda.backend import Argument, Backend, Buffer, Launch, upload
from moesim.reference.cuda.compile import Program
from moesim.reference.cuda.layout import size_faults
from moesim.reference.cuda.variants import Variant, choose
from moesim.reference.layer import LayerShape

#: Parts whose sum a layer's ``experts`` are.
EXPERTS = ("permute", "up", "down")


@dataclass(frozen=True, slots=True)
class Pool:
    """Slots of fast memory, each for the weights of one expert.

    Parameters
    ----------
    w13
        Gate and up, interleaved: bf16 ``[slots, 2F, H]``.
    w2
        Down, bf16 ``[slots, H, F]``.
    """

    w13: Buffer
    w2: Buffer

    @classmethod
    def empty(cls, backend: Backend, slots: int, shape: LayerShape) -> Pool:
        """Room for so many experts."""
        hidden, width = shape.hidden, shape.width
        return cls(
            backend.empty((slots, 2 * width, hidden), np.uint16),
            backend.empty((slots, hidden, width), np.uint16),
        )

    def free(self, backend: Backend) -> None:
        """Give it back."""
        backend.free(self.w13)
        backend.free(self.w2)


@dataclass(frozen=True, slots=True)
class Tiles:
    """A list of tiles, made on the device.

    Parameters
    ----------
    slot_of_expert
        Whose tiles are on it: int32 ``[E]``; -1 for those that are not.
    tiles
        Slot, first row, end of the rows, expert: int32 ``[most, 4]``.
    number
        How many there are, int32 ``[1]``.
    """

    slot_of_expert: Buffer
    tiles: Buffer
    number: Buffer


def most_tiles(pairs: int, experts: int, rows: int) -> int:
    """Tiles that so many pairs can need, however they fall on experts.

    Notes
    -----
    ``sum ceil(n_e / rows) <= sum (n_e + rows - 1) / rows`` over experts with a token, of which there are at most
    ``min(experts, pairs)``; as each expert wastes less than a tile, the bound is ``pairs // rows`` and one for each.

    >>> most_tiles(16, 8, 128), most_tiles(4096, 8, 128)
    (8, 40)
    """
    return pairs // rows + min(experts, pairs)


class Workspace:
    """Memory between the kernels of layers of one shape and number of tokens; shared by layers that take turns.

    Parameters
    ----------
    backend
        The device.
    shape
        Of the layer.
    tokens
        In the batch.
    variant
        Of the experts' kernels; chosen from the mean number of tokens per expert if absent.

    Raises
    ------
    ConfigError
        If the layer's sizes do not suit the kernels.
    InfeasibleError
        If memory is short.
    """

    def __init__(
        self, backend: Backend, shape: LayerShape, tokens: int, variant: Variant | None = None
    ) -> None:
        if faults := size_faults(shape.hidden, shape.width):
            raise ConfigError(faults, shape.name)
        pairs = tokens * shape.top_k
        self.backend, self.shape, self.tokens, self.pairs = backend, shape, tokens, pairs
        self.variant = choose(pairs / shape.num_experts, backend.capability) if variant is None else variant
        self.most_tiles = most_tiles(pairs, shape.num_experts, self.variant.rows)
        self._held: list[Buffer] = []
        experts, k = shape.num_experts, shape.top_k
        self.logits = self.room((tokens, experts), np.float32)
        self.chosen = self.room((tokens, k), np.int32)
        self.chosen_weights = self.room((tokens, k), np.float32)
        self.sorting = {name: self.room(size, np.int32) for name, size in routing.scratch(pairs, experts).items()}
        self.place = self.room((tokens, k), np.int32)
        self.xp = self.room((pairs, shape.hidden), np.uint16)
        self.h = self.room((pairs, shape.width), np.uint16)
        self.y = self.room((pairs, shape.hidden), np.uint16)

    def room(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Buffer:
        """Memory that lives as long as this."""
        self._held.append(self.backend.empty(shape, dtype))
        return self._held[-1]

    def upload(self, array: npt.NDArray[Any]) -> Buffer:
        """An array in memory that lives as long as this."""
        self._held.append(upload(self.backend, array))
        return self._held[-1]

    def close(self) -> None:
        """Give all memory back."""
        while self._held:
            self.backend.free(self._held.pop())



"""The layer's memory and kernels: from tokens to outputs without a word to the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.reference.cuda.backend import Argument, Backend, Buffer, Launch, download
from moesim.reference.cuda.compile import Program
from moesim.reference.cuda.routing import PROGRAM_FILES, Routing, Step
from moesim.reference.cuda.variants import STEP, Variant, check_sizes, choose
from moesim.reference.layer import IntArray, LayerShape

Float32 = npt.NDArray[np.float32]

#: Parts of a layer, in order; its ``experts`` are those between the router's and the weighted sum.
EXPERTS = ("permute", "up", "down")
#: Part of each kernel around the experts.
_PART = {"router_logits": "router", "top_k": "top_k", "route_small": "top_k", "plan": "permute"}
_ROUTING = Program(PROGRAM_FILES)
#: What layers that take turns may share.
_SHARED = ("logits", "rank", "base", "counts", "offsets", "xp", "place", "y")


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
        w13 = backend.empty((slots, 2 * width, hidden), np.uint16)
        try:
            return cls(w13, backend.empty((slots, hidden, width), np.uint16))
        except BaseException:
            backend.free(w13)
            raise

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


class Arena:
    """Buffers that are given back together."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._held: list[Buffer] = []

    def room(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Buffer:
        """Memory with anything in it."""
        self._held.append(self.backend.empty(shape, dtype))
        return self._held[-1]

    def upload(self, array: npt.NDArray[Any]) -> Buffer:
        """Memory with an array in it."""
        buffer = self.room(array.shape, array.dtype)
        self.backend.copy(buffer, np.ascontiguousarray(array))
        self.backend.synchronize()
        return buffer

    def close(self) -> None:
        """Give all back."""
        while self._held:
            self.backend.free(self._held.pop())


class Workspace(Arena):
    """Memory between the kernels of layers of one shape and number of tokens; they take turns in it.

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
        super().__init__(backend)
        self.shape, self.tokens = shape, tokens
        mean = tokens * shape.top_k / shape.num_experts
        self.variant = choose(mean, backend.capability) if variant is None else variant
        self.routing = routing_of(shape, tokens, self.variant, backend.multiprocessors)
        arrays = self.routing.arrays()
        try:
            self.shared = {name: self.room(*arrays[name]) for name in _SHARED}
            self.shared["ticket"] = self.upload(np.zeros(1, np.uint32))
            self.h = self.room((self.routing.pairs, shape.width), np.uint16)
        except BaseException:
            self.close()
            raise


def layer_bytes(routing: Routing, width: int) -> int:
    """Device memory of a layer beside its experts: workspace, tokens and results.

    >>> layer_bytes(Routing(1, 8, 2, 64, rows=8, multiprocessors=1), width=64) < 4096
    True
    """
    arrays = [*routing.arrays().values(), ((routing.pairs, width), "uint16")]
    return sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in arrays)


def routing_of(shape: LayerShape, tokens: int, variant: Variant, multiprocessors: int) -> Routing:
    """Sizes of a batch.

    Raises
    ------
    ConfigError
        With everything that does not suit the kernels.

    >>> from moesim.reference.cuda.variants import VARIANTS
    >>> routing_of(LayerShape("odd", 8, 9, 100, 64), 4, VARIANTS[0], 1)
    Traceback (most recent call last):
    ...
    moesim.errors.ConfigError: odd: 2 faults
      top_k: the kernels do not take it (got 9); allowed: 1 to 16, and no more than experts
      hidden: the kernels do not take it (got 100); allowed: a multiple of 64
    """
    faults: list[Fault] = []
    try:
        made = Routing(
            tokens,
            shape.num_experts,
            shape.top_k,
            shape.hidden,
            rows=variant.rows,
            multiprocessors=multiprocessors,
            renormalise=shape.renormalise,
        )
    except ConfigError as error:
        faults += error.faults
    known = {fault.where for fault in faults}
    faults += [fault for fault in check_sizes(shape.hidden, shape.width) if fault.where not in known]
    if faults:
        raise ConfigError(faults, shape.name)
    return made


class Layer(Arena):
    """The kernels of one layer on one batch.

    Parameters
    ----------
    space
        Memory in between.
    x, router
        Tokens ``[T, H]`` and the router's weights ``[E, H]``, bf16.
    ids
        Experts of each token ``[T, k]``, instead of those that the router chooses: it chooses all the same.
    """

    def __init__(
        self, space: Workspace, x: npt.NDArray[Any], router: npt.NDArray[Any], ids: IntArray | None = None
    ) -> None:
        super().__init__(space.backend)
        self.space = space
        arrays = space.routing.arrays()
        try:
            self._arrays: dict[str, Argument] = {**space.shared, "null": np.uint64(0)}
            self._arrays |= {"x": self.upload(x), "router": self.upload(router)}
            if ids is not None:
                self._arrays["forced"] = self.upload(ids.astype(np.int32))
            self.ids, self.weights, self.out = (
                self.room(*arrays[name]) for name in ("ids", "weights", "out")
            )
            self._arrays |= {"ids": self.ids, "weights": self.weights, "out": self.out}
            self._before = space.routing.before(forced=ids is not None)
            self.all = self.tiles()
        except BaseException:
            self.close()
            raise

    def tiles(self) -> Tiles:
        """Room for a list of tiles; with expert e in slot e."""
        arrays = self.space.routing.arrays()
        slots = np.arange(self.space.shape.num_experts, dtype=np.int32)
        return Tiles(self.upload(slots), self.room(*arrays["tiles"]), self.room(*arrays["num_tiles"]))

    def parts(self, pool: Pool) -> dict[str, list[Launch]]:
        """All kernels of a layer, with expert e in slot e of the pool."""
        up, down = self.experts(self.all, pool)
        before = self.before()
        return {**before, "up": [up], "down": [down], "weighted_sum": [self.combine()]}

    def before(self) -> dict[str, list[Launch]]:
        """From tokens to sorted rows and the list of all tiles."""
        parts: dict[str, list[Launch]] = {"router": [], "top_k": [], "permute": []}
        for step in self._before:
            parts[_PART[step.kernel]].append(self._launch(step, self.all))
        parts["permute"].append(self._launch(self.space.routing.permute(), self.all))
        return parts

    def list_tiles(self, tiles: Tiles) -> Launch:
        """Another list of tiles of the same batch."""
        return self._launch(self.space.routing.list_tiles(), tiles)

    def experts(self, tiles: Tiles, pool: Pool) -> list[Launch]:
        """The two grouped products over a list of tiles: up to SwiGLU, and down."""
        shared, (hidden, width) = self.space.shared, (self.space.shape.hidden, self.space.shape.width)
        up = shared["xp"], pool.w13, self.space.h
        down = self.space.h, pool.w2, shared["y"]
        return [
            self._product("experts_up", up, tiles, 2 * width, hidden),
            self._product("experts_down", down, tiles, hidden, width),
        ]

    def combine(self) -> Launch:
        """Weighted sums of the experts' rows."""
        return self._launch(self.space.routing.combine(), self.all)

    def choose(self) -> tuple[IntArray, Float32]:
        """Run the router alone; ids and weights of each token, ``[T, k]``."""
        for launches in self.before().values():
            for launch in launches:
                self.backend.launch(launch)
        return download(self.backend, self.ids), download(self.backend, self.weights)

    def choose_instead(self, ids: IntArray) -> None:
        """Give other experts to each token, ``[T, k]``, of a layer that was given some."""
        forced = self._arrays["forced"]
        assert isinstance(forced, Buffer)
        self.backend.copy(forced, np.ascontiguousarray(ids, np.int32))
        self.backend.synchronize()

    def _launch(self, step: Step, tiles: Tiles) -> Launch:
        named = {"slot_of_expert": tiles.slot_of_expert, "tiles": tiles.tiles, "num_tiles": tiles.number}
        known = self._arrays | named
        args = tuple(known[arg] if isinstance(arg, str) else arg for arg in step.args)
        return Launch(_ROUTING, step.kernel, step.grid, step.threads, args, step.shared_bytes)

    def _product(self, kernel: str, operands: Sequence[Buffer], tiles: Tiles, n: int, k: int) -> Launch:
        variant = self.space.variant
        blocks = self.backend.multiprocessors * variant.blocks_per_sm
        blocks = min(blocks, variant.items(self.space.routing.max_tiles, n))
        tokens, weights, out = operands
        args: tuple[Argument, ...] = (tokens, weights)
        if variant.tensor_maps:
            boxes = (tokens, variant.row_box), (weights, variant.weight_box)
            args = tuple(self.backend.tensor_map(rows, box, STEP) for rows, box in boxes)
        program = Program((variant.source,), variant.defines, tensor=variant.tensor_maps)
        args = (*args, out, tiles.tiles, tiles.number, n, k)
        return Launch(program, kernel, max(blocks, 1), variant.threads, args, variant.smem_bytes)

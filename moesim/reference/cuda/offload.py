"""A layer with experts in the host's memory: copies run on their own stream beside the kernels.

What is copied into which slot is decided by the policy objects of the simulator (`moesim.reference.placed`);
here it is done. Experts that are there run while copies are under way, those that come run after theirs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from moesim.reference.cuda.backend import Backend, Event, Launch, Stream
from moesim.reference.cuda.layer import Layer, Pool, Tiles
from moesim.reference.cuda.layout import interleave
from moesim.reference.exact import LayerInputs
from moesim.reference.layer import IntArray, Timing

if TYPE_CHECKING:
    from moesim.reference.slots import Cell, Load, Round


class HostExperts:
    """Weights of all experts in page-locked memory, as they lie in a slot.

    Attributes
    ----------
    w13, w2
        bf16 ``[E, 2F, H]`` and ``[E, H, F]``.
    """

    def __init__(self, backend: Backend, given: LayerInputs) -> None:
        self._backend = backend
        self.w13 = backend.pinned(given.gate_up.shape, np.uint16)
        self.w2 = backend.pinned(given.down.shape, np.uint16)
        for expert, rows in enumerate(given.gate_up):
            self.w13[expert] = interleave(rows)
        self.w2[...] = given.down

    def close(self) -> None:
        """Give the memory back."""
        self._backend.release(self.w13)
        self._backend.release(self.w2)


class Offloaded:
    """Runs decisions on layers whose pool has fewer slots than they have experts.

    Parameters
    ----------
    layers
        In order; cell c of the decisions is of layer ``c % len(layers)``.
    hosts
        Where all experts of each are.
    pool
        As many slots as the decisions use, for all layers.

    Notes
    -----
    Two streams: kernels on the first, copies on the second. A copy waits for the kernels that read its slot;
    kernels of experts that come wait for their copies, after those of experts that are there. Ids come to the
    host before the first copy on demand, as a server could not know them earlier.
    """

    def __init__(self, layers: Sequence[Layer], hosts: Sequence[HostExperts], pool: Pool) -> None:
        self._backend = layers[0].space.backend
        self._layers, self._hosts, self._pool = layers, hosts, pool
        self._experts = layers[0].space.shape.num_experts
        self._copies: Stream = self._backend.stream()
        self._ids = [self._backend.pinned(layer.ids.shape, np.int32) for layer in layers]
        self._fixed = [(layer.before(), layer.combine()) for layer in layers]
        self._content = np.full(pool.w13.shape[0], -1, np.int64)
        self._lists: list[list[_List]] = [[] for _ in layers]
        self._events: dict[str, Event] = {}
        self._used: dict[int, Event] = {}
        self._pending: dict[int, int] = {}
        self._batches = 0

    def restore(self, resident: IntArray) -> None:
        """Bring experts where they are to lie before a run; not timed.

        Parameters
        ----------
        resident
            Slot of every expert of every layer, int32 ``[layers * E]``; -1: nowhere.
        """
        for expert, slot in enumerate(resident.ravel().tolist()):
            if slot >= 0 and self._content[slot] != expert:
                self._load(expert, slot)
        self._backend.synchronize()

    def run(self, cells: Sequence[Cell]) -> Timing:
        """Run cells one after the other, with the copies that were decided.

        Returns
        -------
        Timing
            Of all cells. Parts are of the last: ``experts`` holds waits for copies. ``copy``, beside kernels,
            is from the first copy of all to the end of the last.
        """
        backend = self._backend
        self._used, self._pending, self._batches = {}, {}, 0
        for number, cell in enumerate(cells):
            self._reserve(number % len(self._layers), 2 * len(cell.rounds) + 1)
        for load in cells[0].fill or ():
            self._load(load.expert, load.slot)
        backend.synchronize()
        start = self._event("start")
        backend.record(start)
        backend.wait(start, self._copies)
        self._begin(cells[0].ahead)
        for number, cell in enumerate(cells):
            self._cell(number % len(self._layers), cell)
            if number + 1 < len(cells):
                self._begin(cells[number + 1].ahead)
        backend.synchronize()
        marks = [self._event(name) for name in ("gate", "logits", "chosen", "experts", "end")]
        names = ("router", "top_k", "experts", "weighted_sum")
        pairs = itertools.pairwise(marks)
        parts = {name: backend.elapsed_s(*pair) for name, pair in zip(names, pairs, strict=True)}
        copies = self._event("first copy"), self._event(f"copied {self._batches}")
        parts["copy"] = backend.elapsed_s(*copies) if self._batches else 0.0
        return Timing(backend.elapsed_s(start, marks[-1]), parts)

    def close(self) -> None:
        """Give back what is not the layers'."""
        self._backend.synchronize()
        for array in (*self._ids, *(one.mask for lists in self._lists for one in lists)):
            self._backend.release(array)

    def _cell(self, place: int, cell: Cell) -> None:
        backend, layer, (before, combine) = self._backend, self._layers[place], self._fixed[place]
        gate, chosen = self._event("gate"), self._event("chosen")
        backend.record(gate)
        self._start(before["router"])
        backend.record(self._event("logits"))
        self._start(before["top_k"])
        backend.copy(self._ids[place], layer.ids)
        backend.record(chosen)
        self._start(before["permute"])
        if cell.rounds:
            backend.elapsed_s(gate, chosen)  # the host waits for the ids
        lists = 0
        for part in cell.rounds:
            self._begin(part.loads)
            for runs in self._groups(part):
                self._products(place, lists, runs, part.slot_of_expert)
                lists += 1
                done = self._event(f"done {place} {lists}")
                backend.record(done)
                self._used |= dict.fromkeys(part.slot_of_expert[runs].tolist(), done)
        backend.record(self._event("experts"))
        self._start([combine])
        backend.record(self._event("end"))

    def _groups(self, part: Round) -> Iterator[IntArray]:
        """Experts that are there; then those of each batch of copies, when that has been waited for."""
        batch = np.array([self._pending.get(slot, 0) for slot in part.slot_of_expert[part.runs].tolist()])
        for number in np.unique(batch).tolist():
            if number:
                self._backend.wait(self._event(f"copied {number}"))
                # Batches are copied in order: those before are there as well.
                self._pending = {slot: n for slot, n in self._pending.items() if n > number}
            yield part.runs[batch == number]

    def _begin(self, loads: Sequence[Load]) -> None:
        """Start a batch of copies."""
        if not loads:
            return
        if not self._batches:
            self._backend.record(self._event("first copy"), self._copies)
        self._batches += 1
        for load in loads:
            if load.slot in self._used:
                self._backend.wait(self._used[load.slot], self._copies)
            self._load(load.expert, load.slot, self._copies)
            self._pending[load.slot] = self._batches
        self._backend.record(self._event(f"copied {self._batches}"), self._copies)

    def _load(self, expert: int, slot: int, stream: Stream = None) -> None:
        place, row = divmod(expert, self._experts)
        pool, host = self._pool, self._hosts[place]
        self._backend.copy(pool.w13.rows(slot, slot + 1), host.w13[row : row + 1], stream)
        self._backend.copy(pool.w2.rows(slot, slot + 1), host.w2[row : row + 1], stream)
        self._content[slot] = expert

    def _reserve(self, place: int, number: int) -> None:
        """Room for lists of tiles: memory is not asked for while the clock runs."""
        layer, lists = self._layers[place], self._lists[place]
        while len(lists) < number:
            tiles = layer.tiles()
            mask = self._backend.pinned(tiles.slot_of_expert.shape, np.int32)
            lists.append(_List(tiles, mask, [layer.list_tiles(tiles), *layer.experts(tiles, self._pool)]))

    def _products(self, place: int, number: int, runs: IntArray, slot_of_expert: IntArray) -> None:
        """Products of these experts, whose tiles are listed first."""
        self._reserve(place, number + 1)
        one = self._lists[place][number]
        one.mask[:] = -1
        one.mask[runs] = slot_of_expert[runs]
        self._backend.copy(one.tiles.slot_of_expert, one.mask)
        self._start(one.launches)

    def _start(self, launches: Sequence[Launch]) -> None:
        for launch in launches:
            self._backend.launch(launch)

    def _event(self, name: str) -> Event:
        if name not in self._events:
            self._events[name] = self._backend.event()
        return self._events[name]


class _List(NamedTuple):
    """A list of tiles, its slots in page-locked memory, and the kernels that make and use it."""

    tiles: Tiles
    mask: npt.NDArray[np.int32]
    launches: list[Launch]

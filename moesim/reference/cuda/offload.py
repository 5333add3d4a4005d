"""A layer with experts in the host's memory: copies run on their own stream beside the kernels.

What is copied into which slot is decided by the policy objects of the simulator (`moesim.reference.placed`);
here it is done. Experts that are there run while copies are under way, those that come run after theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from moesim.reference.cuda.backend import Backend, Event, Launch, Stream
from moesim.reference.cuda.layer import Layer, Pool, Tiles
from moesim.reference.cuda.layout import interleave
from moesim.reference.exact import LayerInputs
from moesim.reference.layer import IntArray, Timing

Cell: TypeAlias = Any
Load: TypeAlias = Any


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


class OffloadedLayer:
    """Runs cells of decisions on a layer whose pool has fewer slots than there are experts.

    Parameters
    ----------
    layer
        The layer.
    pool
        As many slots as the decisions use.
    host
        Where all experts are.

    Notes
    -----
    Two streams: kernels on the first, copies on the second. A copy waits for the kernels of this run that
    read its slot; kernels of an expert that comes wait for the copies of their round. Ids come to the host
    before the first copy on demand, as a server could not know them earlier.
    """

    def __init__(self, layer: Layer, pool: Pool, host: HostExperts) -> None:
        self._layer, self._pool, self._host = layer, pool, host
        self._backend = layer.space.backend
        self._copies: Stream = self._backend.stream()
        self._ids = self._backend.pinned(layer.ids.shape, np.int32)
        self._content = np.full(pool.w13.shape[0], -1, np.int64)
        self._before, self._combine = layer.before(), layer.combine()
        self._lists: list[tuple[Tiles, npt.NDArray[Any], list[Launch]]] = []
        self._events: dict[str, Event] = {}

    def restore(self, resident: IntArray) -> None:
        """Bring experts where they are to lie before a run; not timed.

        Parameters
        ----------
        resident
            Slot of every expert, int32 ``[E]``; -1: nowhere.
        """
        for expert, slot in enumerate(resident.tolist()):
            if slot >= 0 and self._content[slot] != expert:
                self._load(expert, slot)
        self._backend.synchronize()

    def run(self, cell: Cell) -> Timing:
        """Run the layer once, with the copies that were decided.

        Returns
        -------
        Timing
            ``experts`` holds waits for copies; ``copy`` is from the first copy to the end of the last, beside
            kernels.
        """
        backend, layer = self._backend, self._layer
        self._reserve(2 * len(cell.rounds))
        for load in cell.fill:
            self._load(load.expert, load.slot)
        backend.synchronize()
        marks = [self._event(name) for name in ("start", "logits", "chosen")]
        backend.record(marks[0])
        backend.wait(marks[0], self._copies)
        first, last = self._event("first copy"), marks[0]
        backend.record(first, self._copies)
        pending = self._begin(cell.ahead, {})
        self._start(self._before["router"])
        backend.record(marks[1])
        self._start(self._before["top_k"])
        backend.copy(self._ids, layer.ids)
        backend.record(marks[2])
        self._start(self._before["permute"])
        backend.elapsed_s(marks[0], marks[2])  # the host waits for the ids
        if not cell.ahead:
            backend.record(first, self._copies)
        used: dict[int, Event] = {}
        lists = 0
        for number, part in enumerate(cell.rounds):
            pending |= self._begin(part.loads, used)
            copied = self._event(f"copied {number}")
            backend.record(copied, self._copies)
            last = copied if part.loads or cell.ahead else last
            slots = part.slot_of_expert[part.runs]
            late = np.isin(slots, list(pending))
            for index, runs in enumerate((part.runs[~late], part.runs[late])):
                if not len(runs):
                    continue
                if index:
                    backend.wait(copied)
                self._experts(lists, runs, part.slot_of_expert)
                lists += 1
                done = self._event(f"done {lists}")
                backend.record(done)
                used |= dict.fromkeys(part.slot_of_expert[runs].tolist(), done)
            pending.difference_update(slots[late].tolist())
        ends = [self._event(name) for name in ("experts", "end")]
        backend.record(ends[0])
        self._start([self._combine])
        backend.record(ends[1])
        backend.synchronize()
        times = [
            backend.elapsed_s(*pair) for pair in zip((*marks, ends[0]), (*marks[1:], *ends), strict=True)
        ]
        copy_s = 0.0 if last is marks[0] else backend.elapsed_s(first, last)
        names = ("router", "top_k", "experts", "weighted_sum")
        return Timing(
            backend.elapsed_s(marks[0], ends[1]),
            {**dict(zip(names, times, strict=True)), "copy": copy_s},
        )

    def close(self) -> None:
        """Give back what is not the workspace's."""
        self._backend.synchronize()
        for array in (self._ids, *(mask for _, mask, _ in self._lists)):
            self._backend.release(array)

    def _start(self, launches: Sequence[Launch]) -> None:
        for launch in launches:
            self._backend.launch(launch)

    def _begin(self, loads: Sequence[Load], used: dict[int, Event]) -> set[int]:
        """Start copies; the slots that they fill."""
        for load in loads:
            if load.slot in used:
                self._backend.wait(used[load.slot], self._copies)
            self._load(load.expert, load.slot, self._copies)
        return {load.slot for load in loads}

    def _load(self, expert: int, slot: int, stream: Stream = None) -> None:
        pool = self._pool
        self._backend.copy(pool.w13.rows(slot, slot + 1), self._host.w13[expert : expert + 1], stream)
        self._backend.copy(pool.w2.rows(slot, slot + 1), self._host.w2[expert : expert + 1], stream)
        self._content[slot] = expert

    def _reserve(self, lists: int) -> None:
        """Room for lists of tiles: memory is not asked for while the clock runs."""
        while len(self._lists) < lists:
            tiles = self._layer.tiles()
            mask = self._backend.pinned(tiles.slot_of_expert.shape, np.int32)
            launches = [self._layer.list_tiles(tiles), *self._layer.experts(tiles, self._pool)]
            self._lists.append((tiles, mask, launches))

    def _experts(self, number: int, runs: IntArray, slot_of_expert: IntArray) -> None:
        """Products of these experts, whose tiles are listed first."""
        tiles, mask, launches = self._lists[number]
        mask[:] = -1
        mask[runs] = slot_of_expert[runs]
        self._backend.copy(tiles.slot_of_expert, mask)
        self._start(launches)

    def _event(self, name: str) -> Event:
        if name not in self._events:
            self._events[name] = self._backend.event()
        return self._events[name]

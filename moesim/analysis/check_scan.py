"""One pass over a routing trace: everything the checks need to know of it, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from moesim.analysis.check_hash import Hashes, SetHash, mix
from moesim.analysis.check_sequences import Sequences, key_layers
from moesim.analysis.check_types import Example
from moesim.trace import count_ids

#: Tokens whose every layer is searched for periods.
WINDOW = 2**15
_BLOCK = 2**14


class Batch(Protocol):
    """Consecutive tokens: a `RoutingTrace` or a `TokenBatch`."""

    @property
    def topk_ids(self) -> npt.NDArray[np.unsignedinteger]: ...  # noqa: D102
    @property
    def request(self) -> npt.NDArray[np.int32]: ...  # noqa: D102
    @property
    def position(self) -> npt.NDArray[np.int32]: ...  # noqa: D102
    @property
    def phase(self) -> npt.NDArray[np.int8]: ...  # noqa: D102
    @property
    def token_id(self) -> npt.NDArray[np.int32] | None: ...  # noqa: D102


class Scan:
    """Examine tokens in file order.

    Parameters
    ----------
    layer_ids
        Decoder index of each layer.
    num_experts
        Experts per layer; ids beyond are counted apart, in `beyond`.
    top_k
        Experts per token.

    Attributes
    ----------
    counts
        Selections of each expert, int64 ``[layers, num_experts]``.
    beyond
        Selections of each id that is no expert, int64 ``[layers]`` by id.
    duplicates
        Rows that name an expert twice, int64 ``[layers]``; tokens of padding do not count.
    constant
        Whether every token chose the same experts, bool ``[layers]``.
    padding
        Tokens that are zero in every layer and slot.
    leading
        Tokens at the start of the file that are the same in every layer.
    leading_requests
        Requests these tokens are of. First tokens of different requests may well be the same.
    """

    def __init__(self, layer_ids: Sequence[int], num_experts: int, top_k: int) -> None:
        layers = len(layer_ids)
        self.layer_ids, self.num_experts, self.top_k = tuple(layer_ids), num_experts, top_k
        self.tokens = self.padding = self.leading = 0
        self.counts = np.zeros((layers, num_experts), np.int64)
        self.beyond: dict[int, npt.NDArray[np.int64]] = {}
        self.duplicates = np.zeros(layers, np.int64)
        self.constant = np.ones(layers, bool)
        self.first_row: npt.NDArray[np.unsignedinteger] | None = None
        self.examples: dict[str, Example] = {}
        self.duplicate_examples: dict[int, Example] = {}
        self.sequences = Sequences()
        self._hash = SetHash(layers)
        self.leading_requests: set[int] = set()
        self._keys: list[int] = []
        self._window: list[Hashes] = []
        self._places: list[npt.NDArray[np.int64]] = []
        self._requests: list[npt.NDArray[np.int32]] = []

    def add(self, batch: Batch) -> None:
        """Examine the next tokens."""
        for start in range(0, len(batch.request), _BLOCK):
            rows = slice(start, start + _BLOCK)
            token_id = None if batch.token_id is None else batch.token_id[rows]
            self._block(
                batch.topk_ids[rows], batch.request[rows], batch.position[rows], batch.phase[rows], token_id
            )

    def window(self) -> tuple[Hashes, npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Hashes ``[tokens, layers]``, requests and places of the first tokens."""
        if not self._window:
            return np.zeros((0, len(self.layer_ids)), np.uint64), np.zeros(0, np.int32), np.zeros(0, np.int64)
        return np.concatenate(self._window), np.concatenate(self._requests), np.concatenate(self._places)

    def _block(
        self,
        ids: npt.NDArray[np.unsignedinteger],
        request: npt.NDArray[np.int32],
        position: npt.NDArray[np.int32],
        phase: npt.NDArray[np.int8],
        token_id: npt.NDArray[np.int32] | None,
    ) -> None:
        def example(token: int, layer: int | None = None, value: object = "") -> Example:
            decoder = None if layer is None else self.layer_ids[layer]
            return Example(int(request[token]), int(position[token]), decoder, str(value))

        ordered = np.sort(ids, axis=2)
        self._count(ids, ordered, example)
        self._repeats(ids, ordered, example)
        self._leading(ordered, request)
        room = max(0, WINDOW - self.tokens)
        wide = self._hash.each(ids[:room]) if room else None
        if token_id is not None:
            key = mix(token_id.astype(np.uint64))
        else:
            if not self._keys:
                self._keys = self._choose_keys(ordered)
            key = self._hash.joint(self._hash.each(ids[:, self._keys]))
        places = self.sequences.add(key, request, position, phase)
        if wide is not None:
            self._window.append(wide)
            self._places.append(places[:room])
            self._requests.append(request[:room])
        self.tokens += len(ids)

    def _choose_keys(self, ordered: npt.NDArray[np.unsignedinteger]) -> list[int]:
        """The first layers in which tokens differ; dense layers tell nothing apart."""
        needed = key_layers(len(self.layer_ids), self.num_experts, self.top_k)
        differ = np.flatnonzero((ordered != ordered[0]).any(axis=(0, 2))).tolist()
        return (differ or list(range(needed)))[:needed]

    def _count(self, ids: Any, ordered: Any, example: Any) -> None:  # noqa: ANN401 - arrays and a closure
        if int(ordered[:, :, -1].max()) < self.num_experts:
            self.counts += count_ids(ids, self.num_experts)
            return
        clipped = np.minimum(ids.astype(np.int64), self.num_experts)
        self.counts += count_ids(clipped, self.num_experts + 1)[:, :-1]
        token, layer, slot = np.nonzero(ids >= self.num_experts)
        strange = ids[token, layer, slot].astype(np.int64)
        self.examples.setdefault("beyond", example(token[0], layer[0], f"id {strange[0]}"))
        pairs, times = np.unique(np.stack([strange, layer]), axis=1, return_counts=True)
        for (expert, row), n in zip(pairs.T.tolist(), times.tolist(), strict=True):
            self.beyond.setdefault(expert, np.zeros(len(self.layer_ids), np.int64))[row] += n

    def _repeats(self, ids: Any, ordered: Any, example: Any) -> None:  # noqa: ANN401 - arrays and a closure
        if self.top_k < 2:
            return
        twice = (ordered[:, :, 1:] == ordered[:, :, :-1]).any(axis=2)
        if not twice.any():
            return
        blank = ~ordered[:, :, -1].any(axis=1)
        if blank.any():
            self.padding += int(blank.sum())
            self.examples.setdefault("padding", example(int(np.argmax(blank))))
            twice &= ~blank[:, None]
        self.duplicates += twice.sum(axis=0)
        for layer in np.flatnonzero(twice.any(axis=0)).tolist():
            token = int(np.argmax(twice[:, layer]))
            if layer not in self.duplicate_examples:
                self.duplicate_examples[layer] = example(token, layer, ids[token, layer].tolist())

    def _leading(self, ordered: Any, request: npt.NDArray[np.int32]) -> None:  # noqa: ANN401 - an array
        if self.first_row is None:
            self.first_row = ordered[0].copy()
        going, was = self.leading == self.tokens, self.constant.copy()
        if not (going or was.any()):
            return
        same = (ordered == self.first_row).all(axis=2)
        self.constant &= same.all(axis=0)
        if going:
            whole = same.all(axis=1)
            more = len(whole) if whole.all() else int(np.argmin(whole))
            self.leading += more
            self.leading_requests.update(request[:more].tolist())

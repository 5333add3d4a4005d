"""Rows of (request, token, layer, experts), as line formats hold them, turned into tokens.

Rows may come in any order and some may be missing: a missing row is a hole, which
`moesim.trace.assemble.routing_trace` drops with its token, and counts.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault, TraceError
from moesim.trace.assemble import Origin
from moesim.trace.json_text import is_whole, short
from moesim.trace.limits import MAX_BYTES, size_fault
from moesim.trace.schema import MAX_EXPERTS, MAX_LAYERS, MAX_TOP_K
from moesim.trace.tokens import Tokens

_SHOWN = 5
_CHECK_EVERY = 65536
#: So many identical tokens at the start are a warm-up of the engine, not text.
DUMMY_RUN = 4


class RowTable:
    """Collects rows in a few bytes each.

    Parameters
    ----------
    path
        The file, for messages.
    """

    def __init__(self, path: object) -> None:
        self._path = path
        self._requests: dict[Hashable, int] = {}
        self._request, self._token, self._layer = array("i"), array("i"), array("i")
        self._ids, self._weights = array("i"), array("f")
        self._phase = array("b")
        self._top_k: int | None = None
        self._weighted = self._phased = True
        self._faults: list[Fault] = []
        self._wrong = 0

    def __len__(self) -> int:
        return len(self._layer)

    def add(
        self,
        where: str,
        request: Hashable,
        token: object,
        layer: object,
        ids: object,
        weights: object = None,
        phase: object = None,
    ) -> None:
        """Add a row; what is wrong with it is kept for `tokens` to raise."""
        fault = self._fault(where, token, layer, ids, weights)
        if fault is not None:
            self._wrong += 1
            if len(self._faults) < _SHOWN:
                self._faults.append(fault)
            return
        number = self._requests.setdefault(request, len(self._requests))
        self._request.append(number)
        self._token.append(token)  # type: ignore[arg-type]
        self._layer.append(layer)  # type: ignore[arg-type]
        self._ids.extend(ids)  # type: ignore[arg-type]
        self._weighted = self._weighted and weights is not None
        if self._weighted:
            self._weights.extend(weights)  # type: ignore[arg-type]
        self._phased = self._phased and is_whole(phase, 0, 1)
        if self._phased:
            self._phase.append(phase)  # type: ignore[arg-type]
        if len(self) % _CHECK_EVERY == 0:
            # Pivoting takes about as much again.
            held = len(self) * (16 + 8 * (self._top_k or 0))
            if size_fault(held, "the rows", MAX_BYTES // 2):
                raise TraceError(size_fault(2 * held, "the rows") or "", self._path)

    def _fault(self, where: str, token: object, layer: object, ids: object, weights: object) -> Fault | None:
        if not is_whole(token):
            return Fault("is no index of a token", f"{where}, token", short(token))
        if not is_whole(layer, 0, MAX_LAYERS - 1):
            return Fault("is no layer", f"{where}, layer", short(layer), f"0 to {MAX_LAYERS - 1}")
        if not isinstance(ids, list | tuple) or not 0 < len(ids) <= MAX_TOP_K:
            return Fault("is no list of experts", f"{where}, experts", short(ids))
        if not all(is_whole(i, -1, MAX_EXPERTS - 1) for i in ids):
            return Fault(
                "is no list of expert ids", f"{where}, experts", short(ids), f"0 to {MAX_EXPERTS - 1}"
            )
        if self._top_k is None:
            self._top_k = len(ids)
        if len(ids) != self._top_k:
            return Fault(f"has {len(ids)} experts, the first row has {self._top_k}", where)
        if weights is None:
            return None
        if not isinstance(weights, list | tuple) or len(weights) != len(ids):
            return Fault("is no list of as many weights", f"{where}, weights", short(weights))
        if not all(type(w) in (int, float) and abs(w) < 65504 for w in weights):
            return Fault("is no list of weights", f"{where}, weights", short(weights), "finite numbers")
        return None

    def tokens(self, origin: Origin, phase: int | None = None, drop_dummies: bool = False) -> Tokens:
        """The rows as tokens, in order inside each request; requests in order of appearance.

        Parameters
        ----------
        origin
            What the file says; layers are those of the rows unless it names them.
        phase
            The phase of all, if the format has but one and the rows do not say.
        drop_dummies
            Whether identical tokens at the very start are a warm-up to be left out.

        Raises
        ------
        TraceError
            Naming the first wrong rows, a row that is there twice, or a table with too many holes.
        """
        faults = list(self._faults)
        if self._wrong > _SHOWN:
            faults.append(Fault(f"{self._wrong - _SHOWN} more such faults"))
        if not faults and not len(self):
            faults.append(Fault("holds no row of routing"))
        if faults:
            raise TraceError(faults, self._path)
        k = self._top_k or 0
        layer = np.frombuffer(self._layer, np.int32)
        key = np.frombuffer(self._request, np.int32).astype(np.int64) << 31
        key |= np.frombuffer(self._token, np.int32)
        layers, column = np.unique(layer, return_inverse=True)
        keys, row = np.unique(key, return_inverse=True)
        cells = len(keys) * len(layers)
        # A token far from complete in most layers means that the rows are no table at all.
        if cells > 4 * len(self) + 4096:
            what = f"has {len(self)} rows for {len(keys)} tokens in {len(layers)} layers"
            raise TraceError(Fault(what, allowed="a row for most tokens in most layers"), self._path)
        fault = size_fault(cells * k * (4 + 2 * self._weighted), "the table")
        if fault:
            raise TraceError(fault, self._path)
        place = row.astype(np.int64) * len(layers) + column
        self._raise_doubles(place, cells)
        ids = _placed(np.frombuffer(self._ids, np.int32), place, cells, k, -1, np.int32)
        weights = None
        if self._weighted:
            given = np.frombuffer(self._weights, np.float32).astype(np.float16)
            weights = _placed(given, place, cells, k, 0, np.float16).reshape(len(keys), len(layers), k)
        phases = np.full(len(keys), phase, np.int8) if phase is not None else None
        if self._phased:
            phases = np.zeros(len(keys), np.int8)
            phases[row] = np.frombuffer(self._phase, np.int8)
        ids = ids.reshape(len(keys), len(layers), k)
        skip = _dummies(ids) if drop_dummies else 0
        notes = origin.warnings
        if skip == len(ids):
            raise TraceError(Fault("holds nothing but identical tokens, as a warm-up does"), self._path)
        if skip:
            notes = (*notes, f"dropped {skip} identical tokens at the start: a warm-up of the engine")
        part = slice(skip, None)
        return Tokens(
            ids=ids[part],
            origin=Origin(
                path=origin.path,
                model=origin.model,
                num_experts=origin.num_experts,
                layer_ids=tuple(layers.tolist()),
                source=origin.source,
                licence=origin.licence,
                warnings=notes,
                metadata=origin.metadata,
            ),
            request=(keys >> 31)[part] - (keys[skip] >> 31),
            position=(keys & (2**31 - 1))[part],
            phase=None if phases is None else phases[part],
            weights=None if weights is None else weights[part],
        )

    def _raise_doubles(self, place: npt.NDArray[np.int64], cells: int) -> None:
        times = np.bincount(place, minlength=cells)
        doubled = int((times > 1).sum())
        if doubled:
            first = int(np.flatnonzero(times[place] > 1)[0])
            where = f"token {self._token[first]}, layer {self._layer[first]}"
            raise TraceError(
                Fault(f"is there {int(times[place[first]])} times ({doubled} such rows)", where), self._path
            )


def _placed(
    values: npt.NDArray[Any],
    place: npt.NDArray[np.int64],
    cells: int,
    k: int,
    empty: int,
    dtype: type[np.generic],
) -> npt.NDArray[Any]:
    table = np.full((cells, k), empty, dtype)
    table[place] = values.reshape(-1, k)
    return table


def _dummies(ids: npt.NDArray[Any]) -> int:
    """How many tokens at the start are identical, if more than chance."""
    differs = np.flatnonzero((ids != ids[0]).any(axis=(1, 2)))
    run = int(differs[0]) if len(differs) else len(ids)
    return run if run >= DUMMY_RUN else 0


def number_or_text(value: object) -> Hashable:
    """A JSON value as part of the key of a request."""
    return value if isinstance(value, str | int | float | None) else repr(value)


def keyed(row: dict[str, Any], names: Sequence[str]) -> Hashable:
    """The values of some fields, as the key of a request."""
    return tuple(number_or_text(row.get(name)) for name in names)

"""Launches of everything around the experts: router, choice, plan, permutation, sum.

Their sizes, grids and arguments are written down here only. The kernels are in ``kernels/``: ``route.cuh``
(logits, best experts), ``plan.cuh`` (rows by expert, tiles), ``permute.cuh``, ``combine.cuh``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moesim.errors import ConfigError, Fault

#: Files of the program, one for all sizes.
PROGRAM_FILES = ("route.cuh", "plan.cuh", "permute.cuh", "combine.cuh")
#: What the kernels are written for (`LANE_EXPERTS`, a lane for each choice, `ROUTER_STEP`).
MAX_EXPERTS, MAX_TOP_K, HIDDEN_STEP = 512, 16, 64
_TILE = 64  # tokens and experts of a block of the router (ROUTER_TILE)
_ROUTER_THREADS, _ROUTER_SHARED = 128, 3 * 2 * 64 * 64 * 2  # stages, operands, rows, columns, bytes of bf16
_MOST_SLABS = 8  # as many as are read at once
_SMALL_TOKENS = 8  # a warp of route_small for each
_TOP_K_THREADS = 128
_MOVE_THREADS, _MOVE_AHEAD = 256, 4
_PIECE = 8  # bf16 values that are moved together, 16 bytes


@dataclass(frozen=True, slots=True)
class Step:
    """One launch.

    Parameters
    ----------
    kernel
        Its name.
    grid, threads
        Blocks, and threads of each.
    shared_bytes
        Of dynamic shared memory.
    args
        In the kernel's order: names of arrays, and 32-bit integers. ``null`` is a null pointer.
    """

    kernel: str
    grid: int
    threads: int
    shared_bytes: int
    args: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Routing:
    """Sizes of one batch.

    Parameters
    ----------
    tokens, num_experts, top_k, hidden
        The batch and the layer.
    rows
        Of a tile of the experts' products.
    multiprocessors
        Of the GPU, which few tokens are spread over.
    renormalise
        Whether the weights of the chosen experts sum to one.

    Examples
    --------
    >>> r = Routing(tokens=128, num_experts=128, top_k=8, hidden=2816, rows=16, multiprocessors=132)
    >>> r.pairs, r.chunks, r.max_tiles, r.slabs
    (1024, 1, 184, 8)
    >>> [(step.kernel, step.grid) for step in (*r.before(), r.permute(), r.combine())]
    [('router_logits', 32), ('top_k', 32), ('plan', 1), ('permute', 176), ('combine', 176)]
    """

    tokens: int
    num_experts: int
    top_k: int
    hidden: int
    rows: int
    multiprocessors: int
    renormalise: bool = True

    def __post_init__(self) -> None:
        limits = [
            ("tokens", self.tokens, self.tokens >= 1, "at least 1"),
            ("num_experts", self.num_experts, 1 <= self.num_experts <= MAX_EXPERTS, f"1 to {MAX_EXPERTS}"),
            (
                "top_k",
                self.top_k,
                1 <= self.top_k <= min(MAX_TOP_K, self.num_experts),
                f"1 to {MAX_TOP_K}, and no more than experts",
            ),
            (
                "hidden",
                self.hidden,
                self.hidden >= 1 and not self.hidden % HIDDEN_STEP,
                f"a multiple of {HIDDEN_STEP}",
            ),
        ]
        faults = [
            Fault("the kernels do not take it", name, value, allowed)
            for name, value, fine, allowed in limits
            if not fine
        ]
        if faults:
            raise ConfigError(faults)

    @property
    def pairs(self) -> int:
        """Of tokens and experts, which is the number of rows that experts work on."""
        return self.tokens * self.top_k

    @property
    def slabs(self) -> int:
        """Parts of the hidden size that the router multiplies side by side; their sums are added in order."""
        tiles = -(-self.tokens // _TILE) * -(-self.num_experts // _TILE)
        steps = self.hidden // HIDDEN_STEP
        wanted = min(_MOST_SLABS, max(1, 2 * self.multiprocessors // tiles), max(1, steps // 2))
        return -(-steps // -(-steps // wanted))  # no slab is empty

    @property
    def chunk(self) -> int:
        """Pairs that one block ranks: its threads."""
        return 256 if self.pairs <= 256 else 1024

    @property
    def chunks(self) -> int:
        """Blocks that rank pairs."""
        return -(-self.pairs // self.chunk)

    @property
    def max_tiles(self) -> int:
        """No routing has more tiles: each expert that is hit has at most one that is not full."""
        hit = min(self.num_experts, self.pairs)
        return (self.pairs - hit) // self.rows + hit

    def arrays(self) -> Mapping[str, tuple[tuple[int, ...], str]]:
        """Shape and type of every array that the steps name. ``ticket`` is 0 before the first step."""
        tokens, experts, k, hidden = self.tokens, self.num_experts, self.top_k, self.hidden
        return {
            "x": ((tokens, hidden), "uint16"),
            "router": ((experts, hidden), "uint16"),
            "logits": ((self.slabs, tokens, -(-experts // 4) * 4), "float32"),
            "forced": ((tokens, k), "int32"),
            "ids": ((tokens, k), "int32"),
            "weights": ((tokens, k), "float32"),
            "slot_of_expert": ((experts,), "int32"),
            "rank": ((self.pairs,), "int32"),
            "base": ((self.chunks, experts), "int32"),
            "counts": ((experts,), "int32"),
            "offsets": ((experts + 1,), "int32"),
            "tiles": ((self.max_tiles, 4), "int32"),
            "num_tiles": ((1,), "int32"),
            "ticket": ((1,), "uint32"),
            "xp": ((self.pairs, hidden), "uint16"),
            "place": ((tokens, k), "int32"),
            "y": ((self.pairs, hidden), "uint16"),
            "out": ((tokens, hidden), "uint16"),
        }

    def before(self, *, forced: bool = False) -> tuple[Step, ...]:
        """From tokens to the plan: two launches for few tokens, three else.

        Parameters
        ----------
        forced
            Whether the array ``forced`` holds the experts of each token: the choice is then made and set
            aside.
        """
        tokens, experts, k = self.tokens, self.num_experts, self.top_k
        given = "forced" if forced else "null"
        tiles = -(-tokens // _TILE) * -(-experts // _TILE)
        logits = Step(
            "router_logits",
            self.slabs * tiles,
            _ROUTER_THREADS,
            _ROUTER_SHARED,
            ("x", "router", "logits", tokens, self.hidden, experts, self.slabs),
        )
        by_warp = self.chunk // 32 * experts * 2
        planned = ("rank", "base", "counts", "offsets", "tiles", "num_tiles")
        choice = (tokens, experts, k, self.slabs, int(self.renormalise))
        if tokens <= _SMALL_TOKENS:
            args = ("logits", given, "ids", "weights", "slot_of_expert", *planned, *choice, self.rows)
            return logits, Step("route_small", 1, self.chunk, by_warp, args)
        best = Step(
            "top_k",
            -(-tokens * 32 // _TOP_K_THREADS),
            _TOP_K_THREADS,
            0,
            ("logits", given, "ids", "weights", *choice),
        )
        sorting = ("ids", "slot_of_expert", *planned, "ticket", self.pairs, experts, self.rows)
        return logits, best, Step("plan", self.chunks, self.chunk, by_warp, sorting)

    def list_tiles(self) -> Step:
        """The tiles anew, after ``slot_of_expert`` has changed."""
        args = ("offsets", "slot_of_expert", "tiles", "num_tiles", self.num_experts, self.rows)
        return Step("list_tiles", 1, 512, 0, args)

    def permute(self) -> Step:
        """Rows of ``x`` to ``xp``."""
        pieces, grid, slots = self._moved()
        sizes = (self.tokens, self.hidden, self.num_experts, self.top_k, self.chunk, pieces)
        return Step(
            "permute", grid, _MOVE_THREADS, 4 * slots, ("x", "ids", "rank", "base", "xp", "place", *sizes)
        )

    def combine(self) -> Step:
        """Rows of ``y`` to ``out``."""
        pieces, grid, slots = self._moved()
        args = ("y", "place", "ids", "slot_of_expert", "weights", "out")
        sizes = (self.tokens, self.hidden, self.top_k, pieces)
        return Step("combine", grid, _MOVE_THREADS, 8 * slots, (*args, *sizes))

    def _moved(self) -> tuple[int, int, int]:
        """Pieces of a block, blocks, and pairs whose rows a block looks up, for kernels that move rows."""
        wide = self.hidden // _PIECE
        total = self.tokens * wide
        many = total >= 2 * _MOVE_AHEAD * _MOVE_THREADS * self.multiprocessors
        pieces = _MOVE_THREADS * (_MOVE_AHEAD if many else 1)
        return pieces, -(-total // pieces), (pieces // wide + 2) * self.top_k

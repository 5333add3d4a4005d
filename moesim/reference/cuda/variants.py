"""Which kernels multiply tokens by experts: tile sizes, and the rule that chooses among them.

The rule knows only what the host knows before a layer runs, the mean number of tokens per expert, so that
nothing has to be read back from the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

from moesim.errors import Fault

#: Elements of k in one step of a kernel's ring; a row of a step is 128 bytes.
STEP = 64
#: Widths must be multiples of this: rows of 16-bit elements start at multiples of 16 bytes.
GRANULE = 8
#: Dynamic shared memory that a block of compute capability 9.0 can have: 227 KB (CUDA C++ Programming Guide,
#: "Technical Specifications per Compute Capability").
_HOPPER_BYTES = 227 * 1024
#: The same of the smallest devices since 8.0 (8.6, 8.9, 12.0): 99 KB; the mma kernels stay below it.
_SMALLEST_BYTES = 99 * 1024
#: Standard deviations of room above the mean tokens of an expert: with Poisson counts at most 1 % of the
#: experts need a second tile.
_ROOM = 2.5


@dataclass(frozen=True, slots=True)
class Variant:
    """One compiled form of the kernels ``experts_up`` and ``experts_down``.

    Parameters
    ----------
    name
        ``FAMILY_ROWSxCOLUMNS`` or, with weights on the 64-row side of wgmma, ``sm90_swap_ROWS``.
    source
        File of the kernels' folder.
    defines
        Macros.
    arch
        Targets it is compiled for, as NVRTC spells them; code for ``sm_90a`` runs on 9.0 only.
    threads, smem_bytes
        Of a block.
    blocks_per_sm
        That should run at once on a multiprocessor; blocks walk over tiles until none is left.
    rows, columns
        Of a tile: tokens, and rows of an expert's weights (gate and up rows both count).
    swap
        Whether weights are the 64-row side of the tensor core.
    tensor_maps
        Whether tokens and weights are given as tensor maps (else as pointers).
    """

    name: str
    source: str
    defines: tuple[tuple[str, int], ...]
    arch: tuple[str, ...]
    threads: int
    smem_bytes: int
    blocks_per_sm: int
    rows: int
    columns: int
    swap: bool = False
    tensor_maps: bool = False

    @property
    def row_box(self) -> int:
        """Rows of the box of the token side's tensor map; its other side is `STEP`."""
        return self.rows

    @property
    def weight_box(self) -> int:
        """Rows of the box of the weights' tensor map; its other side is `STEP`."""
        return self.columns

    def max_tiles(self, pairs: int, experts: int) -> int:
        """Largest number of tiles that so many (token, expert) pairs can make, however they are routed.

        >>> by_name("mma_16x128").max_tiles(pairs=100, experts=8)
        13
        """
        experts = min(experts, pairs)
        return experts + (pairs - experts) // self.rows

    def items(self, max_tiles: int, n: int) -> int:
        """Pieces of work of a product with ``n`` weight rows per expert: tiles by columns of tiles."""
        return max_tiles * -(-n // self.columns)


def _sm90(rows: int, columns: int, swap: bool = False) -> Variant:
    stage_bytes = (rows + columns) * STEP * 2
    stages = (_HOPPER_BYTES - 1024) // (stage_bytes + 16)  # two barriers for each stage
    # Two warpgroups hold rows x columns sums in fp32: from 64 registers on, the third gives up its own.
    registers = 232 if rows * columns >= 128 * 128 else 0
    return Variant(
        name=f"sm90_swap_{rows}" if swap else f"sm90_{rows}x{columns}",
        source="gemm_sm90.cuh",
        defines=(
            ("BM", rows),
            ("BN", columns),
            ("STAGES", stages),
            ("SWAP", int(swap)),
            ("REGISTERS", registers),
        ),
        arch=("sm_90a",),
        threads=384,
        smem_bytes=stages * (stage_bytes + 16),
        blocks_per_sm=1,
        rows=rows,
        columns=columns,
        swap=swap,
        tensor_maps=True,
    )


def _mma(rows: int, columns: int, warps: tuple[int, int], stages: int, blocks_per_sm: int) -> Variant:
    smem_bytes = stages * (rows + columns) * STEP * 2
    assert smem_bytes <= _SMALLEST_BYTES
    return Variant(
        name=f"mma_{rows}x{columns}",
        source="gemm_mma.cuh",
        defines=(
            ("BM", rows),
            ("BN", columns),
            ("STAGES", stages),
            ("WARPS_M", warps[0]),
            ("WARPS_N", warps[1]),
        ),
        arch=("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"),
        threads=32 * warps[0] * warps[1],
        smem_bytes=smem_bytes,
        blocks_per_sm=blocks_per_sm,
        rows=rows,
        columns=columns,
    )


VARIANTS = (
    _sm90(8, 128, swap=True),
    _sm90(16, 128, swap=True),
    _sm90(32, 128, swap=True),
    _sm90(64, 128, swap=True),
    _sm90(64, 128),
    _sm90(64, 256),
    _sm90(128, 128),
    _sm90(128, 256),
    _mma(16, 128, (1, 4), stages=4, blocks_per_sm=2),
    _mma(64, 128, (2, 2), stages=3, blocks_per_sm=2),
    _mma(128, 128, (2, 4), stages=3, blocks_per_sm=1),
)


def by_name(name: str) -> Variant:
    """The variant of that name.

    >>> by_name("sm90_128x256").smem_bytes
    196672
    """
    return next(variant for variant in VARIANTS if variant.name == name)


def _fits(rows: int) -> float:
    """Largest mean count m with m + _ROOM sqrt(m) <= rows."""
    return ((sqrt(_ROOM**2 + 4 * rows) - _ROOM) / 2) ** 2


#: For Hopper, then for all others: variants, each with the largest mean tokens per expert it is chosen for.
#: Few tokens: reading the weights is what takes the time, so the smallest tile that holds nearly every
#: expert's tokens. Many: the largest tile, for it moves the fewest bytes into shared memory per product (a
#: step of 128 x 256 brings 48 KB, one of 64 x 256 40 KB for half the work). Between: with 64 rows less of a
#: tile is empty. These are reasons, not measurements: of a calibrated device, its tile law has the costs.
_HOPPER = (
    *((f"sm90_swap_{rows}", _fits(rows)) for rows in (8, 16, 32, 64)),
    ("sm90_64x256", 96.0),
    ("sm90_128x256", inf),
)
_OTHERS = (("mma_16x128", _fits(16)), ("mma_64x128", 96.0), ("mma_128x128", inf))


def bounds(capability: tuple[int, int]) -> tuple[tuple[Variant, float], ...]:
    """Variants for a device in the order of their largest mean tokens per expert, which stands beside each.

    >>> [(variant.name, round(most, 1)) for variant, most in bounds((8, 0))]
    [('mma_16x128', 8.6), ('mma_64x128', 96.0), ('mma_128x128', inf)]
    """
    rule = _HOPPER if capability == (9, 0) else _OTHERS
    return tuple((by_name(name), most) for name, most in rule)


def choose(tokens_per_expert: float, capability: tuple[int, int]) -> Variant:
    """Variant for a layer.

    Parameters
    ----------
    tokens_per_expert
        Mean over all experts: tokens x top_k / experts.
    capability
        Compute capability of the device; 8.0 or newer.

    Examples
    --------
    >>> choose(0.06, (9, 0)).name, choose(8, (9, 0)).name, choose(256, (9, 0)).name, choose(256, (12, 0)).name
    ('sm90_swap_8', 'sm90_swap_16', 'sm90_128x256', 'mma_128x128')
    """
    return next(variant for variant, most in bounds(capability) if tokens_per_expert <= most)


def arch_of(variant: Variant, capability: tuple[int, int]) -> str:
    """Target to compile a variant for on a device.

    >>> arch_of(by_name("sm90_swap_8"), (9, 0)), arch_of(by_name("mma_16x128"), (8, 9))
    ('sm_90a', 'sm_89')
    """
    return "sm_90a" if variant.tensor_maps else f"sm_{capability[0]}{capability[1]}"


def check_sizes(hidden: int, width: int) -> Sequence[Fault]:
    """What is wrong with a layer's sizes for these kernels.

    >>> [str(fault) for fault in check_sizes(2880, 2884)]
    ['width: not a size that the kernels can take (got 2884); allowed: a positive multiple of 8']
    """
    return [
        Fault("not a size that the kernels can take", name, size, f"a positive multiple of {GRANULE}")
        for name, size in (("hidden", hidden), ("width", width))
        if size < 1 or size % GRANULE
    ]

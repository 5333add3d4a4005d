"""What is run to calibrate a GPU: layers made so that each tells one thing about its grouped GEMMs.

Wave curves and tiles against inputs have one expert, so that hardly any weights cross the memory; layers of
many experts with few tokens each are the opposite. Skew changes the histogram and nothing else. Rows to be
sorted and added up have experts too small to matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, isqrt

import numpy as np

from moesim.calibrate.reference.design import ids_of
from moesim.hardware.tiles import Tile
from moesim.reference.cuda.variants import Variant
from moesim.reference.layer import Case, IntArray, LayerShape

#: Experts' sizes are multiples of this.
UNIT = 64


@dataclass(frozen=True, slots=True)
class Point:
    """One layer to time.

    Parameters
    ----------
    aim
        What it tells: ``inputs``, ``waves``, ``experts``, ``skew``, ``moves`` or ``anchor``.
    case
        The layer.
    counts
        Tokens of each expert; None for rows of `top_k` experts drawn at random.
    tile
        Configuration that it is run with, whatever the mean; None for the one that is chosen.
    """

    aim: str
    case: Case
    counts: tuple[int, ...] | None = None
    tile: str | None = None

    def ids(self) -> IntArray:
        """Experts of each token, int32 ``[tokens, top_k]``, in random order."""
        shape, rng = self.case.shape, np.random.default_rng(self.case.seed)
        if self.aim == "anchor" and self.counts is not None:
            return ids_of(self.counts, shape.top_k)
        if self.counts is None:
            scores = rng.random((self.case.tokens, shape.num_experts), dtype=np.float32)
            return np.argpartition(scores, shape.top_k - 1, axis=1)[:, : shape.top_k].astype(np.int32)
        experts = np.repeat(np.arange(shape.num_experts, dtype=np.int32), self.counts)
        return rng.permutation(experts)[:, None]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large everything is; the defaults are for a data-centre GPU and take some minutes.

    Parameters
    ----------
    inputs
        K of tiles.
    waves
        Waves that wave curves reach, and points on each.
    experts
        Experts, hidden size and width of layers whose weights cross the memory.
    per_expert
        Mean tokens per expert of these.
    hit
        Experts with one token each, of the same layers, the others without.
    most_pairs
        No layer has more pairs.
    skews
        Exponents of popularity; infinity for all tokens at one expert.
    skew_per_expert
        Mean tokens per expert of skewed layers, which are of the first of `experts`.
    moves
        Experts, experts per token and hidden size of layers that only move rows.
    tokens
        Of these.
    memory_bytes
        Blocks that are read, written and copied.
    transfer_bytes
        Blocks that are copied from and to the host.
    launches
        Empty kernels in a row.
    rounds
        Times that everything is run.
    """

    inputs: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192)
    waves: tuple[int, int] = (4, 14)
    experts: tuple[tuple[int, int, int], ...] = ((64, 2048, 1152), (128, 1024, 512), (16, 4096, 4096))
    per_expert: tuple[int, ...] = (1, 4, 8, 16, 32, 64, 128, 192, 256, 512, 2048)
    hit: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    most_pairs: int = 65536
    skews: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, inf)
    skew_per_expert: tuple[int, ...] = (4, 64, 512)
    moves: tuple[tuple[int, int, int], ...] = ((8, 2, 4096), (64, 8, 2048), (128, 8, 1024), (256, 4, 3072))
    tokens: tuple[int, ...] = (1, 4, 16, 64, 256, 1024, 4096, 16384)
    memory_bytes: tuple[int, ...] = tuple(1 << n for n in range(20, 33))
    transfer_bytes: tuple[int, ...] = tuple(1 << n for n in range(12, 29, 2))
    launches: int = 200
    rounds: int = 5


#: As small as an emulation bears: what it measures means nothing, that it runs does.
TINY = Sizes(
    inputs=(64,),
    waves=(1, 2),
    experts=((4, 64, 64),),
    per_expert=(1,),
    hit=(1,),
    skews=(inf,),
    skew_per_expert=(4,),
    moves=((4, 2, 64), (8, 1, 128)),
    tokens=(1, 9),
    memory_bytes=(1 << 12, 1 << 14),
    transfer_bytes=(1 << 10, 1 << 12, 1 << 14),
    launches=3,
    rounds=2,
)


def configurations(rule: Sequence[tuple[Variant, float]]) -> tuple[Tile, ...]:
    """What a rule chooses from, before anything is known of it.

    Parameters
    ----------
    rule
        As `moesim.reference.cuda.variants.bounds` gives it.
    """
    return tuple(Tile(v.name, v.rows, v.columns, 0.5, 0.0, 0.0, most) for v, most in rule)


def points(tiles: Sequence[Tile], cores: int, sizes: Sizes) -> list[Point]:
    """Everything that is run.

    Parameters
    ----------
    tiles
        Configurations.
    cores
        Tiles worked on at once.
    sizes
        How large.
    """
    made: list[Point] = []
    for tile in {t.name: t for t in tiles}.values():
        made += [*_against_inputs(tile, cores, sizes), *_waves(tile, cores, sizes)]
    return [*made, *_experts(sizes), *_skews(sizes), *_moves(sizes), *_anchors(sizes)]


def _against_inputs(tile: Tile, cores: int, sizes: Sizes) -> Iterator[Point]:
    """One tile for every core, in as square a rectangle as there is."""
    across = isqrt(cores)
    width = _whole(across * tile.columns / 2)
    tokens = cores // across * tile.rows
    for hidden in sizes.inputs:
        shape = LayerShape(f"{tile.name}-k{hidden}", 1, 1, hidden, width)
        yield Point("inputs", Case(shape, tokens, dtype="bf16"), (tokens,), tile.name)


def _waves(tile: Tile, cores: int, sizes: Sizes) -> Iterator[Point]:
    """From one row of tiles to some waves."""
    across = 8
    most, number = sizes.waves
    hidden = sizes.inputs[len(sizes.inputs) // 2]
    shape = LayerShape(f"{tile.name}-waves", 1, 1, hidden, _whole(across * tile.columns / 2))
    for rows in np.unique(np.linspace(1, max(most * cores / across, 2), number).round()):
        tokens = int(rows) * tile.rows
        yield Point("waves", Case(shape, tokens, dtype="bf16"), (tokens,), tile.name)


def _experts(sizes: Sizes) -> Iterator[Point]:
    for experts, hidden, width in sizes.experts:
        shape = LayerShape(f"experts-{experts}-{hidden}-{width}", experts, 1, hidden, width)
        for each in sizes.per_expert:
            if each * experts <= sizes.most_pairs:
                yield Point("experts", Case(shape, each * experts, dtype="bf16"), (each,) * experts)
        for hit in sizes.hit:
            if hit < experts:
                counts = (1,) * hit + (0,) * (experts - hit)
                yield Point("experts", Case(shape, hit, dtype="bf16"), counts)


def _skews(sizes: Sizes) -> Iterator[Point]:
    experts, hidden, width = sizes.experts[0]
    shape = LayerShape(f"experts-{experts}-{hidden}-{width}", experts, 1, hidden, width)
    for each in sizes.skew_per_expert:
        for skew in sizes.skews:
            tokens = each * experts
            yield Point("skew", Case(shape, tokens, dtype="bf16"), _skewed(tokens, experts, skew))


def _skewed(tokens: int, experts: int, skew: float) -> tuple[int, ...]:
    """Tokens drawn by experts whose popularity falls as rank to the power of `skew`."""
    if skew == inf:
        return (tokens, *(0,) * (experts - 1))
    share = np.arange(1.0, experts + 1) ** -skew
    drawn = np.random.default_rng(tokens).multinomial(tokens, share / share.sum())
    return tuple(int(n) for n in drawn)


def _moves(sizes: Sizes) -> Iterator[Point]:
    for experts, top_k, hidden in sizes.moves:
        shape = LayerShape(f"moves-{experts}-{top_k}-{hidden}", experts, top_k, hidden, UNIT)
        for tokens in sizes.tokens:
            yield Point("moves", Case(shape, tokens, dtype="bf16"))


def _anchors(sizes: Sizes) -> Iterator[Point]:
    """Whole layers that are run again when the file is validated: they tell how the machine has changed."""
    experts, hidden, width = sizes.experts[0]
    shape = LayerShape(f"anchor-{experts}-{hidden}-{width}", experts, min(8, experts), hidden, width)
    for tokens in sizes.tokens[len(sizes.tokens) // 4 :: 2]:
        each, more = divmod(tokens * shape.top_k, experts)
        counts = tuple(each + (expert < more) for expert in range(experts))
        yield Point("anchor", Case(shape, tokens, dtype="bf16"), counts)


def _whole(width: float) -> int:
    return max(-(-int(width) // UNIT), 1) * UNIT

"""Run the calibration set, and put its times into the terms of the cost model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from moesim.calibrate.reference.cuda_ceilings import Told, silent
from moesim.calibrate.reference.cuda_set import Point
from moesim.calibrate.reference.cuda_waves import Products
from moesim.calibrate.rows import Array, IntArray, Rows
from moesim.cost.expert_gemm import ExpertShape
from moesim.cost.waves import moved_bytes, product_bytes, products
from moesim.errors import InfeasibleError
from moesim.hardware.tiles import Tile
from moesim.hardware.types import Device
from moesim.ops.primitives import gemm, top_k, weighted_sum
from moesim.ops.table import Op
from moesim.reference.layer import LayerShape, Runner
from moesim.reference.protocol import Floor, aa_floor, measure

DTYPE, BACKEND = "bf16", "reference"

#: Makes a runner that uses one configuration, or chooses if none is named.
MakeRunner = Callable[[str | None], Runner]
#: Parts of a layer that do not overlap.
PARTS = ("router", "top_k", "permute", "up", "down", "weighted_sum")


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Times of one point.

    Parameters
    ----------
    point
        What was run.
    counts
        Tokens of each expert, ``[experts]``.
    seconds
        Of the whole layer.
    parts
        Of its parts. An event between two kernels costs a little time: what the parts take together beyond
        the whole is taken off each alike.
    """

    point: Point
    counts: IntArray
    seconds: float
    parts: dict[str, float]

    @property
    def shape(self) -> LayerShape:
        """Sizes of the layer."""
        return self.point.case.shape

    @property
    def expert(self) -> ExpertShape:
        """Sizes of one expert."""
        return ExpertShape(self.shape.hidden, self.shape.width, 3, DTYPE)

    @property
    def pairs(self) -> int:
        """Tokens times experts per token."""
        return int(self.counts.sum())


def run_points(
    points: Sequence[Point], make: MakeRunner, rounds: int, told: Told = silent, seed: int = 0
) -> tuple[list[Run], Floor]:
    """Run all points, those of one shape and configuration in interleaved rounds.

    Parameters
    ----------
    points
        What to run.
    make
        Makes runners.
    rounds
        Times that each is run, after one that does not count.
    told
        Called before each group.
    seed
        Of the order.

    Returns
    -------
    list of Run
        In the order of the groups; without those that do not fit in memory.
    Floor
        How far two equal measurements are apart.
    """
    groups = _groups(points)
    runs: list[Run] = []
    kept: list[Array] = []
    for number, (tile, members) in enumerate(groups):
        told(f"layers {number + 1}/{len(groups)}: {members[0].case.shape.name}")
        with ExitStack() as stack:
            runner = make(tile)
            stack.callback(getattr(runner, "close", lambda: None))
            prepared = []
            fitting = []
            for point in members:
                try:
                    prepared.append(runner.prepare(point.case, point.ids()))
                except InfeasibleError as error:
                    told(f"left out: {point.case.name}: {error}")
                    continue
                fitting.append(point)
                stack.callback(prepared[-1].close)
            if not fitting:
                continue
            found = measure(prepared, rounds, seed)
            kept.append(found.seconds)
            for i, (point, one) in enumerate(zip(fitting, prepared, strict=True)):
                parts = {name: float(np.median(found.parts[name][:, i])) for name in PARTS}
                whole = float(np.median(found.seconds[:, i]))
                runs.append(Run(point, np.array(one.counts), whole, _without_events(parts, whole)))
    return runs, aa_floor(np.concatenate(kept, axis=1))


def _without_events(parts: dict[str, float], whole: float) -> dict[str, float]:
    """Parts that add up to the whole, none less than half of what it took.

    >>> {name: round(1e6 * s, 3) for name, s in _without_events({"up": 6e-6, "down": 4e-6}, 9e-6).items()}
    {'up': 5.5, 'down': 3.5}
    """
    each = (sum(parts.values()) - whole) / len(parts)
    return {name: max(seconds - each, seconds / 2) for name, seconds in parts.items()}


def _groups(points: Iterable[Point]) -> list[tuple[str | None, list[Point]]]:
    """Points by configuration and shape: their weights are in memory together."""

    def key(point: Point) -> tuple[str, str]:
        return point.tile or "", point.case.shape.name

    return [
        (tile or None, list(members))
        for (tile, _), members in itertools.groupby(sorted(points, key=key), key=key)
    ]


def tile_numbers(runs: Sequence[Run], tiles: Sequence[Tile]) -> IntArray:
    """Configuration that each run had: the one it was given, or that of its mean."""
    names = {tile.name: i for i, tile in enumerate(tiles)}
    limits = [tile.most for tile in tiles[:-1]]
    return np.array(
        [
            int(np.searchsorted(limits, run.counts.mean()))
            if run.point.tile is None
            else names[run.point.tile]
            for run in runs
        ],
        dtype=np.int64,
    )


def product_rows(runs: Sequence[Run], tiles: Sequence[Tile], device: Device) -> Products:
    """The two products of every run, a row each; rows of one run are left out together."""
    processor, cores = device.processor, device.processor.cores or 1
    peak = processor.peak_flops_per_s[DTYPE]
    bandwidth = processor.bandwidth_bytes_per_s[device.memory.name]
    made: list[tuple[float, ...]] = []
    for group, (run, number) in enumerate(zip(runs, tile_numbers(runs, tiles), strict=True)):
        tile, hit = tiles[number], float((run.counts > 0).sum())
        row_tiles = float(np.ceil(run.counts / tile.rows).sum())
        for part, (inputs, outputs, stored) in zip(("up", "down"), products(run.expert), strict=True):
            waves = float(np.ceil(row_tiles * np.ceil(outputs / tile.columns) / cores))
            data = float(product_bytes(np.array(run.pairs), np.array(hit), inputs, outputs, stored, DTYPE))
            roof = max(2.0 * run.pairs * inputs * outputs / peak, data / bandwidth)
            made.append((number, waves, inputs, data, roof, run.parts[part], group))
    table = np.array(made).T
    tile_of, *one, roof_s, seconds, groups = table
    waves_of, inputs_of, data_of = (column[:, None] for column in one)
    zero = np.zeros(len(made))
    return Products(
        tile_of.astype(np.int64), waves_of, inputs_of, data_of, zero, roof_s, seconds, groups.astype(np.int64)
    )


def moves_of(runs: Sequence[Run]) -> tuple[Array, Array]:
    """Bytes of the rows that are sorted, and seconds, of every run."""
    data = [float(moved_bytes(np.array(run.pairs), run.shape.hidden, DTYPE)) for run in runs]
    return np.array(data), np.array([run.parts["permute"] for run in runs])


def surface_rows(runs: Sequence[Run], version: str) -> Iterator[Rows]:
    """Runs in the terms of measured kernels: products, top-k and the weighted sum.

    A product is the router's, or gate and up of a layer with one expert: few outputs, or many.
    """
    one = [run for run in runs if run.shape.num_experts == 1]

    def tokens(run: Run) -> float:
        return float(run.point.case.tokens)

    ops: dict[str, list[tuple[Op, float]]] = {
        "gemm": [
            *(
                (
                    gemm("router", tokens(run), run.shape.hidden, run.shape.num_experts, DTYPE),
                    run.parts["router"],
                )
                for run in runs
                if run.shape.num_experts > 1
            ),
            *(
                (gemm("gemm", tokens(run), run.shape.hidden, 2 * run.shape.width, DTYPE), run.parts["up"])
                for run in one
            ),
        ],
        "top_k": [
            (top_k(tokens(run), run.shape.num_experts, run.shape.top_k), run.parts["top_k"]) for run in runs
        ],
        "weighted_sum": [
            (weighted_sum(tokens(run), run.shape.hidden, run.shape.top_k), run.parts["weighted_sum"])
            for run in runs
        ],
    }
    for kernel, measured in ops.items():
        sizes = [op.shape.sizes for op, _ in measured if op.shape is not None]
        flops, data, seconds = (
            np.array([float(np.asarray(x)) for x in column])
            for column in zip(*((op.flops, op.bytes, s) for op, s in measured), strict=True)
        )
        yield Rows(
            kernel,
            DTYPE,
            BACKEND,
            version,
            DTYPE,
            "gemm" if kernel == "gemm" else "elementwise",
            np.array([[float(np.asarray(s)) for s in row] for row in sizes]),
            flops,
            data,
            seconds,
            np.full(len(measured), -1),
        )

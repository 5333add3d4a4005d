"""A GPU whose physics is known: streams with a clock of their own, and layers that follow a planted law."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from types import SimpleNamespace
from typing import Any

import numpy as np

from moesim.hardware.tiles import Tile
from moesim.reference.cuda.backend import Buffer, Launch
from moesim.reference.layer import Case, Timing

CORES, PEAK, BANDWIDTH, CLOCK_KHZ = 100, 8e14, 4e12, 2_000_000
LAUNCH_S, SORTING = 2e-6, 3
LINK_S, LINK_BYTES_PER_S = 1.2e-5, 5e10
TILES = (
    Tile("swap-16", 16, 128, compute=0.30, fill_s=0.4e-6, drain_s=1.5e-6, most=10.0),
    Tile("tall-64", 64, 128, compute=0.55, fill_s=0.7e-6, drain_s=2.0e-6, most=64.0),
    Tile("square-128", 128, 256, compute=0.82, fill_s=1.1e-6, drain_s=2.5e-6),
)
#: What calibration may know of them.
UNKNOWN = tuple(Tile(t.name, t.rows, t.columns, 0.5, 0.0, 0.0, t.most) for t in TILES)


def share(size: float) -> float:
    """Of the bandwidth, by bytes: 40 % at 1 MB, 90 % from 100 MB on."""
    return float(np.interp(np.log(size), np.log([1e6, 1e8]), [0.4, 0.9]))


def product_s(counts: Sequence[int], outputs: int, inputs: int, stored: int, tile: Tile) -> float:
    """One grouped product, with nothing but loops."""
    pairs, hit = sum(counts), sum(n > 0 for n in counts)
    tiles = sum(ceil(n / tile.rows) for n in counts) * ceil(outputs / tile.columns)
    one = tile.fill_s + 2 * tile.rows * tile.columns * inputs / (tile.compute * PEAK / CORES)
    data = 2 * (hit * inputs * outputs + pairs * (inputs + stored))
    return LAUNCH_S + max(ceil(tiles / CORES) * one + tile.drain_s, data / (BANDWIDTH * share(data)))


def parts_s(case: Case, counts: Sequence[int], tile: Tile) -> dict[str, float]:
    """Seconds of the kernels of a layer."""
    shape, pairs = case.shape, sum(counts)
    H, F, E, T = shape.hidden, shape.width, shape.num_experts, case.tokens
    return {
        "router": LAUNCH_S + 2 * (T * H + E * H + T * E) / (0.3 * BANDWIDTH),
        "top_k": LAUNCH_S + 4 * T * E / (0.2 * BANDWIDTH),
        "permute": SORTING * LAUNCH_S + pairs * H * 4 / (0.7 * BANDWIDTH),
        "up": product_s(counts, 2 * F, H, F, tile),
        "down": product_s(counts, H, F, H, tile),
        "weighted_sum": LAUNCH_S + 2 * (pairs + T) * H / (0.8 * BANDWIDTH),
    }


def tile_of(counts: Sequence[int]) -> Tile:
    """The rule of the planted GPU."""
    mean = sum(counts) / len(counts)
    return next(tile for tile in TILES if mean <= tile.most)


@dataclass
class PlantedLayer:
    """A prepared case."""

    case: Case
    counts: Any
    tile: Tile
    noise: Callable[[], float]
    loads: int = 0

    def run(self) -> Timing:
        """Parts with noise; the whole is a little less than their sum, as on a device."""
        parts = {
            name: s * self.noise() for name, s in parts_s(self.case, self.counts.tolist(), self.tile).items()
        }
        experts = parts["permute"] + parts["up"] + parts["down"]
        return Timing(
            sum(parts.values()), {name: s + 1e-6 for name, s in parts.items()} | {"experts": experts}
        )

    def launches(self) -> list[Launch]:
        """One kernel."""
        return [Launch(None, "experts_up", 1, 1, ())]  # type: ignore[arg-type]

    def output(self) -> Any:
        """Nothing is computed."""
        raise AssertionError

    def close(self) -> None:
        """Nothing to give back."""


@dataclass
class PlantedRunner:
    """Runs layers on the planted GPU.

    Parameters
    ----------
    sigma
        Of the logarithm of noise.
    tile
        Configuration for all layers, or None to choose.
    """

    sigma: float = 0.0
    tile: str | None = None
    device: str = "planted"
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def prepare(self, case: Case, ids: Any = None) -> PlantedLayer:
        """Count."""
        assert ids.shape == (case.tokens, case.shape.top_k)
        counts = np.bincount(ids.ravel(), minlength=case.shape.num_experts)
        tile = next((t for t in TILES if t.name == self.tile), None) or tile_of(counts.tolist())
        return PlantedLayer(case, counts, tile, lambda: float(np.exp(self.rng.normal(0.0, self.sigma))))


class PlantedBackend:
    """Streams, copies and kernels that take planted time; the host has a clock too (`perf_counter`)."""

    emulated = False
    name = "Planted GPU"
    capability = (9, 0)
    multiprocessors = CORES
    l2_bytes = 50_000_000

    def __init__(self) -> None:
        self.host_s = 0.0
        self.at: dict[Any, float] = {None: 0.0}
        self.locked: set[int] = set()
        self.used = 0

    # --- memory ---
    def memory(self) -> tuple[int, int]:
        return 80_000_000_000 - self.used, 80_000_000_000

    def empty(self, shape: Sequence[int], dtype: Any) -> Buffer:
        buffer = Buffer(1 << 20, tuple(shape), np.dtype(dtype))
        self.used += buffer.nbytes
        return buffer

    def free(self, buffer: Buffer) -> None:
        self.used -= buffer.nbytes

    def pinned(self, shape: Sequence[int], dtype: Any) -> Any:
        array = np.empty(tuple(shape), dtype)
        self.locked.add(array.ctypes.data)
        return array

    def release(self, array: Any) -> None:
        self.locked.remove(array.ctypes.data)

    # --- work ---
    def _add(self, stream: Any, seconds: float) -> None:
        self.at[stream] = max(self.at[stream], self.host_s) + seconds

    def copy(self, to: Any, source: Any, stream: Any = None) -> None:
        array = source if isinstance(to, Buffer) else to
        slow = 1.0 if array.ctypes.data in self.locked else 3.0
        self._add(stream, LINK_S + slow * array.nbytes / LINK_BYTES_PER_S)

    def fill(self, buffer: Buffer, byte: int = 0, stream: Any = None) -> None:
        pass

    def launch(self, launch: Launch, stream: Any = None) -> None:
        kinds = {"read_bytes": (0, 1), "write_bytes": (0, 1), "copy_bytes": (0, 2)}
        seconds = LAUNCH_S if launch.kernel != "experts_up" else 1e-3
        if launch.kernel in kinds:
            moved = kinds[launch.kernel][1] * launch.args[0].nbytes  # type: ignore[union-attr]
            seconds += moved / (0.9 * BANDWIDTH)
        self._add(stream, seconds)

    def stream(self) -> object:
        key = object()
        self.at[key] = 0.0
        return key

    def event(self) -> SimpleNamespace:
        return SimpleNamespace(at=0.0)

    def record(self, event: Any, stream: Any = None, *, external: bool = False) -> None:
        del external
        event.at = max(self.at[stream], self.host_s)

    def wait(self, event: Any, stream: Any = None) -> None:
        self.at[stream] = max(self.at[stream], event.at)

    def elapsed_s(self, start: Any, end: Any) -> float:
        return float(end.at - start.at)

    def synchronize(self) -> None:
        self.host_s = max(self.host_s, *self.at.values())

    def perf_counter(self) -> float:
        return self.host_s

    def capture(self, body: Callable[[Any], None]) -> Any:
        return SimpleNamespace(launch=lambda stream=None: body(stream), close=lambda: None)

    def facts(self) -> dict[str, object]:
        # 4,096 FLOP a clock would be the peak of 8.192e14; the memory's clock and width make 4 TB/s.
        return {
            "name": self.name,
            "capability": [9, 0],
            "multiprocessors": CORES,
            "memory_bytes": 80_000_000_000,
            "clock_khz": CLOCK_KHZ,
            "memory_clock_khz": 2_000_000,
            "memory_bus_bits": 8000,
        }

    def close(self) -> None:
        pass

"""How runs are timed so that a machine that changes under them does the least harm.

All cases are run once a round, in another random order every round: slow spells fall on all of them, and what
is compared is compared inside a round. The same case in odd and in even rounds tells how far apart two equal
measurements are (the A/A floor): no error below it means anything.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moesim.reference.layer import Prepared, Timing

Array = npt.NDArray[np.float64]
#: Told how many runs are done, and of how many.
Progress = Callable[[int, int], None]

#: Median A/A noise above which a comparison says nothing.
INCONCLUSIVE = 0.10
#: Fewest rounds that can be compared with each other.
FEWEST = 2


@dataclass(frozen=True, slots=True)
class Floor:
    """Distance of equal measurements: of ``|ln(odd rounds / even rounds)|`` over cases.

    Parameters
    ----------
    median, p95
        Quantiles; fractions.
    """

    median: float
    p95: float

    @property
    def conclusive(self) -> bool:
        """Whether the machine was quiet enough for a comparison to mean anything."""
        return self.median <= INCONCLUSIVE


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Times of a set of cases.

    Parameters
    ----------
    seconds
        ``[rounds, cases]``, with the clock of the runner.
    wall_s
        ``[rounds, cases]`` by the clock on the wall; nan where a runner does not tell.
    parts
        Seconds by part, each ``[rounds, cases]``; 0 where a run has no such part.
    floor
        A/A noise.
    timings
        Everything that the runs returned, by round and case.
    """

    seconds: Array
    wall_s: Array
    parts: dict[str, Array]
    floor: Floor
    timings: tuple[tuple[Timing, ...], ...] = field(repr=False)

    @property
    def rounds(self) -> int:
        """How many."""
        return len(self.seconds)

    @property
    def conclusive(self) -> bool:
        """Whether the machine was quiet enough."""
        return self.floor.conclusive

    @property
    def paired_floor(self) -> Floor:
        """A/A noise without what all cases of a round share, which cancels where rounds are compared."""
        return aa_floor(self.seconds / self.drift[:, None])

    @property
    def drift(self) -> Array:
        """Speed of each round: the median over cases of seconds to the case's own median, ``[rounds]``."""
        return np.asarray(np.exp(np.median(np.log(self.seconds / self.medians()), axis=1)))

    def medians(self) -> Array:
        """Over rounds, ``[cases]``."""
        return np.asarray(np.median(self.seconds, axis=0))


def measure(
    prepared: Sequence[Prepared],
    rounds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
    limit_s: float | None = None,
    warm_up: int = 1,
) -> Measured:
    """Time all cases in interleaved rounds of random order.

    Parameters
    ----------
    prepared
        The cases.
    rounds
        How often each is timed.
    seed
        Of the orders.
    progress
        Called after every run, warm-up included.
    limit_s
        No round begins that would, by the slowest so far, end later than this after the start; at least
        `FEWEST` are made.
    warm_up
        Runs of each case before the rounds, not kept.
    """
    start = time.monotonic()
    rng = np.random.default_rng(seed)
    total, done = (rounds + warm_up) * len(prepared), 0
    kept: list[tuple[Timing, ...]] = []
    slowest = 0.0
    with _without_garbage_collection():
        for number in range(warm_up + rounds):
            begun = time.monotonic()
            if limit_s is not None and len(kept) >= FEWEST and begun - start + slowest > limit_s:
                break
            timings: dict[int, Timing] = {}
            for i in rng.permutation(len(prepared)).tolist():
                timings[i] = prepared[i].run()
                done += 1
                if progress is not None:
                    progress(done, total)
            if number >= warm_up:
                kept.append(tuple(timings[i] for i in range(len(prepared))))
                slowest = max(slowest, time.monotonic() - begun)
    return measured(kept)


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """A collection takes as long as a layer, and would fall on any of them."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def measured(timings: Sequence[Sequence[Timing]]) -> Measured:
    """Tables of timings ``[rounds][cases]``."""
    names = dict.fromkeys(name for row in timings for one in row for name in one.parts)
    seconds = np.array([[one.seconds for one in row] for row in timings], dtype=np.float64)
    wall_s = np.array([[getattr(one, "wall_s", np.nan) for one in row] for row in timings], dtype=np.float64)
    parts = {
        name: np.array([[one.parts.get(name, 0.0) for one in row] for row in timings], dtype=np.float64)
        for name in names
    }
    return Measured(seconds, wall_s, parts, aa_floor(seconds), tuple(tuple(row) for row in timings))


def aa_floor(seconds: Array) -> Floor:
    """Noise between equal measurements: medians of odd and of even rounds of each case.

    Parameters
    ----------
    seconds
        ``[rounds, cases]``; fewer than two rounds know of no noise, which is reported as infinite.
    """
    if len(seconds) < FEWEST or not seconds.shape[1]:
        return Floor(float("inf"), float("inf"))
    odd, even = np.median(seconds[::2], axis=0), np.median(seconds[1::2], axis=0)
    apart = np.abs(np.log(odd / even))
    return Floor(float(np.median(apart)), float(np.quantile(apart, 0.95)))


def paired_log_ratio(predicted: Array, measured: Array) -> Array:
    """Median over rounds of ``ln(predicted / measured)``, ``[cases]``.

    Parameters
    ----------
    predicted
        ``[cases]``, or ``[rounds, cases]`` where each round was predicted from what was measured in it: drift
        that both share then cancels.
    measured
        ``[rounds, cases]``.
    """
    return np.asarray(np.median(np.log(predicted) - np.log(measured), axis=0))

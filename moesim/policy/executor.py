"""Who computes each expert of a cell: the rule by name, and its parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault, nearest

#: Rules that assign accesses; their place here is the number that compiled code knows them by.
KINDS = (
    "gpu",
    "cheapest",
    "cheapest-max",
    "three-clock",
    "three-clock-code",
    "split",
    "prefix",
    "mask",
    "defer",
    "balanced",
    "optimum",
)
#: Where an access is computed.
RESIDENT, LOADED, CPU, NEAR, DEFERRED = 0, 1, 2, 3, 4
#: Parameters of each rule that has some, with their defaults; `vector` keeps this order.
PARAMETERS: dict[str, dict[str, float]] = {
    "split": {"alpha": 1.0, "link_bytes_per_s": 32e9, "near_bytes_per_s": 512e9},
    "mask": {"load_from_tokens": 0.0},
    "defer": {"deferred": 2.0},
}
#: Entries of `Executor.vector` before those of the rule: CPU start, experts per token.
COMMON = 2


@dataclass(frozen=True, slots=True)
class Executor:
    """How the experts of a cell are shared out between GPU, CPU and near-data units.

    Parameters
    ----------
    kind
        One of `KINDS`: ``gpu`` loads every miss. ``cheapest`` takes the CPU for each miss whose CPU time is
        below load and GPU time together (Fiddler's code), ``cheapest-max`` minimises the longer of both sums
        (Fiddler's paper). ``three-clock`` advances the earliest of GPU, CPU and link (HybriMoE's paper),
        ``three-clock-code`` is the list its code walks. ``split`` sends the hottest to the GPU and leaves the
        rest near the data (MoNDE), ``prefix`` moves those of fewest tokens to the near unit (Duplex).
        ``mask`` computes what is resident on the GPU, all else on the CPU (ktransformers, llama.cpp);
        ``defer`` also puts off what matters least to the next layer, which changes what the model computes.
        ``balanced`` improves on ``three-clock`` by single changes; ``optimum`` tries every assignment.
    parameters
        ``split``: `alpha`, `link_bytes_per_s`, `near_bytes_per_s`; ``mask``: `load_from_tokens`, the tokens
        of a step from which misses are loaded (0: never); ``defer``: `deferred`, experts of each token that
        may wait.

    Raises
    ------
    ConfigError
        If the kind or a parameter is unknown, or a parameter is negative or not a number.

    Examples
    --------
    >>> Executor("split", {"alpha": 2.0}).vector(top_k=2).tolist()
    [0.0, 2.0, 2.0, 32000000000.0, 512000000000.0]
    """

    kind: str = "gpu"
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            near = nearest(self.kind, list(KINDS), 1)
            hint = f"; nearest: {near[0]}" if near else ""
            raise ConfigError(Fault("is unknown", "executor", self.kind, ", ".join(KINDS) + hint))
        known = PARAMETERS.get(self.kind, {})
        faults = []
        for name, value in self.parameters.items():
            if name not in known:
                allowed = ", ".join(known) or f"{self.kind} has no parameters"
                faults.append(Fault("is unknown", f"executor.{name}", value, allowed))
            elif not (math.isfinite(value) and value >= 0):
                faults.append(Fault("is no such number", f"executor.{name}", value, "at least 0"))
        if faults:
            raise ConfigError(faults)

    @property
    def code(self) -> int:
        """The number of the rule in compiled code."""
        return KINDS.index(self.kind)

    @property
    def changes_numerics(self) -> bool:
        """Whether the model computes something else than as it was trained."""
        return self.kind == "defer" and self._values()["deferred"] > 0

    def vector(self, *, top_k: int, cpu_start_s: float = 0.0) -> npt.NDArray[np.float64]:
        """Parameters as compiled code takes them.

        Parameters
        ----------
        top_k
            Experts per token.
        cpu_start_s
            Seconds that the first expert on the CPU costs beside its own time, in each cell.

        Returns
        -------
        ndarray
            float64: `cpu_start_s`, `top_k`, then the parameters of the rule.
        """
        return np.array([cpu_start_s, top_k, *self._values().values()], np.float64)

    def _values(self) -> dict[str, float]:
        return {**PARAMETERS.get(self.kind, {}), **self.parameters}

"""A CPU as a device that runs layers."""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import Self

import numpy as np

from moesim.errors import ConfigError, Fault
from moesim.reference import exact
from moesim.reference.cpu.layer import CpuPrepared
from moesim.reference.cpu.memory import Memory, Workspace, owned, pooled
from moesim.reference.cpu.pool import PoolSize, choose
from moesim.reference.cpu.residents import Residents, fixed
from moesim.reference.layer import Case, IntArray, LayerShape
from moesim.reference.machine import cpu_name

DTYPES = ("fp32", "bf16")
BACKINGS = ("memory", "file")
#: Run first, so that no case waits for the compiler: some ten seconds, once on a machine.
_TINY = Case(LayerShape("compiled", 2, 1, 8, 8), 1)


class CpuRunner:
    """Runs layers on one core.

    BLAS has one thread as long as the runner is open, in the whole process; then it has as many as before.

    Parameters
    ----------
    memory_bytes
        Largest size of the pool of weights, without its slots; None for one that fits the machine.
    backing
        What missing experts are copied from: ``memory``, or a ``file`` in the folder for temporary files.
    residents
        Which experts are missing; the default keeps a fixed set.

    Attributes
    ----------
    device
        Model of the processor.
    pool
        The pool's size, and why.
    """

    def __init__(
        self, memory_bytes: int | None = None, backing: str = "memory", residents: Residents = fixed
    ) -> None:
        from threadpoolctl import threadpool_limits

        if backing not in BACKINGS:
            raise ConfigError(Fault("unknown backing", "backing", backing, ", ".join(BACKINGS)))
        self.device = cpu_name()
        self.pool: PoolSize = choose(memory_bytes)
        self._backing, self._residents = backing, residents
        self._space = Workspace()
        self._pool: Memory | None = None
        self._own: list[Memory] = []
        self._compiled = False
        _load_blas()
        limits = threadpool_limits(1, user_api="blas")
        self._restore = weakref.finalize(self, limits.restore_original_limits)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def prepare(
        self,
        case: Case,
        ids: IntArray | None = None,
        inputs: exact.LayerInputs | None = None,
        before: IntArray | None = None,
    ) -> CpuPrepared:
        """Fill memory for a case.

        Parameters
        ----------
        case
            What to run.
        ids
            Experts of each token, int32 ``[T, k]``, instead of the router's choice: the router still runs,
            and what it chose is set aside.
        inputs
            Tokens and weights. Without them experts are cut from the runner's pool, at another place in every
            run, so that their weights are cold.
        before
            Experts of tokens that went through the layer before these, int32 ``[n, k]``: what a cache holds
            comes from them. None has them drawn.
        """
        _check(case, ids)
        if not self._compiled:
            self._compiled = True
            self.prepare(_TINY, inputs=exact.inputs(_TINY)).run()
        if inputs is None:
            if self._pool is None:
                self._pool = pooled(self.pool.bytes, self._backing)
            memory, given = self._pool, exact.inputs(case, weights=False)
        else:
            spare = case.shape.num_experts if case.offloaded else 0
            memory, given = owned(inputs, case.shape, spare, self._backing), inputs
            self._own.append(memory)
        return CpuPrepared(case, given, memory, self._space, self._residents, ids, before)

    def close(self) -> None:
        """Give all memory back, remove files, and let BLAS have its threads again."""
        for memory in (*self._own, *filter(None, [self._pool])):
            memory.close()
        self._own, self._pool, self._space = [], None, Workspace()
        self._restore()


def _load_blas() -> None:
    """Load what must be told about threads: numpy's BLAS, and scipy's, which compiled code calls."""
    import scipy.linalg.cython_blas  # noqa: F401

    np.dot(np.ones(1), np.ones(1))


def _check(case: Case, ids: IntArray | None) -> None:
    shape = case.shape
    faults = []
    if case.dtype not in DTYPES:
        faults.append(Fault("the CPU path has no such data type", "dtype", case.dtype, ", ".join(DTYPES)))
    if not 0.0 <= case.offloaded <= 1.0:
        faults.append(Fault("is no fraction", "offloaded", case.offloaded, "0 to 1"))
    if not 1 <= shape.top_k <= shape.num_experts:
        faults.append(
            Fault("experts per token", f"{shape.name}.top_k", shape.top_k, f"1 to {shape.num_experts}")
        )
    if case.tokens < 1:
        faults.append(Fault("tokens of a batch", "tokens", case.tokens, ">= 1"))
    if ids is not None:
        wanted = (case.tokens, shape.top_k)
        if np.shape(ids) != wanted:
            faults.append(Fault("experts of tokens", "ids", np.shape(ids), f"an array {wanted}"))
        elif ids.size and not (ids.min() >= 0 and ids.max() < shape.num_experts):
            faults.append(Fault("no such expert", "ids", int(ids.max()), f"0 to {shape.num_experts - 1}"))
    if faults:
        raise ConfigError(faults, case.name)

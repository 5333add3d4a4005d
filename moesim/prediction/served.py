"""A model as it is served: one deployment, or a pool that prefills beside one that decodes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from moesim.correction import Calibration, Corrected, Family, Identity
from moesim.engine.deployment import Deployment
from moesim.engine.disaggregated import Side, disaggregated
from moesim.engine.eager import LAUNCH_RANGE_S
from moesim.engine.load import Load
from moesim.engine.memory import MemoryUse
from moesim.engine.routing import Array
from moesim.engine.speculation import MOST_GAIN
from moesim.engine.steady import Steady, steady
from moesim.hardware.types import Hardware
from moesim.layout.disaggregated import Disaggregated, Workers
from moesim.layout.expert_map import ExpertMap
from moesim.layout.parallelism import Parallelism
from moesim.metrics import e2el_s, output_throughput, request_throughput, total_token_throughput
from moesim.model.types import Model
from moesim.prediction.calibrated import identity_of, traits_of
from moesim.prediction.kept import deployment_of
from moesim.prediction.open_loop import Bools, most_rate, settled
from moesim.prediction.question import Engine
from moesim.trace.types import LoadCounts, RoutingTrace


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """What answers questions about loads.

    Parameters
    ----------
    decode, prefill
        The deployment; of a disaggregated one, a worker of either pool.
    pools
        Layout of a disaggregated deployment.
    engine, calibration
        Settings, and what measured runs taught.
    identity, family
        What it is among measured deployments, and what those of its family taught; None of nothing.
    """

    decode: Deployment
    prefill: Deployment | None
    pools: Disaggregated | None
    engine: Engine
    calibration: Calibration
    identity: Identity = field(init=False)
    family: Family | None = field(init=False)

    def __post_init__(self) -> None:
        counts = (None, None) if self.pools is None else (self.pools.prefill.count, self.pools.decode.count)
        identity = identity_of(self.decode, self.prefill, counts)
        family = self.calibration.family_of(identity, self.decode.model.moe is not None)
        object.__setattr__(self, "identity", identity)
        object.__setattr__(self, "family", family)

    @classmethod
    def of(
        cls,
        model: Model,
        hardware: Hardware,
        layout: Parallelism | Disaggregated,
        engine: Engine,
        calibration: Calibration,
        trace: RoutingTrace | LoadCounts | None = None,
        plan: ExpertMap | None = None,
        seed: int = 0,
    ) -> Served:
        """Lay a model out; a placement is that of the workers that decode."""
        traits = traits_of(calibration, engine.backend)
        if isinstance(layout, Parallelism):
            only = deployment_of(model, hardware, layout, engine, trace, plan, seed, traits)
            return cls(only, None, None, engine, calibration)
        prefill = deployment_of(model, hardware, layout.prefill.layout, engine, trace, None, seed, traits)
        decode = deployment_of(model, hardware, layout.decode.layout, engine, trace, plan, seed, traits)
        return cls(decode, prefill, layout, engine, calibration)

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """One, or a worker of either pool."""
        return (self.decode,) if self.prefill is None else (self.prefill, self.decode)

    @property
    def world(self) -> int:
        """Devices of the whole deployment."""
        return self.decode.layout.world if self.pools is None else self.pools.world

    @property
    def memory(self) -> MemoryUse:
        """Of a device that decodes."""
        return self.memory_of(self.decode)

    def memory_of(self, deployment: Deployment) -> MemoryUse:
        """Of a device of one of the `deployments`."""
        return deployment.memory(self.engine.chunk_tokens, self.engine.memory_utilisation)

    def fits(self, load: Load) -> Bools:
        """Whether at least one request fits, ``[batches]``."""
        fits = np.ones(len(load.input_len), dtype=bool)
        for deployment in self.deployments:
            fits &= self.memory_of(deployment).cache_budget_bytes >= deployment.cache_bytes(
                load.input_len + load.output_len
            )
        return fits

    def physical(self, load: Load) -> Steady:
        """Steady state at a load by physics alone."""
        if self.prefill is None or self.pools is None:
            return steady(self.decode, load, self.memory)
        sides = Side(self.prefill, self.pools.prefill.count), Side(self.decode, self.pools.decode.count)
        return disaggregated(*sides, load, self.engine.memory_utilisation)

    def state(self, load: Load) -> Steady:
        """Steady state at a load, as measured runs have it."""
        state = self.physical(load)
        if self.family is None:
            return state
        tpot, ttft = self.family.factors(
            self.identity, load.input_len, load.output_len, load.concurrency, kernels=self._own_kernels
        )
        return state.corrected(self._once(tpot), ttft)

    def answer(self, load: Load) -> tuple[Steady, Corrected | None]:
        """The state, and how sure measured runs are of it; None without such runs."""
        state = self.physical(load)
        if self.family is None:
            return state, None
        found = self.family.correct(
            self.identity, load.input_len, load.output_len, load.concurrency, kernels=self._own_kernels
        )
        once = self._once(found.tpot_factor)
        lower = found.tpot_factor / once
        if self.engine.speculative_tokens is None and self.decode.model.mtp_layers:
            lower = lower / MOST_GAIN
        return state.corrected(once, found.ttft_factor), found.lowered(lower)

    @property
    def _own_kernels(self) -> bool:
        device = self.decode.hardware.device
        return device.processor.measured_on == device.name

    def _once(self, tpot_factor: Array) -> Array:
        """A factor that does not count drafts twice.

        What runs gain beyond physics is for the most part drafts that nobody recorded: where drafts are said,
        it moves the lower end of the interval alone.
        """
        return np.maximum(tpot_factor, 1.0) if self.engine.speculative_tokens else tpot_factor

    def settled(self, load: Load) -> tuple[Load, Bools]:
        """Where a load settles, and whether it does; a closed loop is as it is."""
        if load.request_rate is None:
            return load, np.ones(len(load.input_len), dtype=bool)
        return settled(self.state, load)

    def most_rate(self, load: Load) -> Array:
        """Requests per second that can be kept up with, ``[batches]``."""
        return most_rate(self.state, load)

    def metrics(self, state: Steady, load: Load) -> dict[str, Array | float]:
        """Latencies and throughputs of a steady state, by metric."""
        whole = e2el_s(state.ttft_s, state.tpot_s, load.output_len)
        requests = load.request_rate
        if requests is None:
            requests = np.asarray(request_throughput(load.concurrency, whole))
        output = output_throughput(requests, load.output_len)
        return {
            "ttft_s": state.ttft_s,
            "tpot_s": state.tpot_s,
            "e2el_s": whole,
            "request_throughput": requests,
            "output_throughput": output,
            "total_token_throughput": total_token_throughput(requests, load.input_len, load.output_len),
            "output_throughput_per_device": output / self.world,
        }

    def extremes(self) -> list[Served]:
        """The same with settings that are known only roughly at either end, all fast and all slow."""
        unsure = self.engine.speculative_tokens and self.engine.acceptance_rate is None
        changes: list[dict[str, float]] = [{}, {}]
        for i in range(2):
            if unsure:
                changes[i]["acceptance"] = 1.0 - i
            if self.engine.enforce_eager:
                changes[i]["launch_s"] = LAUNCH_RANGE_S[i]
        return [
            replace(
                self,
                decode=self.decode.but(**change),
                prefill=self.prefill.but(**change) if self.prefill is not None else None,
            )
            for change in changes
            if change
        ]

    @property
    def decoders(self) -> Workers:
        """Workers that decode."""
        return Workers(self.decode.layout) if self.pools is None else self.pools.decode

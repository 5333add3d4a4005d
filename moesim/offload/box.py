"""What one machine costs for one model: bytes and seconds of experts, links and of everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.cost import ExpertShape, alone, expert_times, op_times, peak_flops_per_s
from moesim.cost.roofline import at, soft_max
from moesim.engine.memory import UTILISATION, cached_bytes, cached_layers, memory_use
from moesim.errors import ConfigError, Fault, InfeasibleError
from moesim.hardware.types import Hardware, Processor
from moesim.layout.parallelism import Parallelism
from moesim.model import bytes_per_param
from moesim.model.types import Model, MoE
from moesim.offload.rest import Rest, rest_seconds
from moesim.ops import LayerKinds, Op, OpTable, Precision
from moesim.ops.primitives import ACTIVATION_BYTES, elementwise, gemm

Array = npt.NDArray[np.float64]

#: Name of the host link of machines where CPU and GPU share one memory: nothing is copied between them.
UNIFIED = "unified"
#: Tokens of a prefill chunk that workspace is kept for.
CHUNK_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Path:
    """One way between two memories: ``latency_s + bytes / bytes_per_s`` for one copy alone."""

    latency_s: float
    bytes_per_s: float

    def seconds(self, size: float) -> float:
        """Of one copy."""
        return self.latency_s + size / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class Width:
    """One precision that experts are kept in.

    Parameters
    ----------
    name
        A data type, or bits per parameter with all scales, as in ``2.5 bit``.
    dtype
        Data type whose kernels multiply such weights.
    bytes
        Of one expert.
    """

    name: str
    dtype: str
    bytes: float


@dataclass(frozen=True, slots=True)
class _Packed(ExpertShape):
    """An expert whose weights take other bytes than its data type says."""

    packed: float

    @property
    def weight_bytes(self) -> float:
        return self.packed


@dataclass(frozen=True, slots=True, eq=False)
class Box:
    """One device with its host, for one model.

    Parameters
    ----------
    hardware, model
        The machine, of which one device is used, and the model.
    precision
        Data types of everything but the routed experts.
    widths
        Precisions of experts, widest first; levels of a precision policy are positions in it.
    expert_bytes
        Device memory left to experts.
    to_device, from_device
        The host link each way; None where CPU and GPU share one memory, and experts come from storage.
    storage
        Where experts are read from that host memory does not hold; None without.
    host_experts
        Experts that host memory holds; all but these are on storage. None is all.
    launch_s
        Host seconds per kernel, where the host starts each on its own.
    """

    hardware: Hardware
    model: Model
    precision: Precision
    widths: tuple[Width, ...]
    expert_bytes: float
    to_device: Path | None
    from_device: Path | None
    storage: Path | None = None
    host_experts: int | None = None
    launch_s: float = 0.0

    @classmethod
    def of(
        cls,
        hardware: Hardware,
        model: Model,
        *,
        dtype: str = "auto",
        expert_dtypes: Sequence[str | float] = (),
        kv_cache_dtype: str = "auto",
        gpu_bytes: float | None = None,
        context: float = 4096.0,
        sequences: float = 1.0,
        backing: str = "auto",
        host_bytes: float | None = None,
        launch_s: float = 0.0,
    ) -> Box:
        """Bytes and seconds of a model on one device of a machine.

        Parameters
        ----------
        dtype
            Of dense weights, and of experts unless said; ``auto`` takes the checkpoint's own.
        expert_dtypes
            Precisions of experts, widest first: data types, or bits per parameter with all scales.
        gpu_bytes
            Device memory for experts; by default what is left of 0.9 of the memory beside dense weights,
            workspace and the cache of `sequences` sequences of `context` tokens.
        backing
            Where experts come from: ``host``, ``storage``, or ``auto``: host memory, and storage for what it
            cannot hold; storage alone where there is no host link.
        host_bytes
            Host memory for experts, all of it by default.
        launch_s
            Host seconds per kernel without CUDA graphs; see `moesim.engine.eager`.

        Raises
        ------
        ConfigError
            With every fault of the arguments.
        InfeasibleError
            If dense weights, workspace and cache alone fill the device.
        """
        moe = model.moe
        faults = []
        if moe is None:
            faults.append(Fault("has no experts", "--model", model.name))
        elif len({layer.ffn for layer in model.layers if isinstance(layer.ffn, MoE)}) > 1:
            faults.append(Fault("has MoE layers of several shapes", "--model", model.name, "one shape"))
        if backing not in ("auto", "host", "storage"):
            faults.append(Fault("is unknown", "backing", backing, "auto, host, storage"))
        host = hardware.host
        stored = host.storage if host is not None else None
        link = hardware.host_link
        if link is not None and link.name == UNIFIED:
            link = None
        if (backing == "storage" or (backing == "auto" and link is None)) and stored is None:
            faults.append(Fault("has no storage to load experts from", "--hardware", hardware.name))
        if backing == "host" and link is None:
            faults.append(Fault("has no host link to load experts over", "--hardware", hardware.name))
        if faults or moe is None:
            raise ConfigError(faults)
        precision = Precision.of(model, dtype, kv_cache_dtype)
        params = ExpertShape(model.hidden, moe.intermediate, moe.matrices, "bf16").params
        names = tuple(expert_dtypes) or (precision.weight("expert"),)
        widths = tuple(_width(name, params) for name in names)
        if gpu_bytes is None:
            gpu_bytes = _left(model, precision, hardware, context, sequences)
        lane = None if link is None else Path(link.latency_s, link.bandwidth_bytes_per_s * link.efficiency)
        reads = None if stored is None else Path(0.0, stored.bandwidth_bytes_per_s)
        held: int | None = None
        if backing == "storage" or link is None:
            held = 0
        elif backing == "auto" and host is not None:
            room = host.memory.capacity_bytes if host_bytes is None else host_bytes
            held = int(room // widths[0].bytes)
        every = len(model.moe_layer_ids) * moe.num_experts
        if held is not None and (held >= every or reads is None):
            held = None
        return cls(
            hardware,
            model,
            precision,
            widths,
            gpu_bytes,
            lane,
            lane,
            None if held is None else reads,
            held,
            launch_s,
        )

    def with_bits(self, bits: Sequence[float]) -> Box:
        """The same with experts of other widths, in bits per parameter; the memory for them stays."""
        params = ExpertShape(self.model.hidden, self.moe.intermediate, self.moe.matrices, "bf16").params
        return replace(self, widths=tuple(_width(float(b), params) for b in bits))

    @property
    def moe(self) -> MoE:
        """The block that all MoE layers share."""
        moe = self.model.moe
        assert moe is not None
        return moe

    @property
    def slots(self) -> int:
        """Experts of the widest precision that fit on the device."""
        every = len(self.model.moe_layer_ids) * self.moe.num_experts
        return min(int(self.expert_bytes / self.widths[0].bytes + 1e-9), every)

    def load_seconds(self, level: int = 0, *, stored: bool = False) -> float:
        """One expert onto an idle device, from host memory or, `stored`, from storage."""
        size = self.widths[level].bytes
        seconds = self.to_device.seconds(size) if self.to_device is not None else 0.0
        if (stored or self.to_device is None) and self.storage is not None:
            seconds += self.storage.seconds(size)
        return seconds

    def hop_seconds(self, tokens: Array) -> Array:
        """Hidden states of `tokens` tokens from device to host, or back."""
        if self.to_device is None:
            return np.zeros_like(tokens)
        size = tokens * self.model.hidden * ACTIVATION_BYTES
        return np.asarray(self.to_device.latency_s + size / self.to_device.bytes_per_s)

    def gpu_seconds(self, most: int) -> Array:
        """One expert on the device, by level and tokens, ``[levels, most + 1]``.

        The faster of plain GEMMs and a grouped GEMM over one expert; never longer than with more tokens, to
        which fewer can be padded.
        """
        n = np.arange(1.0, most + 1.0)
        moe, hidden, device = self.moe, self.model.hidden, alone(self.hardware.device)
        rows = []
        for width in self.widths:
            shape = _Packed(hidden, moe.intermediate, moe.matrices, width.dtype, width.bytes)
            grouped = expert_times(n[:, None], shape, device).seconds
            up, share = (moe.matrices - 1) * moe.intermediate, width.bytes / shape.params
            ops = (
                _resized(gemm("gate_up_proj", n, hidden, up, width.dtype), hidden * up * share),
                elementwise("activation", n * moe.intermediate, flops_each=5.0, tensors=float(moe.matrices)),
                _resized(
                    gemm("down_proj", n, moe.intermediate, hidden, width.dtype),
                    hidden * moe.intermediate * share,
                ),
            )
            table = OpTable(tuple((op, 1) for op in ops), (), most)
            plain = op_times(table, device).seconds.sum(axis=0)
            rows.append(_rising(np.minimum(grouped, plain)))
        started = self.launch_s * EXPERT_KERNELS * (np.arange(most + 1) > 0)
        return np.asarray(np.maximum(np.stack(rows), started))

    def cpu_seconds(self, most: int) -> Array:
        """One expert on the host's processor from host memory, ``[levels, most + 1]``; infinite without."""
        host = self.hardware.host
        if host is None:
            return np.full((len(self.widths), most + 1), np.inf)
        return self._roofline(host.processor, host.memory.bandwidth_bytes_per_s, most)

    def near_seconds(self, most: int) -> Array:
        """One expert on the unit beside its memory, ``[levels, most + 1]``; infinite without.

        The unit is the device's second processor, and works from the memory that it reaches fastest.
        """
        if len(self.hardware.device.processors) < 2:
            return np.full((len(self.widths), most + 1), np.inf)
        unit = self.hardware.device.processors[1]
        return self._roofline(unit, max(unit.bandwidth_bytes_per_s.values()), most)

    def _roofline(self, processor: Processor, bandwidth: float, most: int) -> Array:
        n = np.arange(1.0, most + 1.0)
        rows = []
        for width in self.widths:
            shape = _Packed(
                self.model.hidden, self.moe.intermediate, self.moe.matrices, width.dtype, width.bytes
            )
            curve = processor.efficiency_of("expert_gemm", width.dtype)
            flops, data = n * shape.flops_per_pair, shape.weight_bytes + n * shape.bytes_per_pair
            compute = flops / (peak_flops_per_s(processor, width.dtype) * at(curve.compute, flops))
            memory = data / (bandwidth * at(curve.memory, data))
            rows.append(_rising(curve.floor_s + soft_max(compute, memory, curve.sharpness)))
        return np.stack(rows)

    def rest(
        self,
        phase: npt.NDArray[np.int8],
        tokens: npt.NDArray[np.int32],
        context: npt.NDArray[np.float32],
        prompts: npt.NDArray[np.int64],
    ) -> Rest:
        """Seconds of steps beside their routed experts; see `rest_seconds`."""
        return rest_seconds(
            self.model,
            self.hardware.device,
            self.precision,
            phase,
            tokens,
            context,
            prompts,
            self.launch_s,
        )


#: Kernels of one expert: gate and up, activation, down.
EXPERT_KERNELS = 3


def _width(name: str | float, params: float) -> Width:
    """A data type, or bits per parameter: those multiply as the packed integer type of 4 bits does."""
    if isinstance(name, str):
        return Width(name, name, params * bytes_per_param(name))
    if not 0 < name <= 32:
        raise ConfigError(Fault("is no width", "expert_dtypes", name, "bits per parameter, 0 to 32"))
    return Width(f"{name:g} bit", "int4" if name < 16 else "bf16", params * name / 8)


def _left(model: Model, precision: Precision, hardware: Hardware, context: float, sequences: float) -> float:
    """Device bytes beside dense weights, workspace and cache."""
    kinds, layout = LayerKinds.of(model), Parallelism()
    use = memory_use(
        model, kinds, layout, precision, hardware, chunk_tokens=CHUNK_TOKENS, utilisation=UTILISATION
    )
    moe = model.moe
    assert moe is not None
    each = ExpertShape(model.hidden, moe.intermediate, moe.matrices, precision.weight("expert")).weight_bytes
    experts = each * moe.num_experts * len(model.moe_layer_ids)
    cache = sequences * float(cached_bytes(cached_layers(kinds, layout), precision, np.array([context]))[0])
    left = use.cache_budget_bytes + experts - cache
    if left <= 0:
        raise InfeasibleError(
            f"dense weights, workspace and cache of {model.name} leave no memory for experts on "
            f"{hardware.device.title}",
            resource="device memory",
            needed=use.budget_bytes - left,
            available=use.budget_bytes,
        )
    return left


def _resized(op: Op, weight_bytes: float) -> Op:
    """The same product with weights of other bytes."""
    return replace(op, weight_bytes=weight_bytes)


def _rising(seconds: Array) -> Array:
    """With nothing for no token in front; never longer than with more tokens."""
    least = np.minimum.accumulate(seconds[::-1])[::-1]
    return np.concatenate([[0.0], least])

"""How a training job is laid over devices, attention and experts each with a mapping of their own.

Attention ranks count ``tp x cp x dp`` inside a pipeline stage, expert ranks ``etp x ep x edp`` over the same
devices: *MoE Parallel Folding* (arXiv:2504.14960, section 3). Ranks are numbered as Megatron-Core does by
default (``tp-cp-ep-dp-pp``): tensor-parallel neighbours are next to each other, pipeline stages are
contiguous blocks. Without folding, experts are cut as attention is (``etp = tp``) and expert parallelism
strides over data-parallel ranks, each of which owns ``tp x cp`` devices.
"""

from __future__ import annotations

from dataclasses import dataclass

from moesim.errors import ConfigError, Fault
from moesim.hardware.types import Hardware
from moesim.model.types import Compressed, GroupedQuery, Latent, LinearAttention, Model


@dataclass(frozen=True, slots=True)
class Group:
    """A communicator: so many ranks, each so many devices from the next.

    >>> Group(8, 2).inside(8), Group(8, 2).span
    (4, 16)
    """

    ranks: int
    stride: int

    @property
    def span(self) -> int:
        """Devices from the first rank to behind the last one."""
        return self.ranks * self.stride

    def inside(self, domain: int) -> int:
        """Ranks of the group in one scale-up domain."""
        return max(1, min(self.ranks, domain // self.stride))


@dataclass(frozen=True, slots=True)
class TrainLayout:
    """Degrees of parallelism of training.

    Parameters
    ----------
    tp, cp, pp, dp
        Tensor, context, pipeline and data parallelism of attention; with tensor parallelism the sequence is
        split over its ranks between matrix products (Korthikanti et al., arXiv:2205.05198).
    ep, etp
        Expert parallelism, and tensor parallelism of experts; `etp` None is `tp` without folding, else 1.
    vpp
        Virtual pipeline stages per rank.
    folded
        Whether expert groups may cut across attention's tensor and context groups.

    Examples
    --------
    >>> layout = TrainLayout(tp=2, pp=8, dp=8, ep=8)
    >>> layout.world, layout.edp, layout.group("ep")
    (128, 2, Group(ranks=8, stride=1))
    >>> TrainLayout(tp=2, pp=8, dp=8, ep=8, folded=False).group("ep")
    Group(ranks=8, stride=2)
    """

    tp: int = 1
    cp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    etp: int | None = None
    vpp: int = 1
    folded: bool = True

    @property
    def expert_tp(self) -> int:
        """Ranks that share one expert."""
        if self.etp is not None:
            return self.etp
        return 1 if self.folded else self.tp

    @property
    def stage(self) -> int:
        """Devices of one pipeline stage."""
        return self.tp * self.cp * self.dp

    @property
    def world(self) -> int:
        """Devices of the job."""
        return self.stage * self.pp

    @property
    def edp(self) -> int:
        """Copies of each expert."""
        return self.stage // (self.expert_tp * self.ep)

    def _unfolded_stride(self) -> int:
        """Devices between experts' ranks: whole replicas, or less where replicas are fewer than ranks."""
        return self.tp * self.cp if self.dp % self.ep == 0 else self.tp * self.cp * self.dp // self.ep

    def group(self, name: str) -> Group:
        """Ranks and stride of ``tp cp dp ep etp edp pp`` or ``dense``.

        ``dense`` is whom gradients of attention are reduced with: data and context ranks.
        """
        etp = self.expert_tp
        owned = etp if self.folded else self._unfolded_stride()
        match name:
            case "tp":
                return Group(self.tp, 1)
            case "cp":
                return Group(self.cp, self.tp)
            case "dp":
                return Group(self.dp, self.tp * self.cp)
            case "dense":
                return Group(self.dp * self.cp, self.tp)
            case "etp":
                return Group(etp, 1)
            case "ep":
                return Group(self.ep, owned)
            case "edp":
                # Unfolded, the context ranks hold further copies.
                return Group(self.edp, etp * self.ep)
            case "pp":
                return Group(self.pp, self.stage)
        raise KeyError(name)

    def __str__(self) -> str:
        parts = [f"tp={self.tp}", f"cp={self.cp}", f"pp={self.pp}", f"dp={self.dp}", f"ep={self.ep}"]
        parts += [f"etp={self.expert_tp}"]
        return " ".join(parts + ([f"vpp={self.vpp}"] if self.vpp > 1 else []))

    def faults(self, model: Model | None = None, hardware: Hardware | None = None) -> list[Fault]:
        """Everything that keeps this layout from being laid out."""
        named = ("tp", "cp", "pp", "dp", "ep", "vpp")
        values = [(name, getattr(self, name)) for name in named] + [("etp", self.expert_tp)]
        found = [
            Fault("must be a positive whole number", f"--{name}", value, "1, 2, 3, ...")
            for name, value in values
            if value < 1
        ]
        if found:
            return found
        if self.stage % (self.expert_tp * self.ep):
            found.append(
                Fault(
                    f"etp x ep does not divide tp x cp x dp = {self.stage}", "--ep", self.ep * self.expert_tp
                )
            )
        if not self.folded and self.dp * self.cp % self.ep:
            found.append(
                Fault(
                    f"does not divide dp x cp = {self.dp * self.cp}, as it must without folding",
                    "--ep",
                    self.ep,
                )
            )
        if model is not None:
            found += self._model_faults(model)
        if hardware is not None:
            found += self._machine_faults(hardware)
        return found

    def check(self, model: Model | None = None, hardware: Hardware | None = None) -> None:
        """Raise `ConfigError` with every fault, if there is one."""
        if found := self.faults(model, hardware):
            raise ConfigError(found)

    def _machine_faults(self, hardware: Hardware) -> list[Fault]:
        if self.world > hardware.num_devices:
            nodes = -(-self.world // hardware.devices_per_node)
            return [
                Fault(
                    f"pp x dp x cp x tp = {self.world} devices are asked for, {hardware.name} with "
                    f"{hardware.nodes} node(s) has {hardware.num_devices}",
                    "layout",
                    str(self),
                    f"--nodes {nodes}",
                )
            ]
        if self.world > hardware.domain and hardware.scale_out is None:
            return [Fault(f"{hardware.name} has no network between nodes", "layout", str(self))]
        return []

    def _model_faults(self, model: Model) -> list[Fault]:
        found = []
        for heads in sorted({_heads(layer.attention) for layer in model.layers}):
            if heads % self.tp:
                found.append(
                    Fault(f"does not divide the {heads} attention heads of {model.name}", "--tp", self.tp)
                )
        if self.pp * self.vpp > model.num_layers:
            found.append(
                Fault(f"{model.name} has {model.num_layers} layers", "--pp x --vpp", self.pp * self.vpp)
            )
        if self.ep > 1 and model.moe is None:
            found.append(Fault(f"{model.name} has no experts", "--ep", self.ep, "1"))
        for moe in {layer.ffn for layer in model.layers if hasattr(layer.ffn, "num_experts")}:
            if moe.num_experts % self.ep:
                found.append(
                    Fault(f"does not divide the {moe.num_experts} experts of {model.name}", "--ep", self.ep)
                )
            if moe.intermediate % self.expert_tp:
                found.append(
                    Fault(f"does not divide the expert width {moe.intermediate}", "--etp", self.expert_tp)
                )
        return found


def _heads(attention: object) -> int:
    match attention:
        case GroupedQuery() | Latent() | Compressed():
            return attention.heads
        case LinearAttention():
            return attention.value_heads
    return 1

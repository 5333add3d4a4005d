"""How a model is laid over devices.

``world = pp x dp x tp``. `tp` shards attention inside a data-parallel rank. Inside one pipeline stage the
``dp x tp`` devices hold the experts, sharded ``moe_tp x ep``. `ep` defaults to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from moesim.errors import ConfigError, Fault
from moesim.hardware.types import Hardware
from moesim.model.types import Compressed, GroupedQuery, Latent, LinearAttention, Model, StateSpace


@dataclass(frozen=True, slots=True)
class Parallelism:
    """Degrees of parallelism.

    Parameters
    ----------
    tp, pp, dp, ep
        Attention tensor, pipeline, attention data and expert parallelism.

    Examples
    --------
    >>> layout = Parallelism(tp=2, dp=4, ep=8)
    >>> layout.world, layout.moe_tp
    (8, 1)
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1

    @property
    def stage(self) -> int:
        """Devices of one pipeline stage."""
        return self.dp * self.tp

    @property
    def world(self) -> int:
        """Devices of the deployment."""
        return self.pp * self.stage

    @property
    def moe_tp(self) -> int:
        """Shards each expert is cut into."""
        return self.stage // self.ep

    def __str__(self) -> str:
        return f"tp={self.tp} pp={self.pp} dp={self.dp} ep={self.ep}"

    def faults(
        self, model: Model | None = None, hardware: Hardware | None = None, redundant: int = 0
    ) -> list[Fault]:
        """Everything that keeps this layout from being laid out.

        Parameters
        ----------
        model
            Checked for heads, experts and layers, if given.
        hardware
            Checked for the number of devices, if given.
        redundant
            Physical experts beyond one of each: with them, experts and spares together must divide.
        """
        found = [
            Fault("must be a positive whole number", f"--{name}", value, "1, 2, 3, ...")
            for name, value in (("tp", self.tp), ("pp", self.pp), ("dp", self.dp), ("ep", self.ep))
            if value < 1
        ]
        if found:
            return found
        if self.stage % self.ep:
            found.append(
                Fault(f"does not divide dp x tp = {self.stage}", "--ep", self.ep, _divisors(self.stage))
            )
        if model is not None:
            found += self._model_faults(model, redundant)
        if hardware is not None and self.world > hardware.num_devices:
            nodes = -(-self.world // hardware.devices_per_node)
            found.append(
                Fault(
                    f"pp x dp x tp = {self.world} devices are asked for, {hardware.name} with "
                    f"{hardware.nodes} node(s) has {hardware.num_devices}",
                    "layout",
                    str(self),
                    f"at most {hardware.num_devices} devices, or --nodes {nodes}",
                )
            )
        return found

    def check(self, model: Model | None = None, hardware: Hardware | None = None, redundant: int = 0) -> None:
        """Raise `ConfigError` with every fault, if there is one."""
        found = self.faults(model, hardware, redundant)
        if found:
            raise ConfigError(found)

    def _model_faults(self, model: Model, redundant: int) -> list[Fault]:
        found = []
        for n in sorted(h for h in heads_of(model) if h % self.tp):
            found.append(
                Fault(
                    f"does not divide the {n} attention heads of {model.name}", "--tp", self.tp, _divisors(n)
                )
            )
        if self.pp > model.num_layers:
            found.append(
                Fault(
                    f"{model.name} has {model.num_layers} layers", "--pp", self.pp, f"1 to {model.num_layers}"
                )
            )
        if self.ep > 1:
            if model.moe is None:
                found.append(Fault(f"{model.name} has no experts", "--ep", self.ep, "1"))
            elif (slots := model.num_experts + redundant) % self.ep:
                spare = f" and {redundant} redundant" if redundant else ""
                found.append(
                    Fault(
                        f"does not divide the {model.num_experts} experts{spare} of {model.name}",
                        "--ep",
                        self.ep,
                        f"{_divisors(slots)}; or {_spares(redundant + -slots % self.ep)}",
                    )
                )
        if model.moe is not None and self.stage % self.ep == 0 and model.moe.intermediate % self.moe_tp:
            found.append(
                Fault(
                    f"cuts experts of width {model.moe.intermediate} into {self.moe_tp} unequal shards",
                    "layout",
                    str(self),
                    "dp x tp / ep that divides the expert width",
                )
            )
        return found


def heads_of(model: Model) -> set[int]:
    """Attention heads of the layers, which tensor parallelism must divide.

    >>> from moesim.model import load_model
    >>> heads_of(load_model("deepseek-v3"))
    {128}
    """
    return {_heads(layer.attention) for layer in model.layers}


def _heads(attention: object) -> int:
    match attention:
        case GroupedQuery() | Latent() | Compressed():
            return attention.heads
        case LinearAttention():
            return attention.value_heads
        case StateSpace():
            return attention.inner
    raise TypeError(f"no attention: {attention!r}")


def _spares(count: int) -> str:
    return f"{count} redundant expert{'s' if count > 1 else ''}"


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, min(n, 1024) + 1) if n % d == 0)

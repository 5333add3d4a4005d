"""What a plan file is for: a model's layers and experts, ranks and slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from moesim.errors import ConfigError, Fault
from moesim.layout import ExpertMap


class HasExperts(Protocol):
    """What is asked of a model; `moesim.model.Model` has it."""

    @property
    def name(self) -> str:
        """How engines are told of it: a folder, a Hugging Face id, or a catalogue name."""

    @property
    def num_layers(self) -> int:
        """Decoder layers."""

    @property
    def moe_layer_ids(self) -> Sequence[int]:
        """Decoder indices of the MoE layers, rising."""

    @property
    def num_experts(self) -> int:
        """Routed experts per MoE layer."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a plan file is checked against.

    Parameters
    ----------
    model
        Name of the model.
    num_layers
        Its decoder layers.
    moe_layer_ids
        Decoder indices of its MoE layers.
    num_experts
        Routed experts per MoE layer.
    ranks
        Expert-parallel ranks.
    slots
        Physical experts per layer; None for any number that fits.

    Raises
    ------
    ConfigError
        With every fault of the question itself, before any file is looked at.
    """

    model: str
    num_layers: int
    moe_layer_ids: tuple[int, ...]
    num_experts: int
    ranks: int
    slots: int | None = None

    def __post_init__(self) -> None:
        ids = list(self.moe_layer_ids)
        found = []
        if not ids or self.num_experts < 1:
            found.append(Fault("has no experts to place", "model", self.model, "a MoE model"))
        elif ids != sorted(set(ids)) or not 0 <= ids[0] <= ids[-1] < self.num_layers:
            found.append(Fault("must be rising decoder indices", "moe_layer_ids", ids, self.layers_allowed))
        if self.ranks < 1:
            found.append(Fault("is too small", "ranks", self.ranks, "1 or more"))
        elif not found and self.slots is not None:
            found += slot_faults(self.slots, self.num_experts, self.ranks, "slots")
        if found:
            raise ConfigError(found, "expert placement")

    @classmethod
    def of(cls, model: HasExperts, ranks: int, slots: int | None = None) -> Target:
        """The target of a model on `ranks` ranks."""
        return cls(model.name, model.num_layers, tuple(model.moe_layer_ids), model.num_experts, ranks, slots)

    @property
    def layers_allowed(self) -> str:
        """Decoder layers, for messages."""
        return f"0 to {self.num_layers - 1}"

    @property
    def most_slots(self) -> int:
        """The most slots a row can have: every expert on every rank."""
        return self.slots if self.slots is not None else self.num_experts * self.ranks

    def fit(self, expert_map: ExpertMap) -> list[Fault]:
        """What keeps a plan from being one for this target."""
        has = (expert_map.layers, expert_map.num_experts, expert_map.ranks)
        wanted = (len(self.moe_layer_ids), self.num_experts, self.ranks)
        found = []
        if has != wanted:
            message = "(MoE layers, experts, ranks) of the plan are not the model's"
            found.append(Fault(message, "", has, str(wanted)))
        if not expert_map.full:
            found.append(Fault("has empty slots, which no engine loads", "plan"))
        return found


def slot_faults(slots: int, num_experts: int, ranks: int, where: str) -> list[Fault]:
    """What keeps `slots` physical experts per layer from holding `num_experts` on `ranks` ranks.

    >>> print(slot_faults(7, 6, 2, "num_slots")[0])
    num_slots: does not divide over 2 ranks (got 7); allowed: a multiple of 2 from 6 to 12
    """
    least, most = num_experts + -num_experts % ranks, num_experts * ranks
    allowed = f"a multiple of {ranks} from {least} to {most}"
    if slots < num_experts:
        return [Fault(f"cannot hold {num_experts} experts", where, slots, allowed)]
    if slots > most:
        return [Fault("holds more than one replica of each expert per rank", where, slots, allowed)]
    if slots % ranks:
        return [Fault(f"does not divide over {ranks} ranks", where, slots, allowed)]
    return []

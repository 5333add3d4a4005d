"""Seconds of one step, and what they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.cost import OpTimes, Rates, bandwidth_together, message_seconds, op_times, peak_together
from moesim.engine.experts import ExpertStep
from moesim.engine.routing import Array
from moesim.engine.traits import Traits
from moesim.fabric import device_bytes_per_s
from moesim.hardware.types import Hardware
from moesim.ops import StepWork
from moesim.ops.primitives import ACTIVATION_BYTES

#: What an entry of the breakdown can be bound by.
RESOURCES = (
    "compute",
    "memory",
    "near-compute",
    "near-memory",
    "scale-up",
    "scale-out",
    "launch",
    "host",
)
#: Parts of a layer, in order; what is not named here belongs to the attention block.
BLOCKS = ("attention", "dispatch", "experts", "combine", "other")
_BLOCK_OF = dict.fromkeys(("embedding", "lm_head", "sampling", "host", "launches"), "other") | dict.fromkeys(
    (
        "router",
        "top_k",
        "weighted_sum",
        "shared_gate_up_proj",
        "shared_up_proj",
        "shared_down_proj",
        "shared_shared_gate_proj",
        "shared_activation",
    ),
    "experts",
)
#: Values of an expert step that are means over layers, not sums.
_MEANS = ("load_imbalance", "distinct_fraction", "near_share")


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One line of a breakdown; arrays are ``[batches]``.

    Parameters
    ----------
    op
        Name of the operation.
    seconds
        Over all layers of the step.
    shares
        The same seconds by resource; they sum to `seconds`.
    block
        One of `BLOCKS`.
    """

    op: str
    seconds: Array
    shares: dict[str, Array]
    block: str


@dataclass(frozen=True, slots=True, eq=False)
class StepTimes:
    """Seconds of one step for every batch.

    Parameters
    ----------
    work
        What was timed.
    ops
        Seconds of one run of each op.
    messages_s
        Seconds of all runs of each message, ``[batches]`` each.
    groups
        For each group of expert layers, the values that `moesim.engine.experts.FIELDS` names.
    seconds
        Of the step, ``[batches]``.
    bound_s
        What no schedule on this hardware can beat: each resource busy at its peak, all at once, ranks equal.
    hardware
        The cluster.
    traits
        What the engine added to its kernels.
    waiting_s
        Of `seconds`, those in which devices wait for the host to start kernels.
    """

    work: StepWork
    ops: OpTimes
    messages_s: tuple[Array, ...]
    groups: tuple[dict[str, Array], ...]
    seconds: Array
    bound_s: Array
    hardware: Hardware
    traits: Traits
    waiting_s: Array | float = 0.0

    def expert_mean(self, name: str) -> Array:
        """One of `moesim.engine.experts.FIELDS`: summed over layers, or for ratios their mean."""
        total = np.zeros(len(self.seconds))
        layers = sum(len(g.layers) for g in self.work.experts)
        for group, found in zip(self.work.experts, self.groups, strict=True):
            total += found[name] * (len(group.layers) / layers if name in _MEANS else 1.0)
        return total

    def memory_seconds(self) -> Array:
        """Seconds for which the memory alone would be busy, the slowest rank's experts included."""
        total = (self.work.table.counts * self.ops.memory_s).sum(axis=0)
        for found in self.groups:
            total = total + found["memory_s"]
        return np.asarray(total)

    def block_seconds(self) -> dict[str, Array]:
        """Seconds of each of `BLOCKS`, run one after the other."""
        blocks = {name: np.zeros(len(self.seconds)) for name in BLOCKS}
        for entry in self.entries():
            blocks[entry.block] = blocks[entry.block] + entry.seconds
        return blocks

    def entries(self) -> list[Entry]:
        """The breakdown of the sequential template, one entry per name."""
        table, times = self.work.table, self.ops
        merged: dict[str, Entry] = {}
        for row, (op, count) in enumerate(table.ops):
            seconds, floor = count * times.seconds[row], count * times.floor_s[row]
            shares = _shares(seconds, floor, times.compute_s[row], times.memory_s[row], times.near[row])
            _merge(merged, Entry(op.name, seconds, shares, _BLOCK_OF.get(op.name, "attention")))
        for (message, _), seconds in zip(table.messages, self.messages_s, strict=True):
            link = "scale-up" if message.span <= self.hardware.domain else "scale-out"
            _merge(merged, Entry(message.name, seconds, {link: seconds}, "attention"))
        link = "scale-up" if self.work.layout.stage <= self.hardware.domain else "scale-out"
        for found in self.groups:
            seconds = found["experts_s"]
            shares = _shares(
                seconds, found["floor_s"], found["compute_s"], found["memory_s"], found["near_share"] > 0.5
            )
            _merge(merged, Entry("experts", seconds, shares, "experts"))
            for name in ("dispatch", "combine"):
                if (seconds := self.traits.communication * found[f"{name}_s"]).any():
                    _merge(merged, Entry(name, seconds, {link: seconds}, name))
        if self.traits.host_s:
            seconds = np.full(len(self.seconds), self.traits.host_s)
            _merge(merged, Entry("host", seconds, {"host": seconds}, "other"))
        if np.any(self.waiting_s):
            seconds = np.broadcast_to(self.waiting_s, self.seconds.shape)
            _merge(merged, Entry("launches", seconds, {"host": seconds}, "other"))
        return list(merged.values())


def step_times(
    work: StepWork,
    experts: Sequence[ExpertStep],
    hardware: Hardware,
    rates: Rates | None = None,
    traits: Traits | None = None,
    backend: str = "",
) -> StepTimes:
    """Time one step, one operation after the other.

    Parameters
    ----------
    work
        The step.
    experts
        One `ExpertStep` per entry of ``work.experts``.
    hardware
        The cluster.
    traits
        What the engine adds; nothing by default.
    backend
        Serving engine whose collectives to take, where they were measured.
    rates
        Of the ops of the step on a device of it, if they were made before.
    """
    traits = traits or Traits()
    table = work.table
    times = op_times(table, hardware.device, rates)
    messages = tuple(
        traits.communication
        * count
        * np.broadcast_to(message_seconds(message, hardware, backend), (table.batches,))
        for message, count in table.messages
    )
    groups = tuple(step.at(group.tokens) for group, step in zip(work.experts, experts, strict=True))
    seconds = traits.host_s + (table.counts * times.seconds).sum(axis=0)
    for part in messages:
        seconds = seconds + part
    for found in groups:
        exchange = found["dispatch_s"] + found["combine_s"]
        seconds = seconds + found["experts_s"] + traits.communication * exchange
    bound = _bound(work, times, experts, groups, hardware)
    return StepTimes(work, times, messages, groups, seconds, bound, hardware, traits)


def _shares(
    seconds: Array, floor: Array, compute: Array, memory: Array, near: npt.NDArray[np.bool_]
) -> dict[str, Array]:
    rest = seconds - floor
    by_compute = compute >= memory
    shares = {
        "launch": floor,
        "compute": np.where(by_compute & ~near, rest, 0.0),
        "memory": np.where(by_compute | near, 0.0, rest),
    }
    if near.any():
        shares["near-compute"] = np.where(by_compute & near, rest, 0.0)
        shares["near-memory"] = np.where(near & ~by_compute, rest, 0.0)
    return shares


def _merge(entries: dict[str, Entry], new: Entry) -> None:
    old = entries.get(new.op)
    if old is not None:
        shares = {
            name: old.shares.get(name, 0.0) + new.shares.get(name, np.zeros_like(new.seconds))
            for name in old.shares.keys() | new.shares.keys()
        }
        new = Entry(new.op, old.seconds + new.seconds, shares, new.block)
    entries[new.op] = new


def _bound(
    work: StepWork,
    times: OpTimes,
    steps: Sequence[ExpertStep],
    groups: Sequence[dict[str, Array]],
    hardware: Hardware,
) -> Array:
    """Longest of: all operations at peak, all memory traffic at peak, all token vectors at the link's peak.

    Experts and links count with the mean over ranks, which the busiest rank can only exceed. A schedule may
    hide one resource behind another, but none of them can do its own part faster.
    """
    device, layout = hardware.device, work.layout
    bandwidth = bandwidth_together(device)
    compute = (work.table.counts * times.peak_compute_s).sum(axis=0)
    memory = (work.table.counts * times.peak_memory_s).sum(axis=0)
    cached = (work.table.counts * times.peak_kv_s).sum(axis=0)
    up, out = np.zeros(work.table.batches), np.zeros(work.table.batches)
    for group, step, found in zip(work.experts, steps, groups, strict=True):
        compute = compute + found["mean_flops"] / peak_together(device, "gemm", group.dtype)
        memory = memory + found["mean_bytes"] / bandwidth
        if layout.ep > 1 and layout.dp > 1:
            vector = (step.dispatch_bytes + group.hidden * ACTIVATION_BYTES) / layout.moe_tp
            up = up + found["up_tokens"] * vector / device_bytes_per_s(hardware)
            if hardware.scale_out is not None:
                out = out + found["out_tokens"] * vector / hardware.scale_out.bandwidth_bytes_per_s
    return np.asarray(np.max([compute, memory, cached, up, out], axis=0))

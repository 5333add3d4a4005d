"""What the emitters of all engines ask: memory, data types, who makes the device."""

from __future__ import annotations

import re
from dataclasses import dataclass

from moesim.engine.memory import MemoryUse
from moesim.hardware import Hardware
from moesim.layout import ExpertMap
from moesim.layout.parallelism import Parallelism
from moesim.model import Model, module_dtypes
from moesim.planning.launch.fleet import PREFILL
from moesim.planning.types import Candidate
from moesim.prediction.kept import deployment_of

_VENDORS = {"nvidia": re.compile("nvidia"), "amd": re.compile(r"\bamd\b|^mi\d"), "npu": re.compile("ascend")}
#: Machines of these kinds are taken to be NVIDIA's where their device says no vendor.
_GPUS = ("gpu", "cpu-gpu", "supernode")
_ROUND = 1024


def vendor_of(hardware: Hardware) -> str:
    """Whose software drives a machine: ``nvidia``, ``amd``, ``npu`` (Huawei's), or ``other``.

    Examples
    --------
    >>> from moesim.hardware import load_hardware
    >>> [vendor_of(load_hardware(name)) for name in ("gb200", "mi300x", "cloudmatrix384", "dojo-wafer")]
    ['nvidia', 'amd', 'npu', 'other']
    """
    said = f"{hardware.device.name} {hardware.device.title}".lower()
    for vendor, pattern in _VENDORS.items():
        if pattern.search(said):
            return vendor
    return "nvidia" if hardware.kind in _GPUS else "other"


@dataclass(frozen=True, slots=True)
class Setting:
    """What lines are made from.

    Parameters
    ----------
    candidate
        What is started.
    model
        As the engine is told of it: a folder or a Hugging Face id.
    placement
        Which rank holds which expert; None for the engine's own.
    file
        Name of the placement's file.
    dispatch
        The rule the placement was made for, one of `moesim.layout.DISPATCH`.
    longest_tokens
        Of a request; None for as many as the model takes.
    """

    candidate: Candidate
    model: str
    placement: ExpertMap | None = None
    file: str = ""
    dispatch: str = "even"
    longest_tokens: int | None = None

    @property
    def vendor(self) -> str:
        """``nvidia``, ``amd`` or ``npu``, see `vendor_of`; NVIDIA's lines where there are no others."""
        found = vendor_of(self.candidate.hardware)
        return "nvidia" if found == "other" else found

    @property
    def visible(self) -> str:
        """The variable that names the devices of a process."""
        return {
            "nvidia": "CUDA_VISIBLE_DEVICES",
            "amd": "HIP_VISIBLE_DEVICES",
            "npu": "ASCEND_RT_VISIBLE_DEVICES",
        }[self.vendor]

    @property
    def context(self) -> int | None:
        """Tokens a request may have: the longest, rounded up, as far as the model goes."""
        if self.longest_tokens is None:
            return None
        rounded = -(-self.longest_tokens // _ROUND) * _ROUND
        most = self.candidate.model.max_context
        return rounded if most is None else max(min(rounded, most), self.longest_tokens)

    def redundant(self, role: str) -> int:
        """Spare experts of an instance: those of workers that decode."""
        return 0 if role == PREFILL else self.candidate.redundant

    def placed(self, role: str, layout: Parallelism) -> bool:
        """Whether the placement is one of these instances."""
        return self.placement is not None and role != PREFILL and layout.ep > 1

    def memory(self, layout: Parallelism) -> MemoryUse:
        """Of a device of an instance."""
        c, e = self.candidate, self.candidate.engine
        return deployment_of(c.model, c.hardware, layout, e, None, None, 0).memory(
            e.chunk_tokens, e.memory_utilisation
        )

    def online_fp8(self) -> bool:
        """Whether the engine has to quantise a 16-bit checkpoint to fp8 while it loads it."""
        model, dtype = self.candidate.model, self.candidate.engine.dtype
        return dtype == "fp8" and not self.as_stored() and set(module_dtypes(model, "auto").values()) <= _WIDE

    def as_stored(self) -> bool:
        """Whether weights are served in the checkpoint's own data types."""
        model, dtype = self.candidate.model, self.candidate.engine.dtype
        return dtype == "auto" or module_dtypes(model, dtype) == module_dtypes(model, "auto")

    def dtype_notes(self, quantises: bool) -> list[str]:
        """What the data type of weights needs beyond options."""
        if self.as_stored() or (quantises and self.online_fp8()):
            return []
        return [f"needs a checkpoint in {self.candidate.engine.dtype}: {self.model} is none"]


_WIDE = {"bf16", "fp16", "fp32"}


def draft_note(model: Model, tokens: int | None) -> list[str]:
    """What drafting needs where the model has no prediction head."""
    if not tokens or model.mtp_layers:
        return []
    return ["put the folder or id of an EAGLE-3 draft in the place of DRAFT_MODEL"]

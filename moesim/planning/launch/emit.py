"""From a candidate to the lines that start it, and to a folder that holds them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import IO, cast

from moesim.errors import ConfigError, Fault, InfeasibleError
from moesim.files import atomic_write
from moesim.layout import ExpertMap
from moesim.layout.disaggregated import Disaggregated
from moesim.placement.files import FORMATS, Target
from moesim.planning.launch import sglang, trtllm, vllm
from moesim.planning.launch.fleet import PREFILL, alike, instances, places
from moesim.planning.launch.setting import Setting, vendor_of
from moesim.planning.launch.words import Command, Launch
from moesim.planning.types import Candidate

_ENGINES: Mapping[str, ModuleType] = {"vllm": vllm, "sglang": sglang, "trtllm": trtllm}
#: Format and name of the placement's file by engine.
_PLANS = {
    "vllm": ("vllm", "expert-placement.json"),
    "sglang": ("sglang", "expert-placement.json"),
    "trtllm": ("tensorrt-llm", "expert-placement.yaml"),
}
SCRIPT = "commands.sh"


def unsupported(candidate: Candidate) -> str:
    """Why the candidate's engine cannot be laid out so; empty if it can.

    Examples
    --------
    >>> from moesim.hardware import load_hardware
    >>> from moesim.layout import Parallelism
    >>> from moesim.model import load_model
    >>> from moesim.prediction import Engine
    >>> model, machine = load_model("gpt-oss-20b"), load_hardware("h100-sxm-8")
    >>> unsupported(Candidate(model, machine, Parallelism(dp=8, ep=4), 1, Engine()))
    "vLLM's expert parallelism is 1 or dp x tp = 8, not 4"
    """
    engine = _ENGINES[candidate.engine.backend]
    if engine is trtllm and vendor_of(candidate.hardware) != "nvidia":
        return "TensorRT-LLM is for NVIDIA's devices"
    for role, layout in dict(instances(candidate.layout)).items():
        bare = replace(candidate, redundant=0) if role == PREFILL else candidate
        reason = str(engine.unsupported(layout, bare))
        if reason:
            return reason
    return ""


def launch(
    candidate: Candidate,
    *,
    served: str = "",
    placement: ExpertMap | None = None,
    dispatch: str = "even",
    longest_tokens: int | None = None,
) -> Launch:
    """The lines that start a candidate, and the files they read.

    Parameters
    ----------
    candidate
        What is started.
    served
        Folder or Hugging Face id of the checkpoint; without it the model's name stands for it.
    placement
        Which rank of an instance (that decodes) holds which expert; without it the engine's own.
    dispatch
        The rule the placement was made for, one of `moesim.layout.DISPATCH`.
    longest_tokens
        Of a request, input and output; bounds the context of the engine.

    Raises
    ------
    InfeasibleError
        If the engine cannot be laid out so.
    ConfigError
        If the placement is of another model, layout or number of spares.
    """
    reason = unsupported(candidate)
    if reason:
        raise InfeasibleError(reason, resource="layout", needed=1.0, available=0.0)
    name = candidate.engine.backend
    format_, file = _PLANS[name]
    setting = Setting(candidate, served or candidate.model.name, placement, file, dispatch, longest_tokens)
    files = {} if placement is None else {file: _plan(candidate, placement, format_)}
    engine, found = _ENGINES[name], places(candidate)
    lines: list[Command] = [c for place, n in alike(found) for c in engine.commands(setting, place, n)]
    router = engine.router(found)
    lines += [router] if router is not None else []
    files |= engine.files(setting, found) if hasattr(engine, "files") else {}
    notes = list(engine.notes(setting, found))
    if served in ("", candidate.model.name):
        notes.insert(0, f"{candidate.model.name} stands for the checkpoint's folder or Hugging Face id")
    if vendor_of(candidate.hardware) == "other":
        title = candidate.hardware.device.title
        notes.insert(0, f"{name} is not known to run on {title}: the lines are those for NVIDIA's devices")
    if longest_tokens is not None:
        notes.append(f"requests of more than {setting.context} tokens are refused: the traffic has none")
    return Launch(name, engine.DOCUMENTED, tuple(lines), files, tuple(notes))


def folder_faults(folder: str | os.PathLike[str], option: str = "--emit") -> list[Fault]:
    """What keeps a folder from being written to, found before any work is done."""
    path = Path(folder)
    if path.exists() and not path.is_dir():
        return [Fault("is a file, not a folder", option, str(path), "a folder, or the name of a new one")]
    writable = path if path.exists() else path.parent
    if not writable.is_dir():
        return [Fault("its folder does not exist", option, str(path), "a folder in one that exists")]
    if not os.access(writable, os.W_OK):
        return [Fault("cannot be written: permission denied", option, str(path), "a writable folder")]
    return []


def write_launch(found: Launch, folder: str | os.PathLike[str]) -> list[Path]:
    """Write the lines and their files to a folder, which is made if there is none.

    Each file is written whole or not at all; the lines come last, when all they read is there.

    Raises
    ------
    ConfigError
        If the folder cannot be written to.
    """
    faults = folder_faults(folder)
    if faults:
        raise ConfigError(faults)
    path = Path(folder)
    path.mkdir(exist_ok=True)
    written = []
    for name, content in [*sorted(found.files.items()), (SCRIPT, script(found).encode())]:
        with atomic_write(path / name, "wb") as stream:
            cast("IO[bytes]", stream).write(content)
        written.append(path / name)
    return written


def script(found: Launch) -> str:
    """All lines with what they are for; not to be run as a whole, since they belong to different nodes."""
    rows = [
        f"# {found.engine}: each line on its own node, in this folder. Checked against",
        f"# {found.documented}.",
        "# HEAD_NODE: first node of an instance; LOCAL_IP: the node a line runs on; SERVER_n, PREFILL_n,",
        "# DECODE_n: head of instance n.",
        *(f"# {note}" for note in found.notes),
    ]
    for command in found.commands:
        rows += ["", f"# {command.role}, {command.where}", command.text]
    return "\n".join(rows) + "\n"


def _plan(candidate: Candidate, placement: ExpertMap, format_: str) -> bytes:
    layout = candidate.layout
    if isinstance(layout, Disaggregated):
        layout = layout.decode.layout
    target = Target.of(candidate.model, layout.ep, candidate.model.num_experts + candidate.redundant)
    faults = target.fit(placement)
    if placement.redundant != candidate.redundant:
        faults.append(
            Fault("spares of the placement are not the plan's", "placement", placement.redundant,
                  str(candidate.redundant))
        )  # fmt: skip
    if faults:
        raise ConfigError(faults, "expert placement")
    return FORMATS[format_].write(placement, target)

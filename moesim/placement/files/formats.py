"""The plan formats there are, and which of them a file is in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesim.errors import ConfigError, Fault, nearest
from moesim.layout import ExpertMap
from moesim.layout.expert_map import IntArray
from moesim.placement.files import eplb, sglang, tensorrt_llm, vllm, vllm_ascend
from moesim.placement.files.findings import Findings
from moesim.placement.files.launch import Launch, json_name
from moesim.placement.files.read import NotAPlanError, load_json
from moesim.placement.files.target import Target
from moesim.placement.files.yaml_text import load_yaml


@dataclass(frozen=True, slots=True)
class PlanFormat:
    """One way to write a plan down.

    Parameters
    ----------
    name
        As in ``--emit NAME:FILE``.
    engine
        Who loads it.
    file
        A usual name.
    text
        ``json``, ``yaml`` or ``npz``.
    recognises
        Whether a parsed document is meant to be in this format.
    write
        The file's bytes, of a plan that fits the target.
    read
        The table of the MoE layers from a parsed document, or None and faults.
    rows
        Rows of the file.
    command, notes
        The shell lines that start the engine with the plan, and what they need.
    path_faults
        What the engine has against a path.
    """

    name: str
    engine: str
    file: str
    text: str
    recognises: Callable[[object], bool]
    write: Callable[[ExpertMap, Target], bytes]
    read: Callable[[Any, Target, Findings], IntArray | None]
    rows: Callable[[Target], int]
    command: Callable[[Launch], str]
    notes: Callable[[Launch], tuple[str, ...]]
    path_faults: Callable[[Path, str], list[Fault]] = lambda path, where: []  # noqa: ARG005


def _moe_rows(target: Target) -> int:
    return len(target.moe_layer_ids)


def _all_rows(target: Target) -> int:
    return target.num_layers


#: By name.
FORMATS: dict[str, PlanFormat] = {
    f.name: f
    for f in (
        PlanFormat(
            "sglang", "SGLang", "plan.json", "json", sglang.recognises, sglang.write, sglang.read,
            _all_rows, sglang.command, sglang.notes, json_name,
        ),
        PlanFormat(
            "tensorrt-llm", "TensorRT-LLM", "plan.yaml", "yaml", tensorrt_llm.recognises, tensorrt_llm.write,
            tensorrt_llm.read, _moe_rows, tensorrt_llm.command, tensorrt_llm.notes,
        ),
        PlanFormat(
            "vllm-ascend", "vllm-ascend", "map.json", "json", vllm_ascend.recognises, vllm_ascend.write,
            vllm_ascend.read, _moe_rows, vllm_ascend.command, vllm_ascend.notes, json_name,
        ),
        PlanFormat(
            "vllm", "vLLM (experimental)", "plan.json", "json", vllm.recognises, vllm.write, vllm.read,
            _moe_rows, vllm.command, vllm.notes,
        ),
        PlanFormat(
            "eplb", "scripts", "plan.npz", "npz", eplb.recognises, eplb.write, eplb.read,
            _moe_rows, eplb.command, eplb.notes,
        ),
    )
}  # fmt: skip

#: Other names of formats.
ALIASES = {"trtllm": "tensorrt-llm"}


def format_named(name: str) -> PlanFormat | None:
    """The format of a name or an alias."""
    return FORMATS.get(ALIASES.get(name, name))


def format_fault(name: str, where: str) -> Fault:
    """The fault of a name that is no format."""
    near = nearest(name, [*FORMATS, *ALIASES])
    hint = f"nearest: {', '.join(near)}; " if near else ""
    return Fault("is no plan format", where, name, hint + wanted())


def wanted() -> str:
    """What to write a plan to, for messages.

    >>> wanted()
    'sglang:plan.json, tensorrt-llm:plan.yaml, vllm-ascend:map.json, vllm:plan.json, eplb:plan.npz'
    """
    return ", ".join(f"{f.name}:{f.file}" for f in FORMATS.values())


def document_of(
    content: bytes, path: Path, target: Target, name: str | None = None
) -> tuple[PlanFormat, Any]:
    """The format of a file and its parsed document.

    Parameters
    ----------
    content, path
        The file.
    target
        What it should be for; bounds its size.
    name
        The format, if it is known; else it is told from the content.

    Raises
    ------
    NotAPlanError
        If the content is in none of the formats, or not in the one that was named.
    """
    if name is not None:
        known = format_named(name)
        if known is None:
            raise ConfigError(format_fault(name, "format"))
        document = _load(known.text, content, path, target)
        if not known.recognises(document):
            raise _unknown(document, path, f"a plan in the format {known.name}")
        return known, document
    text = _text_of(content)
    document = _load(text, content, path, target)
    for known in FORMATS.values():
        if known.recognises(document) and (known.text == "npz") == (text == "npz"):
            if known.text != text:  # JSON is YAML, too, but its layers would be names
                document = _load(known.text, content, path, target)
            return known, document
    raise _unknown(document, path, f"a plan of {', '.join(FORMATS)}")


def _text_of(content: bytes) -> str:
    if content[:2] == b"PK":
        return "npz"
    start = content.lstrip()[:1]
    flow = start == b"{" and tensorrt_llm.LAYERS.encode() in content
    return "json" if start in (b"{", b"[") and not flow else "yaml"


def _load(text: str, content: bytes, path: Path, target: Target) -> Any:  # noqa: ANN401 - any tree
    if text == "npz":
        return eplb.load(path, target)
    return (load_json if text == "json" else load_yaml)(content, target, path)


def _unknown(document: object, path: Path, wanted: str) -> NotAPlanError:
    if isinstance(document, dict) and "logical_count" in document:
        fault = Fault("holds loads, from which SGLang would make a plan itself", "", None, wanted)
    elif isinstance(document, dict):
        shown = ", ".join(str(name)[:40] for name in list(document)[:8])
        fault = Fault("is no plan of any known format", "", f"names {shown}", wanted)
    else:
        fault = Fault("is no plan of any known format", "", type(document).__name__, wanted)
    return NotAPlanError(fault, path)

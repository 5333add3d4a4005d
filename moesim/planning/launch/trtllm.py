"""TensorRT-LLM: ``trtllm-serve`` with an options file per role; ``--tp_size`` holds data-parallel attention.

Flags as in ``tensorrt_llm/commands/serve.py``, options as in ``llmapi/llm_args.py``, the curated
configurations of the documentation and ``docs/source/features/disagg-serving.md``.
"""

from __future__ import annotations

from collections.abc import Sequence

from moesim.layout.parallelism import Parallelism
from moesim.planning.launch.fleet import DECODE, PREFILL, Place
from moesim.planning.launch.setting import Setting, draft_note
from moesim.planning.launch.words import Command, line
from moesim.planning.types import Candidate

DOCUMENTED = (
    "NVIDIA/TensorRT-LLM: tensorrt_llm/commands/serve.py@00209af, "
    "docs/source/features/disagg-serving.md@0434b98, curated configurations of the documentation (2026)"
)
PORT = 8000
DISAGGREGATED = "disagg_config.yaml"
_KV = {"fp8": "fp8", "bf16": "bfloat16", "fp16": "float16"}


def unsupported(layout: Parallelism, candidate: Candidate) -> str:
    """Why TensorRT-LLM cannot lay an instance out so; empty if it can."""
    if layout.dp > 1 and layout.tp > 1:
        return "TensorRT-LLM's attention data parallelism gives every device a rank of its own: tp must be 1"
    if layout.dp > 1 and candidate.model.moe is None:
        return "TensorRT-LLM's attention data parallelism is for models with experts: take replicas instead"
    return ""


def options_file(role: str) -> str:
    """Name of a role's options."""
    return f"trtllm-{role}.yaml"


def commands(setting: Setting, place: Place, count: int) -> list[Command]:
    """The line of an instance: one task per device starts it on all nodes."""
    layout = place.layout
    env = {setting.visible: ",".join(map(str, place.devices))} if place.devices else {}
    words: list[object] = []
    if place.nodes > 1:
        each = setting.candidate.hardware.devices_per_node
        words += ["srun", "--nodes", place.nodes, "--ntasks", layout.world]
        words += ["--ntasks-per-node", min(each, layout.world), "--mpi=pmix", "trtllm-llmapi-launch"]
    words += ["trtllm-serve", setting.model, "--host", "0.0.0.0", "--port", port(place)]
    words += ["--tp_size", layout.stage, *(["--pp_size", layout.pp] if layout.pp > 1 else [])]
    words += ["--ep_size", layout.ep] if setting.candidate.model.moe is not None else []
    engine = setting.candidate.engine
    words += ["--max_batch_size", int(min(engine.max_sequences, engine.chunk_tokens))]
    words += ["--max_num_tokens", int(engine.chunk_tokens)]
    words += ["--max_seq_len", setting.context] if setting.context is not None else []
    words += ["--config", options_file(place.role)]
    return [Command(place.role, None, place.nodes, count, place.devices, line(words, env))]


def port(place: Place) -> int:
    """Port of an instance on its node; the orchestrator has the one before."""
    return PORT + 1 + place.slot


def router(found: Sequence[Place]) -> Command | None:
    """The line that joins the pools."""
    if all(place.role not in (PREFILL, DECODE) for place in found):
        return None
    return Command("router", 0, 1, 1, (), line(["trtllm-serve", "disaggregated", "-c", DISAGGREGATED]))


def notes(setting: Setting, found: Sequence[Place]) -> list[str]:
    """What the lines need, or cannot do."""
    candidate, engine = setting.candidate, setting.candidate.engine
    said = [*setting.dtype_notes(False), *draft_note(candidate.model, engine.speculative_tokens)]
    said.append("--config is called --extra_llm_api_options in older releases")
    if engine.speculative_tokens and candidate.model.mtp_layers:
        said.append("max_draft_len of MTP is called num_nextn_predict_layers in older releases")
    if engine.overlap == "two-batch":
        said.append("TensorRT-LLM has no two-batch overlap: the plan is faster than the engine")
    if any(place.role == PREFILL for place in found):
        said.append(f"put addresses for the $ names in {DISAGGREGATED}: trtllm-serve does not fill them in")
    elif len(found) > 1:
        said.append("put a load balancer before the instances")
    return said


def files(setting: Setting, found: Sequence[Place]) -> dict[str, bytes]:
    """Options of each role, and of the orchestrator."""
    made = {}
    for place in found:
        if options_file(place.role) not in made:
            made[options_file(place.role)] = "\n".join([*_options(setting, place), ""]).encode()
    if any(place.role == PREFILL for place in found):
        made[DISAGGREGATED] = "\n".join([*_orchestrator(found), ""]).encode()
    return made


def _options(setting: Setting, place: Place) -> list[str]:
    candidate, engine, layout = setting.candidate, setting.candidate.engine, place.layout
    memory = setting.memory(layout)
    free = memory.capacity_bytes - memory.weights_bytes - memory.workspace_bytes
    rows = [f"enable_attention_dp: {str(layout.dp > 1).lower()}", "enable_chunked_prefill: true"]
    # TensorRT-LLM's fraction is of what weights and workspace leave.
    rows += ["kv_cache_config:", f"  free_gpu_memory_fraction: {memory.cache_budget_bytes / free:.3f}"]
    rows += [f"  dtype: {_KV.get(engine.kv_cache_dtype, 'auto')}"]
    redundant = setting.redundant(place.role)
    placed = setting.placed(place.role, layout)
    if redundant or placed:
        rows += ["moe_config:", "  backend: WIDEEP"]
        if placed:
            rows.append(f"  load_balancer: {setting.file}")
        else:  # with updates the balancer places experts by the load it sees
            slots = candidate.model.num_experts + redundant
            rows += ["  load_balancer:", f"    num_slots: {slots}", "    layer_updates_per_iter: 1"]
    if engine.speculative_tokens:
        kind = "MTP" if candidate.model.mtp_layers else "Eagle3"
        rows += ["speculative_config:", f"  decoding_type: {kind}"]
        rows += [f"  max_draft_len: {engine.speculative_tokens}"]
        rows += [] if candidate.model.mtp_layers else ["  speculative_model: DRAFT_MODEL"]
    if engine.enforce_eager:
        rows.append("cuda_graph_config: null")
    if place.role in (PREFILL, DECODE):
        rows += ["disable_overlap_scheduler: true"] if place.role == PREFILL else []
        rows += ["cache_transceiver_config:", "  backend: NIXL"]
        if setting.longest_tokens is not None:
            rows.append(f"  max_tokens_in_buffer: {setting.context}")
    return rows


def _orchestrator(found: Sequence[Place]) -> list[str]:
    rows = ["hostname: 0.0.0.0", f"port: {PORT}", "backend: pytorch"]
    for role, name in ((PREFILL, "context_servers"), (DECODE, "generation_servers")):
        pool = [place for place in found if place.role == role]
        rows += [f"{name}:", f"  num_instances: {len(pool)}", "  urls:"]
        rows += [f'    - "${role.upper()}_{place.index}:{port(place)}"' for place in pool]
    return rows

"""SGLang: ``sglang.launch_server``, one line per node; ``--tp-size`` holds attention's data parallelism.

Flags as in SGLang's ``docs/advanced_features/{server_arguments,pd_disaggregation,router}.md``. With
``--enable-dp-attention`` the server divides ``--chunked-prefill-size`` and ``--max-running-requests`` by
``--dp-size`` (``server_args.py``, ``model_runner.py``), so that they are given for all ranks together.
"""

from __future__ import annotations

from collections.abc import Sequence

from moesim.layout.parallelism import Parallelism
from moesim.planning.launch.fleet import DECODE, PREFILL, Place
from moesim.planning.launch.setting import Setting, draft_note
from moesim.planning.launch.words import Command, line
from moesim.planning.types import Candidate

DOCUMENTED = (
    "sgl-project/sglang: docs/advanced_features/server_arguments.md@004813e, "
    "docs/advanced_features/pd_disaggregation.md@08edc50"
)
#: An instance takes a range of ports: those of its schedulers lie some hundreds above its own.
PORT, STRIDE, INIT_PORT = 30000, 1000, 5000
_KV = {"fp8": "fp8_e4m3", "bf16": "bf16", "fp16": "auto"}
_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
_ALGORITHMS = {"sglang-static": "static", "sglang-dynamic": "dynamic", "lp": "lp"}
_ALL_TO_ALL = {"nvidia": "deepep", "amd": "mori", "npu": "deepep"}


def unsupported(layout: Parallelism, candidate: Candidate) -> str:
    """Why SGLang cannot lay an instance out so; empty if it can."""
    dense = candidate.model.moe is None
    if dense and layout.dp > 1 and layout.world > candidate.hardware.devices_per_node:
        return "SGLang's data parallelism of a dense model stays on one node: take replicas instead"
    return ""


def commands(setting: Setting, place: Place, count: int) -> list[Command]:
    """The lines of an instance, one for each of its nodes."""
    env = {setting.visible: ",".join(map(str, place.devices))} if place.devices else {}
    found = []
    for node in range(place.nodes):
        words: list[object] = ["python", "-m", "sglang.launch_server", "--model-path", setting.model]
        words += ["--host", "0.0.0.0", "--port", port(place), *_layout(setting, place.layout)]
        if place.nodes > 1:
            words += ["--nnodes", place.nodes, "--node-rank", node]
        if place.nodes > 1 or place.slot:
            head = "$HEAD_NODE" if place.nodes > 1 else "127.0.0.1"
            words += ["--dist-init-addr", f"{head}:{INIT_PORT + STRIDE * place.slot}"]
        words += [*_experts(setting, place), *_engine(setting, place.layout), *_transfer(place)]
        found.append(Command(place.role, node, place.nodes, count, place.devices, line(words, env)))
    return found


def port(place: Place) -> int:
    """Port of an instance on its node."""
    return PORT + STRIDE * place.slot


def router(found: Sequence[Place]) -> Command | None:
    """The line that joins the instances."""
    if len(found) == 1:
        return None
    words: list[object] = ["python", "-m", "sglang_router.launch_router"]
    if any(place.role == PREFILL for place in found):
        words.append("--pd-disaggregation")
        for role in (PREFILL, DECODE):
            for place in found:
                words += [f"--{role}", _url(place)] if place.role == role else []
    else:
        words += ["--worker-urls", *map(_url, found)]
    return Command("router", 0, 1, 1, (), line([*words, "--host", "0.0.0.0", "--port", 8000]))


def notes(setting: Setting, found: Sequence[Place]) -> list[str]:
    """What the lines need, or cannot do."""
    candidate, engine = setting.candidate, setting.candidate.engine
    said = [*setting.dtype_notes(True), *draft_note(candidate.model, engine.speculative_tokens)]
    if any(_all_to_all(setting, place.layout) for place in found):
        said.append(f"{_ALL_TO_ALL[setting.vendor]}'s kernels have to be installed")
    if any(place.layout.dp > 1 for place in found) and candidate.model.moe is not None:
        said.append(
            "--enable-dp-attention is for families that support it: DeepSeek and Qwen MoE, it is documented"
        )
    if any(place.role == PREFILL for place in found):
        said.append("needs pip install nixl sglang-router")
    elif len(found) > 1:
        said.append("needs pip install sglang-router")
    if setting.placement is not None and setting.dispatch not in _ALGORITHMS:
        said.append(
            f"SGLang has no dispatch rule {setting.dispatch!r}: dynamic, a draw among the nearest replicas "
            "for each token, is the closest"
        )
    return said


def _url(place: Place) -> str:
    name = "SERVER" if place.role not in (PREFILL, DECODE) else place.role.upper()
    return f"http://${name}_{place.index}:{port(place)}"


def _attention_dp(setting: Setting, layout: Parallelism) -> bool:
    return layout.dp > 1 and setting.candidate.model.moe is not None


def _layout(setting: Setting, layout: Parallelism) -> list[object]:
    if _attention_dp(setting, layout):
        words: list[object] = ["--tp-size", layout.stage, "--dp-size", layout.dp, "--enable-dp-attention"]
    else:
        words = ["--tp-size", layout.tp, *(["--dp-size", layout.dp] if layout.dp > 1 else [])]
    words += ["--pp-size", layout.pp] if layout.pp > 1 else []
    return words + (["--ep-size", layout.ep] if layout.ep > 1 else [])


def _all_to_all(setting: Setting, layout: Parallelism) -> str:
    """Tokens go to their experts where every rank has attention of its own; else all ranks see all tokens."""
    spread = layout.ep == layout.stage > 1 and layout.dp > 1
    return _ALL_TO_ALL[setting.vendor] if spread else ""


def _experts(setting: Setting, place: Place) -> list[object]:
    backend = _all_to_all(setting, place.layout)
    words: list[object] = ["--moe-a2a-backend", backend] if backend else []
    redundant = setting.redundant(place.role)
    if redundant:
        words += ["--ep-num-redundant-experts", redundant]
    if setting.placed(place.role, place.layout):
        words += ["--init-expert-location", setting.file]
        words += ["--ep-dispatch-algorithm", _ALGORITHMS.get(setting.dispatch, "dynamic")]
    elif redundant:
        words.append("--enable-eplb")
    return words


def _engine(setting: Setting, layout: Parallelism) -> list[object]:
    engine, model = setting.candidate.engine, setting.candidate.model
    ranks = layout.dp if _attention_dp(setting, layout) else 1
    words: list[object] = []
    if not setting.as_stored():
        if setting.online_fp8():
            words += ["--quantization", "fp8"]
        elif engine.dtype in _DTYPES:
            words += ["--dtype", _DTYPES[engine.dtype]]
    if engine.kv_cache_dtype != "auto":
        words += ["--kv-cache-dtype", _KV[engine.kv_cache_dtype]]
    words += ["--chunked-prefill-size", int(engine.chunk_tokens) * ranks]
    words += ["--max-running-requests", int(engine.max_sequences) * ranks]
    # SGLang's fraction holds weights and cache, without activations and graphs.
    memory = setting.memory(layout)
    static = (memory.budget_bytes - memory.workspace_bytes) / memory.capacity_bytes
    words += ["--mem-fraction-static", f"{static:.3f}"]
    words += ["--context-length", setting.context] if setting.context is not None else []
    if engine.scheduler_recv_interval != 1.0:
        words += ["--scheduler-recv-interval", int(engine.scheduler_recv_interval)]
    words += ["--enable-two-batch-overlap"] if engine.overlap == "two-batch" else []
    words += ["--disable-cuda-graph"] if engine.enforce_eager else []
    if engine.speculative_tokens:
        words += ["--speculative-algorithm", "NEXTN" if model.mtp_layers else "EAGLE3"]
        words += [] if model.mtp_layers else ["--speculative-draft-model-path", "DRAFT_MODEL"]
        words += ["--speculative-num-steps", engine.speculative_tokens, "--speculative-eagle-topk", 1]
        words += ["--speculative-num-draft-tokens", engine.speculative_tokens + 1]
    return words


def _transfer(place: Place) -> list[object]:
    if place.role not in (PREFILL, DECODE):
        return []
    return ["--disaggregation-mode", place.role, "--disaggregation-transfer-backend", "nixl"]

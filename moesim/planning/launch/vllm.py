"""vLLM: ``vllm serve``, one line per node; expert parallelism is all of tensor times data parallelism.

Flags as in vLLM's ``vllm/engine/arg_utils.py`` with ``ParallelConfig.nnodes`` (v0.12 and later) and
``docs/serving/{expert_parallel,data_parallel}_deployment.md``, ``docs/features/nixl_connector_usage.md``.
"""

from __future__ import annotations

from collections.abc import Sequence

from moesim.layout.parallelism import Parallelism
from moesim.placement.files.launch import compact
from moesim.planning.launch.fleet import DECODE, PREFILL, Place
from moesim.planning.launch.setting import Setting, draft_note
from moesim.planning.launch.words import Command, line
from moesim.planning.types import Candidate

DOCUMENTED = (
    "vllm-project/vllm: arg_utils.py since v0.12, docs/serving/expert_parallel_deployment.md@13642f1, "
    "docs/serving/data_parallel_deployment.md@624b7af, docs/features/nixl_connector_usage.md@026c83f"
)
PORT, RPC_PORT, MASTER_PORT, SIDE_PORT = 8000, 13345, 29500, 5600
_KV = {"fp8": "fp8", "bf16": "bfloat16", "fp16": "auto"}
_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


def unsupported(layout: Parallelism, candidate: Candidate) -> str:
    """Why vLLM cannot lay an instance out so; empty if it can."""
    if layout.ep not in (1, layout.stage):
        return f"vLLM's expert parallelism is 1 or dp x tp = {layout.stage}, not {layout.ep}"
    if candidate.redundant and layout.ep == 1:
        return "vLLM has redundant experts with expert parallelism alone"
    return ""


def commands(setting: Setting, place: Place, count: int) -> list[Command]:
    """The lines of an instance, one for each of its nodes."""
    layout, nodes = place.layout, place.nodes
    each = setting.candidate.hardware.devices_per_node
    rank = layout.pp * layout.tp  # devices of a data-parallel rank
    env: dict[str, object] = {}
    if place.devices:
        env[setting.visible] = ",".join(map(str, place.devices))
    if place.role in (PREFILL, DECODE):
        env["VLLM_NIXL_SIDE_CHANNEL_HOST"] = "$LOCAL_IP"
        env["VLLM_NIXL_SIDE_CHANNEL_PORT"] = side_port(place)
    found = []
    by_ray = nodes > 1 and layout.dp > 1 and rank > each
    if by_ray:
        env["VLLM_RAY_DP_PACK_STRATEGY"] = "span"
    for node in range(1 if by_ray else nodes):
        words = ["vllm", "serve", setting.model, "--port", port(place), *_layout(layout)]
        if by_ray:
            words += ["--data-parallel-backend", "ray", "--distributed-executor-backend", "ray"]
        elif nodes > 1 and layout.dp > 1:
            local = each // rank
            words += ["--data-parallel-size-local", min(local, layout.dp - node * local)]
            words += ["--data-parallel-address", "$HEAD_NODE", "--data-parallel-rpc-port", RPC_PORT]
            words += ["--data-parallel-start-rank", node * local, "--headless"] if node else []
        elif nodes > 1:
            words += ["--nnodes", nodes, "--node-rank", node, "--master-addr", "$HEAD_NODE"]
            words += ["--master-port", MASTER_PORT, *(["--headless"] if node else [])]
        elif layout.dp > 1 and place.slot:
            words += ["--data-parallel-rpc-port", RPC_PORT + place.slot]
        words += [*_experts(setting, place), *_engine(setting), *_transfer(place)]
        found.append(Command(place.role, node, nodes, count, place.devices, line(words, env)))
    return found


def port(place: Place) -> int:
    """Port of an instance on its node."""
    return PORT + place.slot


def side_port(place: Place) -> int:
    """First port of the hand-over; data-parallel ranks take those after it."""
    return SIDE_PORT + 100 * place.slot


def router(found: Sequence[Place]) -> Command | None:
    """The line that joins the pools."""
    if all(place.role not in (PREFILL, DECODE) for place in found):
        return None
    words: list[object] = ["python", "tests/v1/kv_connector/nixl_integration/toy_proxy_server.py"]
    words += ["--port", PORT + 192]
    for role, option in ((PREFILL, "prefiller"), (DECODE, "decoder")):
        pool = [place for place in found if place.role == role]
        words += [f"--{option}-hosts", *(f"${role.upper()}_{place.index}" for place in pool)]
        words += [f"--{option}-ports", *(port(place) for place in pool)]
    return Command("router", 0, 1, 1, (), line(words))


def notes(setting: Setting, found: Sequence[Place]) -> list[str]:
    """What the lines need, or cannot do."""
    candidate, engine = setting.candidate, setting.candidate.engine
    each = candidate.hardware.devices_per_node
    said = [*setting.dtype_notes(True), *draft_note(candidate.model, engine.speculative_tokens)]
    if any(_all_to_all(setting, place) for place in found):
        said.append("DeepEP's kernels have to be installed: vLLM's tools/ep_kernels")
    if any(p.nodes > 1 and p.layout.dp > 1 and p.layout.pp * p.layout.tp > each for p in found):
        said.append("a data-parallel rank spans nodes: start a Ray cluster over the nodes first")
    if any(place.role == PREFILL for place in found):
        said.append("needs pip install nixl; the proxy is vLLM's example, from a checkout of its repository")
    elif len(found) > 1:
        said.append("put a load balancer before the instances")
    if setting.placement is not None:
        said.append(
            f"no release of vLLM loads {setting.file}: it balances by itself; with pull request 49572 put "
            '"initial_expert_map_path" into --eplb-config'
        )
    if setting.vendor == "npu":
        said.append("needs the plug-in vllm-ascend")
    return said


def _layout(layout: Parallelism) -> list[object]:
    words: list[object] = ["--tensor-parallel-size", layout.tp]
    words += ["--pipeline-parallel-size", layout.pp] if layout.pp > 1 else []
    words += ["--data-parallel-size", layout.dp] if layout.dp > 1 else []
    return words + (["--enable-expert-parallel"] if layout.ep > 1 else [])


def _experts(setting: Setting, place: Place) -> list[object]:
    words: list[object] = []
    backend = _all_to_all(setting, place)
    if backend:
        words += ["--all2all-backend", backend]
    if redundant := setting.redundant(place.role):
        words += ["--enable-eplb", "--eplb-config", compact({"num_redundant_experts": redundant})]
    return words


def _all_to_all(setting: Setting, place: Place) -> str:
    """DeepEP where tokens cross nodes or pools are apart, as vLLM's guide has it; else the default."""
    layout = place.layout
    if layout.ep == 1 or layout.dp == 1 or setting.vendor != "nvidia":
        return ""
    if place.role == PREFILL:
        return "deepep_high_throughput"
    return "deepep_low_latency" if place.role == DECODE or place.nodes > 1 else ""


def _engine(setting: Setting) -> list[object]:
    engine, model = setting.candidate.engine, setting.candidate.model
    words: list[object] = []
    if not setting.as_stored():
        if setting.online_fp8():
            words += ["--quantization", "fp8"]
        elif engine.dtype in _DTYPES:
            words += ["--dtype", _DTYPES[engine.dtype]]
    if engine.kv_cache_dtype != "auto":
        words += ["--kv-cache-dtype", _KV[engine.kv_cache_dtype]]
    words += ["--max-num-batched-tokens", int(engine.chunk_tokens)]
    words += ["--max-num-seqs", int(min(engine.max_sequences, engine.chunk_tokens))]
    words += ["--gpu-memory-utilization", f"{engine.memory_utilisation:g}"]
    words += ["--max-model-len", setting.context] if setting.context is not None else []
    words += ["--enable-dbo"] if engine.overlap == "two-batch" else []
    words += ["--enforce-eager"] if engine.enforce_eager else []
    if engine.speculative_tokens:
        draft = {"method": "mtp"} if model.mtp_layers else {"method": "eagle3", "model": "DRAFT_MODEL"}
        config = {**draft, "num_speculative_tokens": engine.speculative_tokens}
        words += ["--speculative-config", compact(config)]
    return words


def _transfer(place: Place) -> list[object]:
    if place.role not in (PREFILL, DECODE):
        return []
    role = "kv_producer" if place.role == PREFILL else "kv_consumer"
    return ["--kv-transfer-config", compact({"kv_connector": "NixlConnector", "kv_role": role})]

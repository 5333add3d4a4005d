"""Parsers with the flags that engines document, by which emitted lines are read back.

vLLM: vllm/engine/arg_utils.py (with ParallelConfig.nnodes, since v0.12). SGLang:
docs/advanced_features/server_arguments.md@004813e. TensorRT-LLM: tensorrt_llm/commands/serve.py@00209af.
Only types and choices are mirrored, of every flag moesim emits and of some it does not.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex


class _Strict(argparse.ArgumentParser):
    def error(self, message):
        raise AssertionError(message)


def _parser():
    return _Strict(allow_abbrev=False, add_help=False)


def vllm():
    p = _parser()
    p.add_argument("model_tag")
    for name, short in (
        ("tensor-parallel-size", "-tp"), ("pipeline-parallel-size", "-pp"), ("data-parallel-size", "-dp"),
        ("data-parallel-size-local", "-dpl"), ("data-parallel-start-rank", "-dpr"),
        ("data-parallel-rpc-port", "-dpp"), ("node-rank", "-r"), ("nnodes", "-n"),
    ):  # fmt: skip
        p.add_argument(f"--{name}", short, type=int, default=None)
    for name in ("max-num-batched-tokens", "max-num-seqs", "max-model-len", "master-port", "port"):
        p.add_argument(f"--{name}", type=int)
    p.add_argument("--data-parallel-address", "-dpa")
    p.add_argument("--data-parallel-backend", "-dpb", default="mp", choices=["mp", "ray"])
    p.add_argument("--distributed-executor-backend", choices=["mp", "ray", "uni", "external_launcher"])
    p.add_argument("--master-addr")
    p.add_argument("--gpu-memory-utilization", type=float)
    p.add_argument(
        "--all2all-backend",
        choices=[
            "allgather_reducescatter", "deepep_high_throughput", "deepep_low_latency", "flashinfer_all2allv",
            "naive", "pplx",
        ],
    )  # fmt: skip
    p.add_argument("--kv-cache-dtype", choices=["auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"])
    p.add_argument("--quantization", "-q", choices=["fp8", "awq", "gptq", "modelopt", "mxfp4"])
    p.add_argument("--dtype", choices=["auto", "half", "float16", "bfloat16", "float", "float32"])
    for name in ("enable-expert-parallel", "enable-eplb", "enable-dbo", "enforce-eager", "headless"):
        p.add_argument(f"--{name}", action="store_true")
    for name in ("eplb-config", "speculative-config", "kv-transfer-config"):
        p.add_argument(f"--{name}", type=json.loads, default={})
    return p


def sglang():
    p = _parser()
    p.add_argument("--model-path", "--model", required=True)
    p.add_argument("--tensor-parallel-size", "--tp-size", type=int, default=1, dest="tp_size")
    p.add_argument("--pipeline-parallel-size", "--pp-size", type=int, default=1, dest="pp_size")
    p.add_argument("--data-parallel-size", "--dp-size", type=int, default=1, dest="dp_size")
    p.add_argument("--expert-parallel-size", "--ep-size", "--ep", type=int, default=1, dest="ep_size")
    for name in (
        "port", "nnodes", "node-rank", "chunked-prefill-size", "max-running-requests", "context-length",
        "ep-num-redundant-experts", "speculative-num-steps", "speculative-eagle-topk",
        "speculative-num-draft-tokens", "scheduler-recv-interval",
    ):  # fmt: skip
        p.add_argument(f"--{name}", type=int, default=1 if name == "nnodes" else 0)
    p.add_argument("--host")
    p.add_argument("--dist-init-addr", "--nccl-init-addr")
    p.add_argument("--mem-fraction-static", type=float)
    p.add_argument(
        "--moe-a2a-backend", choices=["none", "deepep", "mooncake", "mori", "nixl", "ascend_fuseep"]
    )
    p.add_argument(
        "--kv-cache-dtype", choices=["auto", "fp8_e5m2", "fp8_e4m3", "bf16", "bfloat16", "fp4_e2m1"]
    )
    p.add_argument("--dtype", choices=["auto", "half", "float16", "bfloat16", "float", "float32"])
    p.add_argument("--quantization", choices=["awq", "fp8", "gptq", "modelopt_fp4", "w8a8_int8", "mxfp4"])
    p.add_argument("--init-expert-location", default="trivial")
    p.add_argument("--ep-dispatch-algorithm", choices=["static", "dynamic", "lp", "fake"])
    p.add_argument("--speculative-algorithm", choices=["EAGLE", "EAGLE3", "NEXTN", "STANDALONE", "NGRAM"])
    p.add_argument("--speculative-draft-model-path", "--speculative-draft-model")
    p.add_argument("--disaggregation-mode", choices=["null", "prefill", "decode"], default="null")
    p.add_argument("--disaggregation-transfer-backend", choices=["mooncake", "nixl", "ascend", "fake"])
    for name in ("enable-dp-attention", "enable-eplb", "enable-two-batch-overlap", "disable-cuda-graph"):
        p.add_argument(f"--{name}", action="store_true")
    return p


def trtllm():
    p = _parser()
    p.add_argument("model")
    p.add_argument("--host", default="localhost")
    p.add_argument("--tensor_parallel_size", "--tp_size", type=int, default=1, dest="tp_size")
    p.add_argument("--pipeline_parallel_size", "--pp_size", type=int, default=1, dest="pp_size")
    p.add_argument("--moe_expert_parallel_size", "--ep_size", type=int, default=None, dest="ep_size")
    for name in ("port", "max_batch_size", "max_num_tokens", "max_seq_len"):
        p.add_argument(f"--{name}", type=int)
    p.add_argument("--config", "--extra_llm_api_options", dest="config", required=True)
    return p


START = {
    "vllm": (["vllm", "serve"], vllm),
    "sglang": (["python", "-m", "sglang.launch_server"], sglang),
    "trtllm": (["trtllm-serve"], trtllm),
}


def read_back(engine, text):
    """Environment, words before the engine's own, and parsed flags of an emitted line."""
    words = shlex.split(text.replace("\\\n", " "))
    env = {}
    while words and re.match(r"^[A-Z_]+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        env[name] = value
    start, parser = START[engine]
    at = next(i for i in range(len(words)) if words[i : i + len(start)] == start)
    return env, words[:at], parser().parse_args(words[at + len(start) :])

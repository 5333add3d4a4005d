"""Names in serving data sets, and what they are called here."""

from __future__ import annotations

from functools import lru_cache

from moesim.correction import known_as
from moesim.errors import nearest
from moesim.hardware import aliases
from moesim.hardware import names as hardware_names
from moesim.model import Model, load_model
from moesim.model import names as model_names
from moesim.model.load import catalogue_name

BACKENDS = ("vllm", "sglang", "trtllm")
_BACKENDS = {name: name for name in BACKENDS} | {
    "tensorrt-llm": "trtllm",
    "tensorrt_llm": "trtllm",
    "trt-llm": "trtllm",
    "trt": "trtllm",
}
#: Endings of checkpoints that differ from the model in data type alone, and that type.
_ENDINGS = {
    "-nvfp4": "nvfp4",
    "-fp4": "nvfp4",
    "-fp8": "fp8",
    "-bf16": "bf16",
    "-awq": "int4",
    "-int4": "int4",
    "-mxfp4": "mxfp4",
}
_DTYPES = {
    "": "auto",
    "auto": "auto",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp16": "bf16",
    "float16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "fp4": "nvfp4",
    "nvfp4": "nvfp4",
    "mxfp4": "mxfp4",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4",
    "int8": "int8",
    "int8_wo": "int8",
    "int4": "int4",
    "int4_wo": "int4",
    "awq": "int4",
    "gptq": "int4",
    "modelopt": "fp8",
    "modelopt_fp4": "nvfp4",
}


def backend_of(text: str) -> str:
    """Backend by any usual spelling; empty if unknown.

    >>> backend_of("TensorRT-LLM"), backend_of("mii")
    ('trtllm', '')
    """
    return _BACKENDS.get(text.strip().lower(), "")


@lru_cache(maxsize=1024)
def model_of(path: str) -> tuple[str, str]:
    """Catalogue name of a model path, and the data type that its ending names; empty if unknown.

    >>> model_of("deepseek-ai/DeepSeek-V3"), model_of("nvidia/Qwen3-32B-NVFP4")
    (('deepseek-r1', ''), ('qwen3-32b', 'nvfp4'))
    """
    folded = path.strip().lower()
    for ending, dtype in _ENDINGS.items():
        name = catalogue_name(folded.removesuffix(ending)) if folded.endswith(ending) else None
        if name:
            return known_as(name), dtype
    name = catalogue_name(folded)
    return (known_as(name), "") if name else ("", "")


@lru_cache(maxsize=1024)
def hardware_of(system: str) -> str:
    """Catalogue name of a system; empty if unknown. Never a file.

    >>> hardware_of("h100_sxm"), hardware_of("GB200"), hardware_of("./mine.yaml")
    ('h100-sxm-8', 'gb200-nvl72', '')
    """
    folded = system.strip().lower().replace("_", "-").replace(" ", "-")
    return folded if folded in hardware_names() else aliases().get(folded, "")


def dtype_of(model: Model, *recorded: str) -> str:
    """Engine's data type: the first that is recorded, or ``auto`` where it is what the checkpoint has.

    Parameters
    ----------
    model
        Checkpoints that were released in 4 bits are served as they are, whatever the column says of
        activations.
    recorded
        Precision, and data types of GEMMs and experts, any of them blank.

    Returns
    -------
    str
        Empty if the first that is not blank is unknown.
    """
    text = next((t for t in (r.strip().lower() for r in recorded) if t), "")
    dtype = _DTYPES.get(text, "")
    own = set((model.weight_dtypes or {}).values())
    if "mxfp4" in own and dtype in ("nvfp4", "fp8", "mxfp4"):
        return "auto"
    if "int4" in own and dtype == "int4":
        return "auto"
    return dtype


def unknown(kind: str, text: str) -> str:
    """Why a name is not supported, with the nearest that are."""
    if kind == "backend":
        return f"unknown backend {text[:60]!r}; known: {', '.join(BACKENDS)}"
    known = model_names() if kind == "model" else [*hardware_names(), *aliases()]
    near = nearest(text.strip().split("/")[-1].replace("_", "-")[:60], known)
    return f"unknown {kind} {text[:60]!r}" + (f"; nearest: {', '.join(near)}" if near else "")


def is_moe(name: str) -> bool:
    """Whether a catalogue model has experts."""
    return load_model(name).moe is not None

"""Other spellings of catalogue names: lower case, without the owner.

Fine-tunes and releases of the same shape share an entry; those that differ in context have their own.
"""

from __future__ import annotations

_SAME: dict[str, tuple[str, ...]] = {
    "dbrx": ("dbrx-base", "dbrx-instruct"),
    "deepseek-moe-16b": ("deepseek-moe-16b-base", "deepseek-moe-16b-chat", "deepseekmoe-16b"),
    "deepseek-r1": ("deepseek-r1-0528", "deepseek-r1-zero"),
    "deepseek-v2": ("deepseek-v2-chat", "deepseek-v2.5", "deepseek-coder-v2-instruct"),
    "deepseek-v2-lite": ("deepseek-v2-lite-chat", "deepseek-coder-v2-lite-instruct"),
    "deepseek-v3": ("deepseek-v3-0324", "deepseek-v3-base", "deepseek-v3.1", "deepseek-v3.1-terminus"),
    "deepseek-v3.2": ("deepseek-v3.2-exp", "deepseek-v3.2-speciale"),
    "ernie-4.5-21b-a3b": ("ernie-4.5-21b-a3b-pt", "ernie-4.5-21b-a3b-base-pt"),
    "ernie-4.5-300b-a47b": ("ernie-4.5-300b-a47b-pt", "ernie-4.5-300b-a47b-base-pt"),
    "flame-moe-1.7b-10.3b": ("flame-moe-1.7b",),
    "flame-moe-98m-349m": ("flame-moe-98m",),
    "glm-5": ("glm-5.1",),
    "glm-5-fp8": ("glm-5.1-fp8",),
    "grok-1": ("grok-1-hf",),
    "hunyuan-a13b": ("hunyuan-a13b-instruct", "hunyuan-a13b-pretrain"),
    "jamba-1.5-large": ("ai21-jamba-1.5-large", "ai21-jamba-large-1.5"),
    "jamba-1.5-mini": ("ai21-jamba-1.5-mini", "ai21-jamba-mini-1.5"),
    "kimi-k2": ("kimi-k2-instruct", "kimi-k2-base"),
    "llama-2-7b": ("llama-2-7b-hf", "llama-2-7b-chat-hf"),
    "llama-2-13b": ("llama-2-13b-hf", "llama-2-13b-chat-hf"),
    "llama-2-70b": ("llama-2-70b-hf", "llama-2-70b-chat-hf"),
    "llama-3.1-8b": ("llama-3.1-8b-instruct", "meta-llama-3.1-8b", "meta-llama-3.1-8b-instruct"),
    "llama-3.1-70b": (
        "llama-3.1-70b-instruct",
        "meta-llama-3.1-70b",
        "meta-llama-3.1-70b-instruct",
        "llama-3.3-70b",
        "llama-3.3-70b-instruct",
    ),
    "llama-3.1-405b": ("llama-3.1-405b-instruct", "meta-llama-3.1-405b", "meta-llama-3.1-405b-instruct"),
    "llama-4-maverick": (
        "llama-4-maverick-17b-128e",
        "llama-4-maverick-17b-128e-instruct",
    ),
    "llama-4-scout": ("llama-4-scout-17b-16e", "llama-4-scout-17b-16e-instruct"),
    "mimo-7b": ("mimo-7b-base", "mimo-7b-sft", "mimo-7b-rl"),
    "minimax-m1": ("minimax-m1-40k", "minimax-m1-80k", "minimax-m1-40k-hf", "minimax-m1-80k-hf"),
    "mistral-7b": ("mistral-7b-v0.1", "mistral-7b-instruct-v0.1"),
    "mixtral-8x7b": ("mixtral-8x7b-v0.1", "mixtral-8x7b-instruct-v0.1"),
    "mixtral-8x22b": ("mixtral-8x22b-v0.1",),
    "nllb-moe-54b": ("nllb-moe",),
    "olmoe-1b-7b": ("olmoe-1b-7b-0924", "olmoe-1b-7b-0924-instruct", "olmoe-1b-7b-0125", "olmoe"),
    "openpangu-ultra-moe-718b": ("openpangu-ultra-moe-718b-v1.1", "pangu-ultra-moe"),
    "phi-3.5-moe": ("phi-3.5-moe-instruct",),
    "qwen1.5-moe-a2.7b": ("qwen1.5-moe-a2.7b-chat",),
    "qwen2-57b-a14b": ("qwen2-57b-a14b-instruct",),
    "qwen2.5-7b": ("qwen2.5-7b-instruct",),
    "qwen2.5-72b": ("qwen2.5-72b-instruct",),
    "qwen3-0.6b": ("qwen3-0.6b-base",),
    "qwen3-235b-a22b-2507": ("qwen3-235b-a22b-instruct-2507", "qwen3-235b-a22b-thinking-2507"),
    "qwen3-30b-a3b-2507": (
        "qwen3-30b-a3b-instruct-2507",
        "qwen3-30b-a3b-thinking-2507",
        "qwen3-coder-30b-a3b-instruct",
    ),
    "qwen3-coder-480b-a35b": ("qwen3-coder-480b-a35b-instruct",),
    "qwen3-next-80b-a3b": ("qwen3-next-80b-a3b-instruct", "qwen3-next-80b-a3b-thinking"),
    "qwen3-vl-235b-a22b": ("qwen3-vl-235b-a22b-instruct", "qwen3-vl-235b-a22b-thinking"),
    "qwen3-vl-2b": ("qwen3-vl-2b-instruct", "qwen3-vl-2b-thinking"),
    "qwen3-vl-32b": ("qwen3-vl-32b-instruct", "qwen3-vl-32b-thinking"),
    "qwen3-vl-4b": ("qwen3-vl-4b-instruct", "qwen3-vl-4b-thinking"),
    "qwen3-vl-8b": ("qwen3-vl-8b-instruct", "qwen3-vl-8b-thinking"),
    "step-3": ("step3",),
}

#: Spelling -> catalogue name.
SPELLINGS: dict[str, str] = {other: name for name, others in _SAME.items() for other in others}

"""Other spellings of catalogue names, lower case, without the owner."""

from __future__ import annotations

SPELLINGS: dict[str, str] = {
    "mixtral-8x7b-v0.1": "mixtral-8x7b",
    "mixtral-8x7b-instruct-v0.1": "mixtral-8x7b",
    "meta-llama-2-7b": "llama-2-7b",
    "llama-2-7b-hf": "llama-2-7b",
    "llama-2-7b-chat-hf": "llama-2-7b",
}

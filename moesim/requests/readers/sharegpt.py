"""ShareGPT conversations: ``[{"id", "conversations": [{"from": "human" | "gpt", "value": text}]}]``.

Every answer is a request: its prompt is the conversation up to there, its output the answer. The file has
neither times nor token counts. All requests stand at 0; tokens are counted by the callable given, else
estimated as one per `BYTES_PER_TOKEN` bytes of UTF-8, rounded up.
"""

from __future__ import annotations

from collections.abc import Callable

from moesim.requests.items import array_items
from moesim.requests.readers.base import RequestReader
from moesim.requests.rows import Rows
from moesim.requests.source import Source
from moesim.requests.types import MAX_TOKENS, RequestTrace

#: English prose and code come to about four bytes per token with vocabularies of 32,000 to 200,000.
BYTES_PER_TOKEN = 4
_ANSWERS = {"gpt", "assistant", "chatgpt", "bing", "bard"}


def read_sharegpt(source: Source, count_tokens: Callable[[str], int] | None = None) -> RequestTrace:
    """Read conversations.

    Parameters
    ----------
    source
        The file.
    count_tokens
        Tokens of a text, from a tokenizer; None to estimate.
    """
    rows = Rows(source)
    count = count_tokens or estimate_tokens
    unanswered = 0
    for i, item in array_items(source, rows.faults):
        turns = item.get("conversations", item.get("conversation"))
        if not isinstance(turns, list):
            rows.faults.add(f"[{i}]", "has no conversations", allowed='[{"from": ..., "value": ...}]')
            continue
        before, answers = 0, 0
        for j, turn in enumerate(turns):
            said = turn.get("value", turn.get("content")) if isinstance(turn, dict) else None
            by = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
            if not isinstance(said, str) or not isinstance(by, str):
                rows.faults.add(
                    f"[{i}].conversations[{j}]", "is no turn", allowed='{"from": ..., "value": ...}'
                )
                break
            tokens = count(said)
            if by.lower() in _ANSWERS and before > 0 and tokens > 0 and before + tokens < MAX_TOKENS:
                rows.add(0.0, before, tokens, session=i)
                answers += 1
            before += tokens
        unanswered += answers == 0
    if unanswered:
        rows.notes.append(f"{unanswered} conversations without a question and an answer were left out")
    if count_tokens is None:
        rows.notes.append(
            f"token counts are estimates: one per {BYTES_PER_TOKEN} bytes of text, for want of a tokenizer"
        )
    rows.notes.append("conversations have no times: all requests stand at 0")
    return rows.finish("sharegpt")


def estimate_tokens(text: str) -> int:
    """Tokens of a text, from its length alone.

    >>> estimate_tokens("How fast is it?")
    4
    """
    return -(-len(text.encode("utf-8", errors="replace")) // BYTES_PER_TOKEN)


def _sniff(source: Source) -> bool:
    head = source.head.lstrip(b"\xef\xbb\xbf \r\n\t")
    return head.startswith(b"[") and (b'"conversations"' in head or b'"conversation"' in head)


READER = RequestReader(
    "sharegpt", 'ShareGPT JSON [{"conversations": [{"from", "value"}]}]', _sniff, read_sharegpt
)

"""Which requests a model can serve at all."""

from __future__ import annotations

import numpy as np

from moesim.errors import ConfigError, Fault
from moesim.model.types import Model
from moesim.requests import RequestTrace, take


def too_long(requests: RequestTrace, most: int | None) -> np.ndarray:
    """Places of requests with more tokens in and out than `most`; none without a limit."""
    if most is None:
        return np.zeros(0, np.int64)
    return np.flatnonzero(requests.input_tokens.astype(np.int64) + requests.output_tokens > most)


def lengths_of(requests: RequestTrace, model: Model) -> int:
    """Tokens of the longest request.

    Raises
    ------
    ConfigError
        If the model's context is shorter, naming the request.
    """
    if not len(requests):
        raise ConfigError(Fault("there are no requests", "requests"))
    total = requests.input_tokens.astype(np.int64) + requests.output_tokens
    over = too_long(requests, model.max_context)
    if len(over):
        worst = int(over[total[over].argmax()])
        raise ConfigError(
            Fault(
                f"{len(over)} of {len(requests)} requests are longer than the {model.max_context} positions "
                f"of {model.name}; the longest is request {worst} with {requests.input_tokens[worst]} tokens "
                f"in and {requests.output_tokens[worst]} out",
                "requests",
                int(total[worst]),
                f"at most {model.max_context} tokens, or --drop-long",
            )
        )
    return int(total.max())


def without_long(requests: RequestTrace, most: int | None) -> tuple[RequestTrace, int]:
    """Requests of at most so many tokens, and how many there are of more.

    Raises
    ------
    ConfigError
        If none is left.
    """
    over = too_long(requests, most)
    if not len(over):
        return requests, 0
    kept = np.setdiff1d(np.arange(len(requests)), over)
    if not len(kept):
        raise ConfigError(Fault(f"every request is longer than {most} tokens", "--drop-long", len(over)))
    return take(requests, kept), len(over)

"""Seconds to prefill prompts, alone and in full chunks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moesim.engine.routing import Array
from moesim.engine.step import StepTimes
from moesim.layout.parallelism import Parallelism
from moesim.ops import Batch


def prefill_times(
    step: Callable[[Batch], StepTimes], layout: Parallelism, input_len: Array, chunk_tokens: float
) -> Array:
    """What the prefill of prompts takes.

    Parameters
    ----------
    step
        Times a step.
    layout
        Whose ranks prefill.
    input_len
        Tokens of the prompts, ``[prompts]``.
    chunk_tokens
        Tokens that a data-parallel rank prefills in one step.

    Returns
    -------
    numpy.ndarray
        Seconds of one prompt alone, what nothing beats for it, and engine seconds per prompt when all chunks
        are full, ``[3, prompts]``.
    """
    chunks, chunk, past, packed = full_chunks(input_len, chunk_tokens)
    # One evaluation for both: first the lone prompts, then the full chunks.
    both = step(
        Batch.of(
            prompts=np.concatenate([np.ones(len(input_len)), packed]),
            chunk=np.tile(chunk, 2),
            past=np.tile(past, 2),
            ranks=np.repeat([1.0, np.inf], len(input_len)),
        )
    )
    n = len(input_len)
    full = both.seconds[n:] * chunks / (packed * layout.dp * layout.pp)
    return np.stack([both.seconds[:n] * chunks, both.bound_s[:n] * chunks, full])


def full_chunks(input_len: Array, chunk_tokens: float) -> tuple[Array, Array, Array, Array]:
    """How prompts are cut and packed into steps.

    Returns
    -------
    tuple of numpy.ndarray
        Chunks of a prompt, tokens of one, tokens before the mean one, and prompts that share a full step,
        ``[prompts]`` each.
    """
    chunks = np.ceil(input_len / chunk_tokens)
    chunk = input_len / chunks
    # A middle chunk has half of the prompt behind it, so it stands for the mean chunk of causal attention.
    return chunks, chunk, (input_len - chunk) / 2.0, np.maximum(1.0, np.floor(chunk_tokens / chunk))

"""What one step processes: decode tokens, prefill chunks, or both."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesim.ops.table import Array


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One step of each of several alternatives, on the busiest data-parallel rank.

    All arrays are float64 ``[batches]``.

    Parameters
    ----------
    sequences
        Decoding sequences.
    queries
        Tokens of each in this step: one, and those that were drafted for it.
    context
        Tokens a decoding sequence attends to, on average, the new one included.
    prompts
        Prompts of which a chunk is prefilled.
    chunk
        New tokens per prompt in this step.
    past
        Tokens of each prompt that are cached already.
    ranks
        Data-parallel ranks as busy as this one, or what amounts to as many: a lone prompt keeps one busy, 12
        sequences on 8 ranks are 2 on the busiest and amount to 6 such ranks. Infinite stands for all.
    """

    sequences: Array
    context: Array
    prompts: Array
    chunk: Array
    past: Array
    ranks: Array
    queries: Array

    @property
    def size(self) -> int:
        """Number of alternatives."""
        return len(self.sequences)

    @property
    def decode_tokens(self) -> Array:
        """Tokens of decoding sequences per rank."""
        return self.sequences * self.queries

    @property
    def prefill_tokens(self) -> Array:
        """Prefill tokens per rank."""
        return self.prompts * self.chunk

    @property
    def tokens(self) -> Array:
        """Tokens per rank."""
        return self.decode_tokens + self.prefill_tokens

    def all_tokens(self, ranks: int) -> Array:
        """Tokens of all of `ranks` data-parallel ranks together."""
        return np.asarray(self.tokens * np.minimum(self.ranks, ranks))

    def half(self) -> Batch:
        """Half of the sequences and prompts."""
        return replace(self, sequences=self.sequences / 2, prompts=self.prompts / 2)

    @classmethod
    def decode(cls, sequences: Array | float, context: Array | float) -> Batch:
        """A step that decodes one token of each sequence, as many on every rank."""
        return cls.of(sequences=sequences, context=context)

    @classmethod
    def decode_over(
        cls, sequences: Array | float, context: Array | float, ranks: int, queries: float = 1.0
    ) -> Batch:
        """A step that decodes `queries` tokens of each of `sequences` sequences, spread over `ranks` ranks.

        >>> batch = Batch.decode_over(12.0, 100.0, 8)
        >>> batch.sequences.tolist(), batch.ranks.tolist(), batch.all_tokens(8).tolist()
        ([2.0], [6.0], [12.0])
        """
        whole = np.asarray(sequences, dtype=np.float64)
        busiest = np.ceil(whole / ranks)
        return cls.of(
            sequences=busiest, context=context, ranks=whole / np.maximum(busiest, 1.0), queries=queries
        )

    @classmethod
    def prefill(cls, prompts: Array | float, chunk: Array | float, past: Array | float = 0.0) -> Batch:
        """A step that prefills `chunk` tokens of each prompt, as many on every rank."""
        return cls.of(prompts=prompts, chunk=chunk, past=past)

    @classmethod
    def of(
        cls,
        sequences: Array | float = 0.0,
        context: Array | float = 0.0,
        prompts: Array | float = 0.0,
        chunk: Array | float = 0.0,
        past: Array | float = 0.0,
        ranks: Array | float = np.inf,
        queries: Array | float = 1.0,
    ) -> Batch:
        """Make a batch of scalars or arrays, broadcast against each other."""
        arrays = np.broadcast_arrays(
            *(
                np.atleast_1d(np.asarray(a, dtype=np.float64))
                for a in (sequences, context, prompts, chunk, past, ranks, queries)
            )
        )
        return cls(*arrays)

"""What one step processes: decode tokens, prefill chunks, or both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.ops.table import Array


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One step of each of several alternatives, per data-parallel rank. All arrays are float64 ``[batches]``.

    Averages are welcome: 2.5 sequences per rank is 5 on two.

    Parameters
    ----------
    sequences
        Decoding sequences; each yields one token.
    context
        Tokens a decoding sequence attends to, on average, the new one included.
    prompts
        Prompts of which a chunk is prefilled.
    chunk
        New tokens per prompt in this step.
    past
        Tokens of each prompt that are cached already.
    """

    sequences: Array
    context: Array
    prompts: Array
    chunk: Array
    past: Array

    @property
    def size(self) -> int:
        """Number of alternatives."""
        return len(self.sequences)

    @property
    def prefill_tokens(self) -> Array:
        """Prefill tokens per rank."""
        return self.prompts * self.chunk

    @property
    def tokens(self) -> Array:
        """Tokens per rank."""
        return self.sequences + self.prefill_tokens

    @classmethod
    def decode(cls, sequences: Array | float, context: Array | float) -> Batch:
        """A step that decodes one token of each sequence."""
        return cls.of(sequences=sequences, context=context)

    @classmethod
    def prefill(cls, prompts: Array | float, chunk: Array | float, past: Array | float = 0.0) -> Batch:
        """A step that prefills `chunk` tokens of each prompt."""
        return cls.of(prompts=prompts, chunk=chunk, past=past)

    @classmethod
    def of(
        cls,
        sequences: Array | float = 0.0,
        context: Array | float = 0.0,
        prompts: Array | float = 0.0,
        chunk: Array | float = 0.0,
        past: Array | float = 0.0,
    ) -> Batch:
        """Make a batch of scalars or arrays, broadcast against each other."""
        arrays = np.broadcast_arrays(
            *(
                np.atleast_1d(np.asarray(a, dtype=np.float64))
                for a in (sequences, context, prompts, chunk, past)
            )
        )
        return cls(*arrays)

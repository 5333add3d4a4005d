"""Speculative decoding: a small model drafts tokens, the model checks all of them in one step.

With `k` drafts that are each accepted with probability `a`, given that those before were, a step yields
``1 + a + ... + a^k`` tokens on average (Leviathan et al., Fast Inference from Transformers via Speculative
Decoding, ICML 2023, eq. 1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from moesim.model.types import Model

#: Accepted of the next-next token that DeepSeek-V3's own head predicts: 85 to 90 % (DeepSeek-V3 report,
#: section 5.4.3), the low end where nothing else is known.
ACCEPTANCE = 0.85
#: Median gain of drafts in paired public runs of DeepSeek-R1 on TensorRT-LLM with 4 requests, where it is
#: largest (`benchmarks/draft_gain.py`).
MOST_GAIN = 1.9


@dataclass(frozen=True, slots=True)
class Speculation:
    """Drafts of every step.

    Parameters
    ----------
    tokens
        Drafted per sequence and step; 0 for none.
    acceptance
        Probability that a draft is accepted once those before it were.
    """

    tokens: int = 0
    acceptance: float = ACCEPTANCE

    @property
    def per_step(self) -> float:
        """Tokens that a step yields per sequence, on average.

        >>> Speculation(0).per_step, Speculation(1, 0.7).per_step, Speculation(3, 1.0).per_step
        (1.0, 1.7, 4.0)
        """
        return sum(self.acceptance**i for i in range(self.tokens + 1))


def draft_model(model: Model) -> Model:
    """What drafts: the model's prediction head, or a layer like its last one, as EAGLE's heads are."""
    return replace(model, layers=(model.mtp_layers or model.layers)[-1:], mtp_layers=())

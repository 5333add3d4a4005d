"""FLOPs of training, as throughput is reported in: the model's own, whatever is recomputed or padded.

The backward pass of a matrix product is two of the forward's size, so that training is three times the
forward pass (Kaplan et al., arXiv:2001.08361, section 2.1; Narayanan et al., arXiv:2104.04473, section 5.1).
Megatron's formula counts attention scores over the full square of a sequence; others count the causal half.
"""

from __future__ import annotations

import numpy as np

from moesim.model import attention_flops, layer_matrices, model_matrices
from moesim.model.types import Model

#: Forward pass, gradients of inputs, gradients of weights.
PASSES = 3.0


def training_flops(model: Model, seq: int, *, causal_halved: bool = False) -> float:
    """FLOPs per token of one iteration, forward and backward.

    Parameters
    ----------
    model
        A decoder.
    seq
        Tokens of a sequence.
    causal_halved
        Whether scores that the causal mask hides are left out; Megatron counts them.

    Returns
    -------
    float
        FLOPs per token.

    Examples
    --------
    GPT-3 175B as Narayanan et al. count it without recomputation, 72 s l h^2 (1 + s/6h + V/12lh) per
    sequence:

    >>> from moesim.training.shapes import gpt
    >>> h, l, s, V = 12288, 96, 2048, 51200
    >>> formula = 72 * l * h**2 * (1 + s / (6 * h) + V / (12 * l * h))
    >>> abs(training_flops(gpt(l, h, 96, V), s) / formula - 1) < 1e-9
    True
    """
    weights = sum(m.inputs * m.outputs * m.used for m in model_matrices(model))
    scores = 0.0
    seen = (seq + 1) / 2 if causal_halved else float(seq)
    for layer, count in model.distinct_layers():
        weights += count * sum(m.inputs * m.outputs * m.used for m in layer_matrices(layer, model.hidden))
        scores += count * float(attention_flops(layer.attention, np.array(seen), "prefill"))
    return PASSES * (2.0 * weights + scores)

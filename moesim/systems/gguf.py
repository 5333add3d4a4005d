"""Bits of the weight types of llama.cpp, and where its recipes use which."""

from __future__ import annotations

#: Bits per weight, scales included: bytes of a block over its 256 weights (ggml-common.h).
BITS = {
    "IQ1_S": 1.5625,
    "IQ1_M": 1.75,
    "Q2_K": 2.625,
    "Q3_K": 3.4375,
    "Q4_K": 4.5,
    "Q5_K": 5.5,
    "Q6_K": 6.5625,
    "Q8_0": 8.5,
}


def more_bits(layer: int, layers: int) -> bool:
    """Whether a layer's down-projections get Q6_K in the recipes with M: the ends and every third between.

    Source: ``use_more_bits`` in llama.cpp's quantisation.
    """
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def q4_k_m_expert_bits(layers: int, first: int = 0) -> float:
    """Mean bits of the weights of gated experts in Q4_K_M, over the layers from `first`.

    >>> round(q4_k_m_expert_bits(61, 3), 2)
    4.82
    """
    moe = range(first, layers)
    share = sum(more_bits(layer, layers) for layer in moe) / len(moe)
    return BITS["Q4_K"] + share * (BITS["Q6_K"] - BITS["Q4_K"]) / 3

"""What a layer should compute: its inputs, drawn from a seed, and its output in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.reference.layer import Case, IntArray

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bits = npt.NDArray[np.uint16]

#: Normal numbers that inputs are drawn from, and how many are drawn at a time.
DRAWN, PIECE = 2**16, 2**17


@dataclass(frozen=True, slots=True, eq=False)
class LayerInputs:
    """Tokens and weights of one layer: float32, or the bits of bf16 as uint16.

    Parameters
    ----------
    x
        Tokens, ``[T, H]``.
    router
        ``[E, H]``: logits are ``x @ router.T``.
    gate_up
        ``[E, 2F, H]``: rows of the gate first, then those of up.
    down
        ``[E, H, F]``.
    """

    x: Float32 | Bits
    router: Float32 | Bits
    gate_up: Float32 | Bits
    down: Float32 | Bits


def bf16_bits(values: Float32) -> Bits:
    """Round to bf16, to nearest, ties to even: the upper halves of float32, as uint16.

    >>> [hex(b) for b in bf16_bits(np.array([1.0, 1.00390625, 1.01171875], np.float32))]
    ['0x3f80', '0x3f80', '0x3f82']
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    found = rounded.astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():
        # Rounding up could turn a NaN into infinity: it is made quiet instead.
        found[nan] = (bits[nan] >> 16 | 0x40).astype(np.uint16)
    return found


def bf16_values(bits: Bits) -> Float32:
    """Float32 with the values of bf16.

    >>> bf16_values(np.array([0x3f80, 0xc000], np.uint16)).tolist()
    [1.0, -2.0]
    """
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def bf16_round(values: Float32) -> Float32:
    """Float32 rounded to the nearest values of bf16."""
    return bf16_values(bf16_bits(values))


def inputs(case: Case, weights: bool = True) -> LayerInputs:
    """Tokens and weights of a case, normal, scaled so that outputs are of order one.

    Weights depend on shape, data type and seed, not on tokens or routing. Numbers are drawn from `DRAWN`
    normal ones, in pieces: big layers take seconds, and no second copy.

    Parameters
    ----------
    case
        Whose inputs.
    weights
        Whether experts are drawn; else ``gate_up`` and ``down`` have no experts.
    """
    shape = case.shape
    E, H, F = shape.num_experts, shape.hidden, shape.width
    bits = case.dtype == "bf16"
    normal = np.random.default_rng([case.seed, 3]).standard_normal(DRAWN, dtype=np.float32)

    def draw(stream: Sequence[int], size: tuple[int, ...], scale: float) -> Float32 | Bits:
        scaled = normal * np.float32(scale)
        table: Float32 | Bits = bf16_bits(scaled) if bits else scaled
        out = np.empty(size, table.dtype)
        flat, rng = out.reshape(-1), np.random.default_rng([case.seed, *stream])
        for start in range(0, flat.size, PIECE):
            piece = flat[start : start + PIECE]
            which = rng.integers(0, DRAWN, piece.size, dtype=np.uint16)
            np.take(table, which, out=piece, mode="clip")  # none is outside, and "raise" makes copies
        return out

    experts = E if weights else 0
    return LayerInputs(
        draw((0, case.tokens, H), (case.tokens, H), 1.0),
        draw((1, E, H), (E, H), H**-0.5),
        draw((2, E, H, F), (experts, 2 * F, H), H**-0.5),
        draw((4, E, H, F), (experts, H, F), F**-0.5),
    )


def values(array: Float32 | Bits) -> Float32:
    """Float32 as it is, or the values of bits of bf16."""
    return bf16_values(array.view(np.uint16)) if array.dtype == np.uint16 else array.view(np.float32)


def router(given: LayerInputs, top_k: int, renormalise: bool) -> tuple[IntArray, Float32]:
    """Choose experts: softmax, the most probable first, equal ones by lower id.

    Returns
    -------
    tuple
        Ids int32 and weights float32, ``[T, k]``.
    """
    chosen = np.argsort(-_logits(given), axis=1, kind="stable")[:, :top_k].astype(np.int32)
    return chosen, weights_of(given, chosen, renormalise)


def weights_of(given: LayerInputs, ids: IntArray, renormalise: bool) -> Float32:
    """Probabilities that the router gives to these experts, ``[T, k]``; made to sum to one if asked."""
    logits = _logits(given)
    probability = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    chosen = np.take_along_axis(probability, ids.astype(np.int64), axis=1)
    if renormalise:
        chosen /= chosen.sum(axis=1, keepdims=True)
    return chosen.astype(np.float32)


def reference(given: LayerInputs, ids: IntArray, weights: Float32) -> Float64:
    """Output of the layer in float64, ``[T, H]``: ``sum_j w_j down(silu(gate(x)) * up(x))``.

    Parameters
    ----------
    given
        Tokens and weights.
    ids, weights
        Experts of each token and their weights, ``[T, k]``.
    """
    x = values(given.x).astype(np.float64)
    out = np.zeros_like(x)
    width = given.down.shape[2]
    for e in np.unique(ids):
        token, choice = np.nonzero(ids == e)
        both = x[token] @ values(given.gate_up[e]).astype(np.float64).T
        gate, up = both[:, :width], both[:, width:]
        # A sigmoid without overflow: exp(-inf) of a very negative gate is 0 in the limit.
        inner = gate * np.exp(-np.logaddexp(0.0, -gate)) * up
        np.add.at(
            out, token, weights[token, choice, None] * (inner @ values(given.down[e]).astype(np.float64).T)
        )
    return out


def _logits(given: LayerInputs) -> Float64:
    return values(given.x).astype(np.float64) @ values(given.router).astype(np.float64).T

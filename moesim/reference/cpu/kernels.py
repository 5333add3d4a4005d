"""Compiled loops of the layer: choice of experts, sorting of pairs, the experts, the weighted sum."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled, inside, making
from moesim.reference.cpu.native import copy, read, thread_time_ns
from moesim.reference.layer import IntArray

Float32 = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint16]
Int64 = npt.NDArray[np.int64]

#: Rows up to which a product is done one by one, and the weights (1/4 MiB) that it is done with at a time.
FEW_ROWS, CHUNK = 8, 2**16
#: The same for bf16 where the widened weights (1 MiB and more) leave the second cache before they are used.
FEW_ROWS_BF16, LARGE = 12, 2**18
#: Rows that BLAS computes at once: one to three more take longer than these.
TILE_ROWS = 4


@compiled
def top_k(
    logits: Float32, renormalise: bool, ids: IntArray, weights: Float32
) -> None:  # pragma: no cover - compiled
    """Softmax, and the `k` most probable experts of each token; equal ones by lower id.

    Parameters
    ----------
    logits
        ``[T, E]``.
    renormalise
        Whether weights are made to sum to one.
    ids, weights
        Filled, ``[T, k]``, the most probable first.
    """
    tokens, experts = logits.shape
    k = ids.shape[1]
    for t in range(tokens):
        # Insertion into a short sorted list: an expert moves up past smaller ones only, so ties keep order.
        for e in range(experts):
            value = logits[t, e]
            if e >= k and value <= weights[t, k - 1]:
                continue
            place = min(e, k - 1)
            while place > 0 and weights[t, place - 1] < value:
                weights[t, place], ids[t, place] = weights[t, place - 1], ids[t, place - 1]
                place -= 1
            weights[t, place], ids[t, place] = value, e
        top = weights[t, 0]
        total = np.float32(0.0)
        if renormalise:
            for j in range(k):
                total += exponential(weights[t, j] - top)
        else:
            for e in range(experts):
                total += exponential(logits[t, e] - top)
        for j in range(k):
            weights[t, j] = np.divide(exponential(weights[t, j] - top), total)


@compiled
def sort_pairs(
    ids: IntArray, offsets: IntArray, tokens: IntArray, place: IntArray
) -> None:  # pragma: no cover - compiled
    """Sort pairs of token and expert by expert, then by token (a stable counting sort).

    Parameters
    ----------
    ids
        ``[T, k]``.
    offsets
        Filled, ``[E + 1]``: the pairs of expert e are ``offsets[e]`` to ``offsets[e + 1]``.
    tokens
        Filled, ``[T * k]``: token of each sorted pair.
    place
        Filled, ``[T, k]``: where each pair went.
    """
    offsets[:] = 0
    for t in range(ids.shape[0]):
        for j in range(ids.shape[1]):
            offsets[ids[t, j]] += 1
    below = 0
    for e in range(len(offsets)):
        count = offsets[e]
        offsets[e] = below
        below += count
    for t in range(ids.shape[0]):
        for j in range(ids.shape[1]):
            at = offsets[ids[t, j]]
            place[t, j], tokens[at] = at, t
            offsets[ids[t, j]] += 1
    # Each offset has moved to where the next expert begins.
    for e in range(len(offsets) - 1, 0, -1):
        offsets[e] = offsets[e - 1]
    offsets[0] = 0


@compiled
def run_experts(
    x: Float32,
    tokens: IntArray,
    offsets: IntArray,
    runs: IntArray,
    homes: Int64,
    starts: Int64,
    words: Bits,
    handle: int,
    bf16: bool,
    space: tuple[Float32, Float32, Float32, Float32, Float32],
    out: Float32,
    spent: Int64,
    copied: Int64,
) -> None:  # pragma: no cover - compiled
    """Run experts one after another, each on its own tokens, and take the time of each.

    Parameters
    ----------
    x
        Tokens, ``[T, H]``.
    tokens, offsets
        Pairs by expert, from `sort_pairs`.
    runs
        Experts in the order in which they run.
    homes, starts
        Where the weights of each of `runs` are at home in `words`, and where they are when it runs: gate and
        up ``[2F, H]``, then down ``[H, F]``. Where the two differ, they are copied first.
    words
        Memory, as words of 2 bytes, of float32 or of bf16.
    handle
        File to copy from, with the same content as the homes; -1: from memory.
    bf16
        Whether weights are bf16: they are widened as they come, and what is computed is rounded.
    space
        Room for the rows ``[n, H]``, gates and ups ``[n, 2F]``, activations ``[n, F]`` and output ``[n, H]``
        of any expert, with n `padded`, and for the widened weights of a product ``[2 F H]`` (empty unless
        `bf16`).
    out
        Filled, ``[T * k, H]``.
    spent, copied
        Nanoseconds of CPU time by expert, without the copy and of the copy, ``[E]``; -1 if a copy failed.
    """
    rows, both, inner, y, wide = space
    H, F = x.shape[1], inner.shape[1]
    each = F * H if bf16 else 2 * F * H  # words of one of the three matrices
    length = 3 * each
    floats = words.view(np.float32)
    clock = np.empty(2, dtype=np.int64)
    begun = thread_time_ns(clock)
    for i in range(len(runs)):
        e = runs[i]
        first, n = offsets[e], offsets[e + 1] - offsets[e]
        if starts[i] != homes[i]:
            to = words[starts[i] : starts[i] + length]
            if handle < 0:
                copy(words[homes[i] : homes[i] + length], to)
            elif not read(handle, 2 * homes[i], to):
                copied[e] = -1
                return
            now = thread_time_ns(clock)
            copied[e] = now - begun
            begun = now
        for row in range(n):
            copy(x[tokens[first + row]], rows[row])
        up, down, end = starts[i], starts[i] + 2 * each, starts[i] + 3 * each
        product(rows, n, floats[up // 2 : down // 2], words[up:down], bf16, wide, both)
        swiglu(both[:n], inner[:n])
        if bf16:
            round_bf16(inner[:n])
        product(inner, n, floats[down // 2 : end // 2], words[down:end], bf16, wide, y)
        if bf16:
            round_bf16(y[:n])
        for row in range(n):
            copy(y[row], out[first + row])
        now = thread_time_ns(clock)
        spent[e] = now - begun
        begun = now


@compiled
def weighted_sum(
    pairs: Float32, place: IntArray, weights: Float32, bf16: bool, out: Float32
) -> None:  # pragma: no cover - compiled
    """Sum of the weighted rows of each token, in the order of its choices.

    Parameters
    ----------
    pairs
        ``[T * k, H]``.
    place, weights
        Row and weight of each choice, ``[T, k]``.
    bf16
        Whether sums are rounded.
    out
        Filled, ``[T, H]``.
    """
    for t in range(place.shape[0]):
        row = pairs[place[t, 0]]
        for h in range(out.shape[1]):
            out[t, h] = weights[t, 0] * row[h]
        for j in range(1, place.shape[1]):
            row, weight = pairs[place[t, j]], weights[t, j]
            for h in range(out.shape[1]):
                out[t, h] += weight * row[h]
    if bf16:
        round_bf16(out)


@making
def product(
    rows: Float32, n: int, floats: Float32, bits: Bits, bf16: bool, wide: Float32, out: Float32
) -> None:  # pragma: no cover - compiled
    """``rows[:n] @ weights [N, K].T`` into ``out[:n]``, by BLAS; other rows of `out` become anything.

    A product of matrices rearranges the weights first, which costs more than it saves where they are used for
    few rows. There a few weights at a time are multiplied with one row after another while they are in the
    second cache.

    Parameters
    ----------
    rows, n
        ``[padded(n) or more, K]``, and how many of them count.
    floats, bits
        The weights ``[N * K]``, as float32 or, where `bf16`, as bits.
    wide
        Room for the weights as float32.
    out
        Filled, ``[padded(n) or more, N]``.
    """
    N, K = out.shape[1], rows.shape[1]
    few = n <= (FEW_ROWS_BF16 if bf16 and N * K > LARGE else FEW_ROWS)
    step = max(1, CHUNK // K) if few else N
    for begin in range(0, N, step):
        end = min(begin + step, N)
        if bf16:
            widen(bits[begin * K : end * K], wide)
            part = wide[: (end - begin) * K].reshape(end - begin, K)
        else:
            part = floats[begin * K : end * K].reshape(end - begin, K)
        if few:
            for i in range(n):
                np.dot(part, rows[i], out[i, begin:end])
        else:
            tiled = padded(n)
            np.dot(rows[:tiled], part.T, out[:tiled])


@compiled
def padded(n: int) -> int:
    """Rows in whole tiles.

    >>> padded(9)
    12
    """
    return (n + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS


@compiled
def swiglu(both: Float32, out: Float32) -> None:  # pragma: no cover - compiled
    """``silu(gate) * up`` of ``both [n, 2F]``, gates first, into ``out [n, F]``."""
    width = out.shape[1]
    for i in range(out.shape[0]):
        for j in range(width):
            # A division that does not look for zeros can be done on many numbers at once.
            gate = both[i, j]
            out[i, j] = np.divide(gate, np.float32(1.0) + exponential(-gate)) * both[i, width + j]


@compiled
def widen(bits: Bits, out: Float32) -> None:  # pragma: no cover - compiled
    """Bits of bf16 ``[n]`` as the upper halves of float32."""
    words = out.view(np.uint32)
    for i in range(len(bits)):
        words[i] = np.uint32(bits[i]) << np.uint32(16)


@compiled
def round_bf16(values: Float32) -> None:  # pragma: no cover - compiled
    """Round float32 ``[n, m]`` to the nearest values of bf16, ties to even, in place. None may be a NaN."""
    words = values.view(np.uint32)
    for i in range(words.shape[0]):
        for j in range(words.shape[1]):
            odd = (words[i, j] >> np.uint32(16)) & np.uint32(1)
            words[i, j] = (words[i, j] + odd + np.uint32(0x7FFF)) & np.uint32(0xFFFF0000)


@inside
def exponential(x: np.float32) -> np.float32:  # pragma: no cover - compiled
    """``exp(x)`` in float32 to 1e-7, of x cut to [-87, 88], without calls, so that loops become vectors.

    Range reduction by ln 2 in two parts and the polynomial of Cephes' ``expf``.
    """
    x = min(max(x, np.float32(-87.0)), np.float32(88.0))
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    power = (np.int32(n) + np.int32(127)) << np.int32(23)
    result: np.float32 = p * np.int32(power).view(np.float32)
    return result

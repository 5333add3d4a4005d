"""Make the traces of this folder anew: ``python traces/make_bundled.py [FOLDER]``.

They are synthetic. The recipe is short on purpose; README.md says what it imitates and what it does not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moesim.trace import DECODE, PREFILL, LoadCounts, RoutingTrace, write_trace

SEED = 21
TOKENS_FILE, COUNTS_FILE = "gpt-oss-20b-synthetic.npz", "deepseek-v3-synthetic.json"
SOURCE, LICENCE = "synthetic, traces/make_bundled.py of moesim", "Apache-2.0"


def token_trace(seed: int = SEED) -> RoutingTrace:
    """A token-level trace of the shape of gpt-oss-20b: 24 layers, 32 experts, top-4; 64 requests.

    The score of an expert is the sum of its popularity in the layer, a part that its request shares (a
    mixture of topics), a part that drifts from token to token, and Gumbel noise; the four best scores win.
    How much request and drift weigh depends on the depth: little at the bottom, most in the middle.
    """
    layers, experts, top_k, requests, topics = 24, 32, 4, 64, 24
    rng = np.random.default_rng(seed)
    depth = np.linspace(0, 1, layers)
    memory = np.interp(depth, [0, 0.06, 0.45, 0.8, 1], [0.3, 1.0, 1.7, 1.5, 1.1])[:, None]
    popularity = 2.0 * np.minimum(rng.normal(size=(layers, experts)), 1.2)
    popularity[0] *= 0.6
    topic = rng.normal(size=(topics, layers, experts))
    mixture = rng.dirichlet(np.full(topics, 0.5), requests)
    mixture /= np.linalg.norm(mixture, axis=1, keepdims=True)
    shared = np.einsum("rt,tle->rle", mixture, topic)
    shared -= shared.mean(axis=0)

    prompts, outputs = rng.integers(8, 33, requests), rng.integers(16, 49, requests)
    ids = []
    for r in range(requests):
        drift = rng.normal(size=(layers, experts))
        for _ in range(prompts[r] + outputs[r]):
            drift = 0.5 * drift + np.sqrt(0.75) * rng.normal(size=drift.shape)
            score = popularity + memory * (2.0 * shared[r] + 1.8 * drift) + rng.gumbel(size=drift.shape)
            ids.append(np.argsort(-score, axis=1, kind="stable")[:, :top_k])
    lengths = prompts + outputs
    position = np.concatenate([np.arange(n) for n in lengths])
    return RoutingTrace(
        topk_ids=np.array(ids, np.uint8),
        request=np.repeat(np.arange(requests), lengths).astype(np.int32),
        num_experts=experts,
        moe_layer_ids=tuple(range(layers)),
        position=position.astype(np.int32),
        phase=np.where(position < np.repeat(prompts, lengths), PREFILL, DECODE).astype(np.int8),
        model="gpt-oss-20b",
        source=SOURCE,
        licence=LICENCE,
    )


def load_counts(seed: int = SEED) -> LoadCounts:
    """Load counts of the shape of DeepSeek-V3: layers 3 to 60, 256 experts, top-8; one million tokens.

    The log-load of an expert is the sum of a part its group of 32 shares, a part its group of 8 shares (both
    normal) and a part of its own (Student's t with 6 degrees of freedom, cut off at 5 standard deviations).
    """
    layers, experts, top_k, tokens, freedom = 58, 256, 8, 1_000_000, 6
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.5, 0.72, (layers, 1))
    own: npt.NDArray[np.float64] = rng.standard_t(freedom, (layers, experts))
    own = np.minimum(own / np.sqrt(freedom / (freedom - 2)), 5.0)
    wide = np.repeat(rng.normal(size=(layers, 8)), 32, axis=1)
    narrow = np.repeat(rng.normal(size=(layers, 32)), 8, axis=1)
    # The squares of the factors add up to one, so that `spread` is the standard deviation of the log-load.
    share = np.exp(spread * (0.6 * wide + 0.4 * narrow + np.sqrt(0.48) * own))
    share /= share.sum(axis=1, keepdims=True)
    counts = np.stack([rng.multinomial(tokens * top_k, p) for p in share])
    return LoadCounts(
        counts=counts[None].astype(np.float64),
        moe_layer_ids=tuple(range(3, 61)),
        top_k=top_k,
        model="deepseek-v3",
        source=SOURCE,
        licence=LICENCE,
    )


def make(folder: Path) -> None:
    """Write both files."""
    write_trace(token_trace(), folder / TOKENS_FILE)
    write_trace(load_counts(), folder / COUNTS_FILE, num_layers=61)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)

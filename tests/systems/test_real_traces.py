"""What papers say of hits, on real routing: skipped where the shared traces are absent."""

import numpy as np
import pytest

from moesim.policy import Residency
from moesim.residency import replay
from moesim.systems.replays import with_weights
from moesim.trace import load_trace

#: HybriMoE, Fig 9, DeepSeek-V2-Lite with a quarter of the experts: hits of MRS and of LRU.
MRS, LRU = 0.527, 0.477


@pytest.mark.parametrize(
    ("name", "weighted"),
    [("traces/esft-deepseek-v2-lite/intent.npz", True), ("traces/gpt-oss-20b/decode.npz", False)],
)
def test_decayed_scores_beat_recency_by_about_as_much_as_published(shared, name, weighted):
    trace = load_trace(shared(name))
    assert (trace.topk_weights is not None) == weighted
    hits = {}
    for fraction in (0.25, 0.5, 0.75):
        slots = np.full(trace.topk_ids.shape[1], round(fraction * trace.num_experts))
        mrs = replay(with_weights(trace), Residency("mrs", parameters={"alpha": 0.5}), slots).hit_ratio
        hits[fraction] = mrs, replay(trace, Residency("lru"), slots).hit_ratio
        assert hits[fraction][0] > hits[fraction][1]
    gaps = [mrs - lru for mrs, lru in hits.values()]
    # The gap closes as the cache grows, and is about what the paper has where it is small.
    assert gaps == sorted(gaps, reverse=True)
    assert 0.5 < gaps[0] / (MRS - LRU) < 1.5
    if weighted:
        # The paper's own model.
        assert hits[0.25] == pytest.approx((MRS, LRU), rel=0.15)

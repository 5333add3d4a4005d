"""Files that torch itself saved; the reader needs no torch, this test does."""

from __future__ import annotations

import numpy as np
import pytest
from format_samples import SHAPE, TOKENS, expected, loads, per_token, scores_of, slots_of
from trace_helpers import same

from moesim.trace import load_trace

torch = pytest.importorskip(
    "torch", reason="torch is not installed: the files of torch are made by hand elsewhere"
)


def as_torch(saved):
    """A saved object of the samples with torch's tensors."""
    if isinstance(saved, np.ndarray):
        return torch.from_numpy(saved.copy())
    if isinstance(saved, dict):
        return {key: as_torch(value) for key, value in saved.items()}
    return [as_torch(value) for value in saved] if isinstance(saved, list) else saved


def test_recordings_per_token(tmp_path):
    from format_samples import WIDE

    from moesim.trace.torch_zip import read_torch

    path = per_token(tmp_path)
    by_hand = load_trace(path, shape=WIDE)
    torch.save(as_torch(read_torch(path)), path)
    assert same(by_hand, load_trace(path, shape=WIDE))


def test_recordings_per_pass_and_views(tmp_path):
    """A tensor may be a view of a larger storage, and share it with others."""
    want, slots = loads(steps=3).counts, slots_of(SHAPE, spare=0)
    whole = torch.zeros(3, 2, SHAPE.num_layers, SHAPE.num_experts, dtype=torch.int32)
    for i, layer in enumerate(SHAPE.moe_layer_ids):
        whole[:, 1, layer] = torch.from_numpy(want[:, i][:, slots[layer]].astype(np.int32))
    records = [
        {"forward_pass_id": n, "rank": 0, "gatherer_key": "primary", "global_physical_count": whole[n, 1]}
        for n in range(3)
    ]
    saved = {"records": records, "last_physical_to_logical_map": torch.from_numpy(slots)}
    torch.save(saved, tmp_path / "expert_distribution_recorder_1_0.pt")
    np.testing.assert_array_equal(load_trace(tmp_path, shape=SHAPE).counts, want)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_router_scores(tmp_path, dtype):
    trace = expected()
    for i, layer in enumerate(SHAPE.moe_layer_ids):
        scores = torch.from_numpy(scores_of(trace, i, TOKENS // 2)).to(getattr(torch, dtype))
        torch.save(scores, tmp_path / f"tiny-2x8b_{layer:02d}_c4.pt")
        chosen = torch.topk(scores, SHAPE.top_k, dim=-1).indices.reshape(TOKENS, -1)
        np.testing.assert_array_equal(chosen.numpy(), trace.topk_ids[:, i])
    back = load_trace(tmp_path, shape=SHAPE)
    np.testing.assert_array_equal(back.topk_ids, trace.topk_ids)
    np.testing.assert_array_equal(back.request, trace.request)

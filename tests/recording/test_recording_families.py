"""What is recorded of each family is what its layers compute, by an independent calculation."""

from __future__ import annotations

import numpy as np
import pytest
from recording_models import FAMILIES, SIZES, build

from moesim.recording import Recorder, Rule, route

torch = pytest.importorskip("torch", reason="recording needs torch: pip install 'moesim[record]'")
transformers = pytest.importorskip(
    "transformers", reason="recording needs transformers: pip install 'moesim[record]'"
)
TOKENS = 24


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def run(family):
    """A model, what was recorded of one pass, and what entered its MoE blocks, caught apart from it."""
    experts, k, layers, _ = FAMILIES[family]
    if family not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    model = build(family, torch, transformers)
    config = model.config.get_text_config().to_dict()
    blocks, hooks = {}, []
    for layer in layers:
        decoder = model.model.layers[layer]
        block = getattr(decoder, "mlp", None) or getattr(decoder, "block_sparse_moe", None)
        block = block or decoder.feed_forward

        def keep(_, args, output, layer=layer):
            output = output[0] if isinstance(output, tuple) else output
            blocks[layer] = (args[0].detach().reshape(TOKENS, -1), output.detach().reshape(TOKENS, -1))

        hooks.append(block.register_forward_hook(keep))
    ids = torch.randint(0, SIZES["vocab_size"], (1, TOKENS), generator=torch.Generator().manual_seed(3))
    recorder = Recorder(model, experts, k, Rule.of(config, k), logits=True, next_logits=True)
    with recorder, torch.inference_mode():
        model(ids)
        routed = recorder.take()
    for hook in hooks:
        hook.remove()
    return model, recorder, routed, blocks


def _logits(model, recorder, index, hidden):
    """Router logits from the checkpoint's own tensors."""
    state = {name: tensor.double() for name, tensor in model.state_dict().items()}
    name = recorder.routers[index].name
    # Some wrap the matrix: `gate.wg`, `router.layer`.
    name = next(n for n in (name, f"{name}.wg", f"{name}.layer") if f"{n}.weight" in state)
    logits = hidden.double() @ state[f"{name}.weight"].T
    return (logits + state[f"{name}.bias"] if f"{name}.bias" in state else logits).numpy()


def _correction(model, recorder, index):
    name = recorder.routers[index].name
    path = (f"{name}.e_score_correction_bias", f"{name.rpartition('.')[0]}.e_score_correction_bias")
    return next((model.state_dict()[p].numpy() for p in path if p in model.state_dict()), None)


def test_layers_and_shapes(family, run):
    _, recorder, routed, _ = run
    experts, k, layers, _ = FAMILIES[family]
    assert tuple(r.layer for r in recorder.routers) == layers
    assert routed.topk_ids.shape == routed.topk_weights.shape == (TOKENS, len(layers), k)
    assert routed.topk_ids.min() >= 0
    assert routed.topk_ids.max() < experts
    chosen = np.sort(routed.topk_ids, axis=2)
    assert (np.diff(chosen, axis=2) > 0).all()


def test_experts_follow_from_the_hidden_states(family, run):
    model, recorder, routed, blocks = run
    k = FAMILIES[family][1]
    rule = Rule.of(model.config.get_text_config().to_dict(), k)
    for index, router in enumerate(recorder.routers):
        logits = _logits(model, recorder, index, blocks[router.layer][0])
        ids, weights = route(logits, rule, _correction(model, recorder, index))
        ours, theirs = np.argsort(ids, axis=1), np.argsort(routed.topk_ids[:, index], axis=1)
        assert np.array_equal(
            np.take_along_axis(ids, ours, 1), np.take_along_axis(routed.topk_ids[:, index], theirs, 1)
        )
        np.testing.assert_allclose(
            np.take_along_axis(weights, ours, 1),
            np.take_along_axis(routed.topk_weights[:, index], theirs, 1),
            rtol=1e-4,
            atol=1e-6,
        )


def test_scores_are_this_and_the_next_routers_logits(run):
    model, recorder, routed, blocks = run
    for index, router in enumerate(recorder.routers):
        hidden = blocks[router.layer][0]
        np.testing.assert_allclose(
            routed.logits[:, index], _logits(model, recorder, index, hidden), rtol=1e-4, atol=1e-4
        )
        if index + 1 < len(recorder.routers):
            np.testing.assert_allclose(
                routed.next_logits[:, index],
                _logits(model, recorder, index + 1, hidden),
                rtol=1e-4,
                atol=1e-4,
            )


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "olmoe", "minimax_m2"], indirect=True)
def test_blocks_compute_with_the_recorded_experts(run):
    """The experts' outputs, weighted as recorded, are what a block without shared experts puts out."""
    model, recorder, routed, blocks = run
    state = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for index, router in enumerate(recorder.routers):
        hidden, output = (t.double() for t in blocks[router.layer])
        prefix = router.name.rpartition(".")[0] + ".experts."
        if f"{prefix}gate_up_proj" not in state:
            pytest.skip(f"transformers {transformers.__version__} keeps experts apart")
        gate_up, down = state[f"{prefix}gate_up_proj"], state[f"{prefix}down_proj"]
        expected = torch.zeros_like(hidden)
        for t in range(TOKENS):
            for e, w in zip(routed.topk_ids[t, index], routed.topk_weights[t, index], strict=True):
                gate, up = (gate_up[e] @ hidden[t]).chunk(2)
                expected[t] += float(w) * (down[e] @ (torch.nn.functional.silu(gate) * up))
        assert expected.abs().max() > 0
        torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-5)


def test_another_pass_is_another_routing(family, run):
    model = run[0]
    experts, k, _, _ = FAMILIES[family]
    recorder = Recorder(model, experts, k, Rule.of(model.config.get_text_config().to_dict(), k))
    with recorder, torch.inference_mode():
        model(torch.arange(5)[None])
        first = recorder.take()
        model(torch.arange(7)[None])
        second = recorder.take()
    assert (len(first.topk_ids), len(second.topk_ids)) == (5, 7)
    assert np.array_equal(first.topk_ids, second.topk_ids[:5])
    assert first.logits is None
    assert not recorder._hooks

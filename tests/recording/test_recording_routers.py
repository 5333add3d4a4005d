"""Routers as other code writes them: a bare linear layer, pairs, dense scores, look-alikes."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.errors import ConfigError
from moesim.recording import Recorder, Rule, find_routers, route

torch = pytest.importorskip("torch", reason="recording needs torch: pip install 'moesim[record]'")
EXPERTS, K, WIDTH = 6, 2, 16


class Block(torch.nn.Module):
    """Routes by itself: its gate is a plain linear layer, and its experts are a list."""

    def __init__(self, gate=None):
        super().__init__()
        self.gate = gate or torch.nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(EXPERTS))

    def choose(self, x):
        weights, ids = self.gate(x).softmax(-1).topk(K)
        return ids, weights / weights.sum(-1, keepdim=True)

    def forward(self, x):
        flat = x.reshape(-1, WIDTH)
        ids, weights = self.choose(flat)
        y = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, rank = torch.where(ids == e)
            y.index_add_(0, token, expert(flat[token]) * weights[token, rank, None])
        return y.view_as(x)


class PairGate(torch.nn.Module):
    """Returns ids and weights in that order, no logits."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(EXPERTS, WIDTH))

    def forward(self, x):
        weights, ids = (x @ self.weight.T).sigmoid().topk(K)
        return ids, weights


class DenseRouter(torch.nn.Module):
    """Returns a weight for every expert, zero for those not chosen, and the ids."""

    def __init__(self):
        super().__init__()
        self.proj = torch.nn.Linear(WIDTH, EXPERTS)

    def forward(self, x):
        best, ids = self.proj(x).topk(K)
        return torch.zeros(len(x), EXPERTS).scatter(1, ids, best.softmax(-1)), ids


class OddGate(torch.nn.Module):
    """Its scores are not weight times hidden state."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(EXPERTS, WIDTH))

    def forward(self, x):
        return torch.nn.functional.cosine_similarity(x[:, None], self.weight[None], dim=-1)


class PairBlock(Block):
    def choose(self, x):
        return self.gate(x)


class DenseBlock(Block):
    def choose(self, x):
        dense, ids = self.gate(x)
        return ids, dense.gather(1, ids)


class Stack(torch.nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.ModuleDict({"ffn": b}) for b in blocks)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer["ffn"](x)
        return x


def _record(model, rule=None, tokens=40):
    x = torch.randn(1, tokens, WIDTH, generator=torch.Generator().manual_seed(0))
    recorder = Recorder(model, EXPERTS, K, rule)
    with recorder, torch.inference_mode():
        model(x)
        return recorder, recorder.take()


@pytest.fixture(autouse=True)
def _seed():
    torch.set_num_threads(1)
    torch.manual_seed(1)


def test_a_linear_gate_is_followed_by_the_rule():
    model = Stack(Block(), torch.nn.Identity(), Block())
    inputs, outputs = {}, {}
    for i in (0, 2):

        def keep(_, args, output, i=i):
            inputs[i], outputs[i] = args[0][0], output[0]

        model.layers[i]["ffn"].register_forward_hook(keep)
    recorder, routed = _record(model, Rule(K, normalise=True))
    assert [r.layer for r in recorder.routers] == [0, 2]
    assert recorder.inferred
    for index, layer in enumerate((0, 2)):
        ids, weights = routed.topk_ids[:, index], routed.topk_weights[:, index].astype(float)
        y = torch.zeros_like(outputs[layer])
        with torch.inference_mode():
            for t, x in enumerate(inputs[layer]):
                for e, w in zip(ids[t], weights[t], strict=True):
                    y[t] += w * model.layers[layer]["ffn"].experts[e](x)
        torch.testing.assert_close(y, outputs[layer], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "gate"), [(PairBlock, PairGate), (DenseBlock, DenseRouter)])
def test_what_a_router_returns_is_taken(kind, gate):
    model = Stack(kind(gate()))
    seen = []
    choose = model.layers[0]["ffn"].choose
    model.layers[0]["ffn"].choose = lambda x: seen.append(choose(x)) or seen[-1]
    recorder, routed = _record(model)
    assert not recorder.inferred
    assert np.array_equal(routed.topk_ids[:, 0], seen[0][0].numpy())
    np.testing.assert_allclose(routed.topk_weights[:, 0], seen[0][1].numpy(), rtol=1e-6)


def test_without_a_rule_bare_logits_are_an_error():
    with pytest.raises(ConfigError, match="returns no expert ids"):
        _record(Stack(Block()))


def test_scores_of_another_kind_are_no_logits():
    with pytest.raises(ConfigError, match="neither expert ids nor weight times hidden"):
        _record(Stack(Block(OddGate())), Rule(K))


def test_rounding_of_half_precision_is_tolerated():
    model = Stack(Block()).to(torch.bfloat16)
    x = torch.randn(1, 30, WIDTH, dtype=torch.bfloat16)
    with Recorder(model, EXPERTS, K, Rule(K)) as recorder, torch.inference_mode():
        model(x)
        routed = recorder.take()
    logits = model.layers[0]["ffn"].gate(x[0]).float().detach().numpy()
    assert np.array_equal(routed.topk_ids[:, 0], route(logits, Rule(K))[0])


def test_a_router_that_was_not_called_is_named():
    model = Stack(Block(), Block())
    with Recorder(model, EXPERTS, K, Rule(K)) as recorder:
        model.layers[0]["ffn"](torch.randn(1, 3, WIDTH))
        with pytest.raises(ConfigError, match=r"layers\.1\.ffn\.gate"):
            recorder.take()


def test_models_without_recognisable_routers():
    with pytest.raises(ConfigError, match="no router is recognised"):
        find_routers(Stack(torch.nn.Linear(WIDTH, WIDTH)), EXPERTS)
    twice = Block()
    twice.router = torch.nn.Linear(WIDTH, EXPERTS)
    with pytest.raises(ConfigError, match="look like its router"):
        find_routers(Stack(twice), EXPERTS)


def test_hooks_leave_with_the_block():
    model = Stack(Block())
    with pytest.raises(ZeroDivisionError), Recorder(model, EXPERTS, K, Rule(K)):
        raise ZeroDivisionError
    assert not model.layers[0]["ffn"].gate._forward_hooks

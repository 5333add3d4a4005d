"""A small Mixture-of-Experts language model in plain torch, its parameters named as in Qwen3-MoE.

Same names and same arithmetic as `transformers.Qwen3MoeForCausalLM`, so that the weights load there and
`moesim trace record` sees the model that was trained; `train.py export` checks that the logits agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - what all of torch calls it
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """Sizes of the model."""

    vocab_size: int = 2048
    hidden_size: int = 192
    num_hidden_layers: int = 8
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    head_dim: int = 32
    moe_intermediate_size: int = 96
    num_experts: int = 32
    num_experts_per_tok: int = 4
    context: int = 256
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-6


class Norm(nn.Module):
    """Divide by the root mean square."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """``[..., size]`` to the same shape."""
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Attention(nn.Module):
    """Causal attention with grouped heads, normalised queries and keys, rotary positions."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=False)
        self.q_norm = Norm(c.head_dim, c.rms_norm_eps)
        self.k_norm = Norm(c.head_dim, c.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """``[batch, tokens, hidden]`` to the same shape."""
        b, t, _ = x.shape
        d = self.c.head_dim
        q = self.q_norm(self.q_proj(x).view(b, t, -1, d)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(b, t, -1, d)).transpose(1, 2)
        v = self.v_proj(x).view(b, t, -1, d).transpose(1, 2)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return (x * cos + torch.cat((-b, a), -1) * sin).to(x.dtype)


class Router(nn.Module):
    """One row of weights per expert."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c.num_experts, c.hidden_size))


class Experts(nn.Module):
    """Gated feed-forward networks, stacked."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        e, f, d = c.num_experts, c.moe_intermediate_size, c.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(e, 2 * f, d))
        self.down_proj = nn.Parameter(torch.empty(e, d, f))

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """Tokens ``[n, hidden]``, their experts and weights ``[n, top_k]``, to ``[n, hidden]``."""
        k = ids.shape[1]
        order = ids.flatten().argsort(stable=True)
        counts = torch.bincount(ids.flatten(), minlength=len(self.gate_up_proj)).tolist()
        token = order // k
        parts = []
        # unbind, not indexing: the gradient of a slice is a whole zeroed tensor.
        experts = zip(self.gate_up_proj.unbind(0), self.down_proj.unbind(0), strict=True)
        for rows, (gate_up, down) in zip(x[token].split(counts), experts, strict=True):
            gate, up = F.linear(rows, gate_up).chunk(2, -1)
            parts.append(F.linear(F.silu(gate) * up, down))
        y = torch.cat(parts) * weights.flatten()[order, None].to(x.dtype)
        return torch.zeros_like(x).index_add(0, token, y.to(x.dtype))


class Moe(nn.Module):
    """Softmax over all experts, the best few, their weights made to sum to one."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c = c
        self.gate = Router(c)
        self.experts = Experts(c)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[batch, tokens, hidden]`` to the same shape, and the imbalance (1 when even)."""
        flat = x.reshape(-1, x.shape[-1])
        with torch.autocast("cpu", enabled=False):
            p = F.linear(flat.float(), self.gate.weight).softmax(-1)
        w, ids = p.topk(self.c.num_experts_per_tok, -1)
        w = w / w.sum(-1, keepdim=True)
        share = torch.bincount(ids.flatten(), minlength=p.shape[1]) / ids.numel()
        return self.experts(flat, ids, w).view_as(x), p.shape[1] * (share * p.mean(0)).sum()


class Layer(nn.Module):
    """Attention, then experts."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.self_attn = Attention(c)
        self.mlp = Moe(c)
        self.input_layernorm = Norm(c.hidden_size, c.rms_norm_eps)
        self.post_attention_layernorm = Norm(c.hidden_size, c.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """``[batch, tokens, hidden]`` to the same shape, and the imbalance."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        y, imbalance = self.mlp(self.post_attention_layernorm(x))
        return x + y, imbalance


class Body(nn.Module):
    """Embedding, layers, norm."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))
        self.norm = Norm(c.hidden_size, c.rms_norm_eps)


class TinyMoe(nn.Module):
    """The language model; embedding and output are one matrix."""

    def __init__(self, c: Config, seed: int = 0) -> None:
        super().__init__()
        self.c = c
        self.model = Body(c)
        draw = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                # What writes into the residual stream starts smaller, so that its variance stays put.
                scale = (
                    (2 * c.num_hidden_layers) ** -0.5 if name.endswith(("o_proj.weight", "down_proj")) else 1
                )
                nn.init.normal_(p, std=0.02 * scale, generator=draw)
        inverse = c.rope_theta ** (-torch.arange(0, c.head_dim, 2) / c.head_dim)
        angle = torch.outer(torch.arange(c.context).float(), inverse).repeat(1, 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids ``[batch, tokens]`` to logits ``[batch, tokens, vocabulary]``, and the mean imbalance."""
        x = self.model.embed_tokens(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        total = x.new_zeros(())
        for layer in self.model.layers:
            x, imbalance = layer(x, cos, sin)
            total = total + imbalance
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight), total / len(self.model.layers)

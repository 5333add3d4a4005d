"""Encoder-decoder mixtures: Switch Transformers (arXiv:2101.03961) and NLLB-MoE (arXiv:2207.04672)."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.model.families import Family
from moesim.model.fields import MAX_LAYERS, Fields
from moesim.model.types import Dense, GroupedQuery, Layer, MoE


@dataclass(frozen=True, slots=True)
class Stack:
    """What one of the two stacks needs: a name, and the numbers of its fields."""

    name: str
    layers: int
    heads: int
    intermediate: int
    step: int


class Seq2SeqReader:
    """Reads an encoder-decoder's fields when made; builds both stacks when asked.

    Parameters
    ----------
    fields
        The config; faults and missing concepts are noted there.
    family
        Traits that the config does not carry.
    hidden
        Hidden size.
    """

    def __init__(self, fields: Fields, family: Family, hidden: int) -> None:
        self.fields, self.family, self.hidden = fields, family, hidden
        self.experts = fields.need("experts")
        self.top_k = fields.number("top_k", family.top_k, least=1)
        self.head_dim = fields.number("head_dim", least=1)
        self.buckets = fields.number("relative_buckets")
        self.encoder, self.decoder = self._stack("encoder"), self._stack("decoder")
        self.router_bias = fields.flag("router_bias", False)

    def check(self) -> None:
        """Note the faults that show only when all fields are read."""
        if self.top_k > self.experts:
            self.fields.fault("is more than the experts", "top_k", self.top_k, f"at most {self.experts}")
        for stack in (self.encoder, self.decoder):
            if not self.head_dim and self.hidden % stack.heads:
                self.fields.fault("does not divide the hidden size", f"{stack.name}_heads", stack.heads)

    def layers(self, stack: Stack) -> tuple[Layer, ...]:
        """All layers of one stack; those of the decoder have cross-attention."""
        dim = self.head_dim or self.hidden // stack.heads
        bias = self.family.qkv_bias == "yes"
        attention = GroupedQuery(stack.heads, stack.heads, dim, dim, bias=bias, output_bias=bias)
        cross = attention if stack.name == "decoder" else None
        norms = (3 if cross else 2) * self.hidden if self.family.norm_bias else 0
        return tuple(
            Layer(attention, self._ffn(stack, i), cross=cross, extra_params=norms)
            for i in range(stack.layers)
        )

    def extra_params(self) -> int:
        """Relative position biases, one table per stack; biases of the two final norms."""
        tables = self.buckets * (self.encoder.heads + self.decoder.heads)
        return tables + (2 * self.hidden if self.family.norm_bias else 0)

    def _stack(self, name: str) -> Stack:
        f = self.fields
        layers = f.need(f"{name}_layers")
        if layers > MAX_LAYERS:
            f.fault("is out of range", f"{name}_layers", layers, f"at most {MAX_LAYERS}")
            layers = 1
        if f.find(f"{name}_step"):
            step = f.number(f"{name}_step", least=1)
        else:
            sparse = f.need(f"{name}_sparse")
            step = max(layers // sparse, 1)
        return Stack(name, layers, f.need(f"{name}_heads"), f.need(f"{name}_intermediate"), step)

    def _ffn(self, stack: Stack, i: int) -> Dense | MoE:
        if (i + 1) % stack.step:
            return Dense(stack.intermediate, self.family.matrices)
        return MoE(
            self.experts,
            self.top_k,
            stack.intermediate,
            matrices=self.family.matrices,
            expert_bias=self.family.expert_bias,
            router_bias=self.router_bias,
        )

"""Feed-forward block of every layer, from a config's fields: which are MoE, and how wide experts are."""

from __future__ import annotations

from typing import Any

from moesim.model.families import Family
from moesim.model.fields import Fields
from moesim.model.types import Dense, MoE

#: Fields that only a mixture of experts has.
_MOE_FIELDS = ("experts", "top_k", "expert_intermediate", "shared_experts")


class FeedForwardReader:
    """Reads what feed-forward blocks need when made; builds a layer's block when asked.

    Parameters
    ----------
    fields
        The config; faults and missing concepts are noted there.
    family
        Traits that the config does not carry.
    layers
        Number of layers.
    """

    def __init__(self, fields: Fields, family: Family, layers: int) -> None:
        self.fields, self.family, self.layers = fields, family, layers
        self.moe = self._is_moe()
        self.sparse = self._sparse() if self.moe else [False] * layers
        self.dense = [1] * layers
        if not all(self.sparse):
            concept = "dense_intermediate" if fields.find("dense_intermediate") else "intermediate"
            self.dense = fields.per_layer(concept, layers)
        if self.moe:
            self._read_moe()

    def check(self) -> None:
        """Note the faults that show only when all fields are read."""
        if not self.moe:
            return
        for experts, top_k in dict.fromkeys(zip(self.experts, self.top_k, strict=False)):
            if top_k > experts:
                self.fields.fault("is more than the experts", "top_k", top_k, f"at most {experts}")
        if self.groups > 1 and any(e % self.groups for e in self.experts):
            self.fields.fault("does not divide the experts", "groups", self.groups)
        if self.top_groups > self.groups:
            self.fields.fault(
                "is more than the groups", "top_groups", self.top_groups, f"at most {self.groups}"
            )
        if not any(self.sparse):
            self.fields.warnings.append("the config names experts, but makes no layer sparse")

    def layer(self, i: int) -> Dense | MoE:
        """Feed-forward block of layer `i`."""
        if not self.sparse[i]:
            return Dense(self.dense[i], self.family.matrices)
        return MoE(
            num_experts=self.experts[i],
            top_k=self.top_k[i],
            intermediate=self.width[i],
            matrices=self.family.matrices,
            shared_intermediate=self.shared[i],
            shared_gate=self.family.shared_gate and self.shared[i] > 0,
            groups=self.groups,
            top_groups=self.top_groups,
            expert_bias=self.family.expert_bias,
            router_bias=self.router_bias,
            hash_routed=i < self.hash_layers,
        )

    def prediction(self) -> Dense | MoE:
        """Feed-forward block of a multi-token-prediction layer: that of the last layer, never hash-routed."""
        return self.layer(self.layers - 1)

    def _is_moe(self) -> bool:
        f = self.fields
        hit = f.find("experts")
        lone = hit is not None and type(hit[1]) is int and hit[1] in (0, 1)
        if hit is None or (lone and not f.has("top_k")):
            # A mixture whose expert count is absent is a broken config, not a dense model.
            named = self.family.moe or "moe" in f.text("model_type").lower()
            if named or (hit is None and f.has(*_MOE_FIELDS)):
                f.missing("experts")
                return True
            return False
        return True

    def _read_moe(self) -> None:
        f, n, family = self.fields, self.layers, self.family
        self.experts = f.per_layer("experts", n, least=1)
        self.top_k = f.per_layer("top_k", n, least=1, default=family.top_k or None)
        self.width = self._width()
        self.shared = self._shared()
        self.groups = f.number("groups", 1) or 1
        self.top_groups = f.number("top_groups", 1) or 1
        bias = f.flag("use_routing_bias", False) or f.flag("use_moe_router_bias", False)
        self.router_bias = family.router_bias or bias or f.text("topk_method") == "noaux_tc"
        self.hash_layers = f.number("hash_layers")

    def _width(self) -> list[int]:
        f, n = self.fields, self.layers
        if f.find("expert_intermediate"):
            return f.per_layer("expert_intermediate", n)
        if self.family.expert_width == "own":
            f.missing("expert_intermediate")
            return [1] * n
        plain = f.find("intermediate")
        if self.family.expert_width == "either" and plain:
            f.warnings.append(f"no expert size of its own; {plain[0]} is taken for it")
        return f.per_layer("intermediate", n)

    def _shared(self) -> list[int]:
        """Width of all shared experts of a layer together."""
        f, n = self.fields, self.layers
        if f.find("shared_intermediate"):
            return f.per_layer("shared_intermediate", n, default=0)
        counts = f.per_layer("shared_experts", n, default=int(self.family.shared_expert))
        return [count * width for count, width in zip(counts, self.width, strict=False)]

    def _sparse(self) -> list[bool]:
        """Whether each layer is a mixture, by whichever scheme the config uses."""
        f, n = self.fields, self.layers
        if f.find("moe_types"):
            return [
                kind in ("sparse", "moe") for kind in f.words("moe_types", n, ("dense", "sparse", "moe"))[:n]
            ]
        if f.find("moe_list"):
            chosen = self._layer_ids("moe_list")
            return [i in chosen for i in range(n)]
        if f.find("moe_period"):
            period, offset = f.number("moe_period", least=1), f.number("moe_offset")
            return [i % period == offset for i in range(n)]
        if f.find("moe_start"):
            first, every = f.number("moe_start"), f.number("moe_interval", 1, least=1)
            end = f.find("moe_end")
            # -1 stands for the last layer.
            last = n - 1 if end is None or end[1] == -1 else f.number("moe_end")
            return [first <= i <= last and (i + 1) % every == 0 for i in range(n)]
        if f.find("sparse_step"):
            step = f.number("sparse_step", 1, least=1)
            skipped = self._layer_ids("dense_list") if f.find("dense_list") else set()
            return [(i + 1) % step == 0 and i not in skipped for i in range(n)]
        told = any(f.find(c) for c in ("dense_first", "moe_frequency", "dense_list"))
        if not told and f.has("expert_intermediate") and f.has("intermediate"):
            f.warnings.append("no field says which layers are sparse; all are taken to be")
        first = f.number("dense_first")
        frequency = f.find("moe_frequency")
        if frequency is not None and isinstance(frequency[1], list):
            flags = f.numbers("moe_frequency", n)[:n]
            return [bool(flag) for flag in flags]
        every = f.number("moe_frequency", 1, least=1)
        dense = self._layer_ids("dense_list") if f.find("dense_list") else set()
        return [i >= first and i % every == 0 and i not in dense for i in range(n)]

    def _layer_ids(self, concept: str) -> set[int]:
        """Layer indices of a list, or of a text such as ``4,5,6``."""
        hit = self.fields.find(concept)
        value: Any = hit[1] if hit else []
        items = value.split(",") if isinstance(value, str) else value
        allowed = f"layers from 0 to {self.layers - 1}"
        if not isinstance(items, list):
            self.fields.fault("is no list of layers", concept, value, allowed)
            return set()
        found = set()
        for item in items:
            text = item.strip() if isinstance(item, str) else item
            number = int(text) if isinstance(text, str) and text.isdecimal() and len(text) < 9 else text
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < self.layers:
                self.fields.fault("has an entry that is no layer", concept, item, allowed)
                return set()
            found.add(number)
        return found

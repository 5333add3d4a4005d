"""Data types of a checkpoint's modules, from ``torch_dtype`` and ``quantization_config``."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from moesim.errors import Fault
from moesim.model.fields import Fields

_FLOATS = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "float32": "fp32",
    "float": "fp32",
}
_METHODS = {
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "mxfp4": "mxfp4",
    "gptq": "int4",
    "awq": "int4",
    "auto-round": "int4",
}
_ALGORITHMS = {"fp8": "fp8", "fp8_pb_wo": "fp8", "nvfp4": "nvfp4", "w4a16_awq": "int4", "int8_sq": "int8"}

#: Bounds on lists of excluded modules; the longest known has some seven hundred entries.
MAX_PATTERNS = 20_000
MAX_PATTERN = 200

#: Where each module's weights sit in a checkpoint; ``{i}`` is the layer.
_PLACES = {
    "attention": ("model.layers.{i}.self_attn.q_proj", "model.layers.{i}.self_attn.o_proj"),
    "indexer": ("model.layers.{i}.self_attn.indexer.wq_b",),
    "dense": ("model.layers.{i}.mlp.down_proj",),
    "shared": (
        "model.layers.{i}.mlp.shared_experts.down_proj",
        "model.layers.{i}.mlp.shared_expert.down_proj",
    ),
    "expert": ("model.layers.{i}.mlp.experts.0.down_proj",),
}


def weight_dtypes(fields: Fields, dense_layer: int, sparse_layer: int) -> dict[str, str]:
    """Data type by module, with ``default`` for what is not quantised.

    Parameters
    ----------
    fields
        The config. What cannot be understood becomes a warning.
    dense_layer, sparse_layer
        A layer of each kind, by which lists of excluded modules are judged.

    Returns
    -------
    dict
        As `moesim.model.types.Model.weight_dtypes`.
    """
    name = fields.text("torch_dtype", "dtype").removeprefix("torch.")
    table = {"default": _FLOATS.get(name, "bf16")}
    if name and name not in _FLOATS:
        fields.warnings.append(f"torch_dtype {name[:40]!r} is unknown; bf16 is assumed")
    quantisation = fields.values.get("quantization_config")
    if isinstance(quantisation, Mapping):
        kept = _excluded(fields, quantisation)
        dtype = _quantised(quantisation)
        if dtype is None:
            method = str(quantisation.get("quant_method", "without a method"))[:40]
            fields.warnings.append(
                f"quantization {method!r} is unknown; weights counted as {table['default']}"
            )
        else:
            for module, places in _PLACES.items():
                layer = dense_layer if module == "dense" else sparse_layer
                # A family uses one of the spellings; a pattern that names any of them excludes the module.
                if not any(_matches(place.format(i=layer), kept) for place in places):
                    table[module] = dtype
            if dtype == "mxfp4" and quantisation.get("quant_method") == "mxfp4":
                # This method packs expert matrices and nothing else.
                table = {m: t for m, t in table.items() if m in ("default", "expert")}
    elif quantisation is not None:
        fields.faults.append(Fault("is no section of a config", "quantization_config", "...", "an object"))
    if fields.text("expert_dtype") == "fp4":
        table["expert"] = "mxfp4"
    return table


def is_block_scaled(fields: Fields) -> bool:
    """Whether quantised weights have a scale per two-dimensional block (``weight_block_size``)."""
    quantisation = fields.values.get("quantization_config")
    return isinstance(quantisation, Mapping) and (
        isinstance(quantisation.get("weight_block_size"), list)
        or str(quantisation.get("quant_algo", "")).lower() == "fp8_pb_wo"
    )


def _quantised(config: Mapping[str, Any]) -> str | None:
    """The type of quantised weights; None if it cannot be told."""
    method = str(config.get("quant_method", "")).lower()
    if method in _METHODS:
        bits = config.get("bits")
        return (
            {8: "int8", 4: "int4"}.get(bits, _METHODS[method]) if isinstance(bits, int) else _METHODS[method]
        )
    if method == "bitsandbytes":
        return "int4" if config.get("load_in_4bit") is True else "int8"
    algorithm = str(config.get("quant_algo", "")).lower()
    if algorithm in _ALGORITHMS:
        return _ALGORITHMS[algorithm]
    groups = config.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping):
            return _packed(weights, str(config.get("format", "")))
    return None


def _packed(weights: Mapping[str, Any], form: str) -> str | None:
    bits, kind = weights.get("num_bits"), weights.get("type")
    if bits == 4 and kind == "float":
        return "mxfp4" if "mxfp4" in form or weights.get("group_size") == 32 else "nvfp4"
    known = {"8 float": "fp8", "8 int": "int8", "4 int": "int4"}
    return known.get(f"{bits} {kind}")


def _excluded(fields: Fields, config: Mapping[str, Any]) -> list[str]:
    """Patterns of modules that stay unquantised; what is not safe to match is left out, with a warning."""
    patterns: list[str] = []
    for key in ("modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules"):
        names = config.get(key)
        if isinstance(names, list):
            patterns += [n for n in names[:MAX_PATTERNS] if isinstance(n, str) and len(n) <= MAX_PATTERN]
    unsafe = [p for p in patterns if p.startswith("re:") and not _is_safe(p[3:])]
    if unsafe:
        fields.warnings.append(f"quantization pattern {unsafe[0][:60]!r} cannot be matched; it is ignored")
    return [p for p in patterns if p not in unsafe]


def _is_safe(expression: str) -> bool:
    """Whether an expression compiles and cannot take long: few quantifiers, and none on a group."""
    if re.search(r"\)[*+?{]", expression) or len(re.findall(r"[*+?{]", expression)) > 4:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(expression)
    except (re.error, OverflowError, RecursionError, Warning):
        return False
    return True


def _matches(place: str, patterns: list[str]) -> bool:
    """Whether a module's place is excluded by a glob, a ``re:`` expression, or the name of a part of it."""
    for pattern in patterns:
        if pattern.startswith("re:"):
            if re.match(pattern[3:], place):
                return True
        elif "*" in pattern:
            if fnmatchcase(place, pattern) or fnmatchcase(place, pattern.rstrip(".*") + ".*"):
                return True
        elif place == pattern or place.startswith(pattern + ".") or pattern in place.split("."):
            return True
    return False

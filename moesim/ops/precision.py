"""Which data types weights, activations and caches have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moesim.errors import ConfigError, Fault, nearest
from moesim.model.dtypes import module_dtypes
from moesim.model.types import Model

#: What `--dtype` takes.
WEIGHT_DTYPES = ("auto", "bf16", "fp16", "fp8", "int8", "int4", "mxfp4", "nvfp4")
KV_DTYPES = ("auto", "bf16", "fp16", "fp8")
_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0}
#: Weight-only types multiply with 16-bit activations; the others quantise them.
_INPUT_BYTES = {"fp8": 1.0, "int8": 1.0, "nvfp4": 0.5625}


@dataclass(frozen=True, slots=True)
class Precision:
    """Data types of one deployment.

    Parameters
    ----------
    weights
        By module, as `moesim.model.module_dtypes` gives them.
    cache
        Of the key-value cache.
    block_scaled
        Whether fp8 weights have a scale per block, as in DeepSeek's checkpoints.
    """

    weights: Mapping[str, str]
    cache: str = "bf16"
    block_scaled: bool = False

    def weight(self, module: str) -> str:
        """Data type of a module's weights."""
        return self.weights[module]

    @property
    def cache_bytes(self) -> float:
        """Bytes per cached element."""
        return _BYTES[self.cache]

    @classmethod
    def of(cls, model: Model, dtype: str = "auto", kv_cache_dtype: str = "auto") -> Precision:
        """Data types of a model served with these options.

        Parameters
        ----------
        dtype
            ``auto`` takes the checkpoint's own types.
        kv_cache_dtype
            ``auto`` is 16 bits, as serving engines default to.

        Raises
        ------
        ConfigError
            For a data type moesim does not know.
        """
        found = [
            Fault(
                f"unknown data type; nearest: {', '.join(nearest(value, known)) or known[1]}",
                option,
                value,
                ", ".join(known),
            )
            for option, value, known in (
                ("--dtype", dtype, WEIGHT_DTYPES),
                ("--kv-cache-dtype", kv_cache_dtype, KV_DTYPES),
            )
            if value not in known
        ]
        if found:
            raise ConfigError(found)
        return cls(
            module_dtypes(model, dtype),
            "bf16" if kv_cache_dtype == "auto" else kv_cache_dtype,
            model.block_scaled and dtype in ("auto", "fp8"),
        )


def input_bytes(weight_dtype: str) -> float:
    """Bytes per activation element that a GEMM with such weights reads."""
    return _INPUT_BYTES.get(weight_dtype, 2.0)

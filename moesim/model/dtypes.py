"""Data types of weights: bytes per parameter, and which modules a requested type applies to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moesim.errors import ConfigError, Fault, nearest
from moesim.model.types import Model

#: Bytes of one parameter, its share of scales included.
#: fp8: one 4-byte scale per 128 x 128 block (DeepSeek-V3). int8: one scale per output channel, neglected.
#: int4: one 2-byte scale per group of 32, as in Kimi-K2.5's checkpoint (with groups of 128 it is 0.516).
#: mxfp4: one byte per block of 32 (OCP microscaling 1.0). nvfp4: one byte per block of 16.
BYTES_PER_PARAM: Mapping[str, float] = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0 + 4.0 / (128 * 128),
    "int8": 1.0,
    "int4": 0.5 + 2.0 / 32,
    "mxfp4": 0.5 + 1.0 / 32,
    "nvfp4": 0.5 + 1.0 / 16,
}

#: Modules that have a data type; ``connection`` and ``other`` (norms, biases) are never quantised.
MODULES = (
    "embedding",
    "head",
    "attention",
    "indexer",
    "dense",
    "shared",
    "expert",
    "router",
    "connection",
    "other",
)

_FEED_FORWARD = frozenset({"dense", "shared", "expert"})
_LINEAR = _FEED_FORWARD | {"attention", "indexer"}

QUANTISED = ("fp8", "int8", "int4", "mxfp4", "nvfp4")


def bytes_per_param(dtype: str) -> float:
    """Bytes of one parameter in `dtype`, scales included.

    Raises
    ------
    ConfigError
        If the type is unknown.

    Examples
    --------
    >>> bytes_per_param("bf16"), bytes_per_param("mxfp4")
    (2.0, 0.53125)
    """
    found = BYTES_PER_PARAM.get(dtype) if isinstance(dtype, str) else None
    if found is None:
        _raise(dtype_faults(dtype, auto=False))
        return BYTES_PER_PARAM[dtype]
    return found


def dtype_faults(
    dtype: str, option: str = "--dtype", *, auto: bool = True, allowed: Sequence[str] = tuple(BYTES_PER_PARAM)
) -> list[Fault]:
    """Faults unless `dtype` is one of `allowed`, or ``auto`` where that is accepted."""
    names = ("auto", *allowed) if auto else tuple(allowed)
    if isinstance(dtype, str) and dtype in names:
        return []
    near = nearest(dtype, names) if isinstance(dtype, str) else []
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return [Fault("unknown data type" + hint, option, dtype, ", ".join(names))]


def _raise(faults: list[Fault]) -> None:
    if faults:
        raise ConfigError(faults)


def module_dtypes(model: Model, dtype: str = "auto") -> dict[str, str]:
    """Data type of every module's weights.

    Parameters
    ----------
    model
        The model.
    dtype
        ``auto`` for the checkpoint's own types; else a name of `BYTES_PER_PARAM`, applied to the modules that
        engines quantise (`quantised_modules`).

    Returns
    -------
    dict
        Module to type, for every name in `MODULES`.

    Raises
    ------
    ConfigError
        If the type is unknown.
    """
    _raise(dtype_faults(dtype))
    if dtype == "auto":
        return {module: model.dtype_of(module) for module in MODULES}
    if dtype not in QUANTISED:
        return dict.fromkeys(MODULES, dtype)
    chosen = quantised_modules(dtype, moe=model.moe is not None)
    return {module: dtype if module in chosen else "bf16" for module in MODULES}


def quantised_modules(dtype: str, *, moe: bool) -> frozenset[str]:
    """Return the modules that a type is applied to when it is asked for by name, as serving engines do.

    8-bit types and 4-bit integers (GPTQ, AWQ) go on every linear layer. 4-bit floats do so in dense models,
    but in mixtures they stay on feed-forward blocks, as in the published mxfp4 and nvfp4 checkpoints of
    gpt-oss and DeepSeek-R1. Embedding, head, router, norms and biases stay in bf16.
    """
    return _FEED_FORWARD if moe and dtype in ("mxfp4", "nvfp4") else _LINEAR

"""Parameters of a vision tower and its projector, from ``vision_config``.

All are plain vision transformers: a patch embedding, blocks of biased attention and a two-layer perceptron,
and a projector that joins neighbouring patches and maps them to the language model's width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.errors import Fault
from moesim.model.fields import MAX_VALUE, Fields

#: concept -> names in order of preference
_ALIASES: Mapping[str, tuple[str, ...]] = {
    "depth": ("depth", "num_hidden_layers", "vt_num_hidden_layers"),
    "width": ("hidden_size", "vt_hidden_size"),
    "intermediate": ("intermediate_size", "vt_intermediate_size"),
    "patch": ("patch_size",),
    "frames": ("temporal_patch_size",),
    "channels": ("in_channels", "num_channels"),
    "positions": ("num_position_embeddings",),
    "image": ("image_size",),
    "merge": ("spatial_merge_size",),
    "out": ("out_hidden_size", "text_hidden_size"),
    "projector": ("projector_output_dim",),
}


def vision_params(fields: Fields, hidden: int) -> int:
    """Count the parameters of the vision tower and projector; 0 without a ``vision_config``.

    Parameters
    ----------
    fields
        The config.
    hidden
        Width of the language model, which the projector maps to.
    """
    section = fields.top.get("vision_config")
    if section is None:
        names = fields.top.get("architectures")
        if (
            isinstance(names, list)
            and any("ConditionalGeneration" in str(n) for n in names)
            and any(key in fields.top for key in ("text_config", "language_config", "llm_config"))
        ):
            fields.warnings.append(
                "a vision tower is likely, but there is no vision_config; it is not counted"
            )
        return 0
    if not isinstance(section, Mapping):
        fields.faults.append(Fault("is no section of a config", "vision_config", "...", "an object"))
        return 0
    read = {name: _number(fields, section, names) for name, names in _ALIASES.items()}
    width, depth, intermediate = read["width"], read["depth"], read["intermediate"]
    if not (width and depth and intermediate):
        fields.warnings.append("vision_config lacks depth or sizes; the vision tower is not counted")
        return 0
    merge = (read["merge"] or _merge_kernel(section)) ** 2
    positions = read["positions"] or _positions(section, read["image"] or 0, read["patch"] or 1)
    patch = (read["channels"] or 3) * (read["frames"] or 1) * (read["patch"] or 1) ** 2
    embedding = patch * width + positions * width
    block = 4 * width * width + 4 * width + 2 * width * intermediate + intermediate + width + 4 * width
    tower = embedding + depth * block
    joined = width * merge
    if read["projector"]:
        # Llama-4: norms around the tower, a class token, a two-layer adapter, one matrix to the text width;
        # no bias in the patch embedding.
        out = read["projector"]
        return tower + 5 * width + joined * out + out * out + out * hidden
    deepstack = section.get("deepstack_visual_indexes")
    deepest = len(deepstack) if isinstance(deepstack, list) else 0
    out = read["out"] or hidden
    merger = joined * joined + joined + joined * out + out
    # The last merger norms patches before they are joined, those of deeper features after.
    return tower + width + merger + 2 * width + deepest * (merger + 2 * joined)


def _number(fields: Fields, section: Mapping[str, Any], names: tuple[str, ...]) -> int:
    for name in names:
        value = section.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_VALUE:
            fields.faults.append(
                Fault("is no positive whole number", f"vision_config.{name}", str(value)[:80])
            )
            return 0
        return value
    return 0


def _merge_kernel(section: Mapping[str, Any]) -> int:
    """Patches joined per side: ``merge_kernel_size`` (Kimi), ``pixel_shuffle_ratio`` (Llama-4), or 1."""
    kernel = section.get("merge_kernel_size")
    if isinstance(kernel, list) and kernel and isinstance(kernel[0], int):
        return kernel[0]
    ratio = section.get("pixel_shuffle_ratio")
    return round(1 / ratio) if isinstance(ratio, float) and 0 < ratio <= 1 else 1


def _positions(section: Mapping[str, Any], image: int, patch: int) -> int:
    height, width = section.get("init_pos_emb_height"), section.get("init_pos_emb_width")
    if isinstance(height, int) and isinstance(width, int):
        return height * width
    return (image // patch) ** 2 + 1 if image else 0

"""How a router's logits become experts and weights, for routers that leave the choice to someone else.

Most models of today hand out the chosen experts themselves; then nothing of this is needed. Where a router is
a plain linear layer, what follows it is known from the model's config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault

Floats = npt.NDArray[np.floating[Any]]

#: Families whose config does not say what their code does.
_FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"normalise": True},
    "dbrx": {"normalise": True},
    "jamba": {"normalise": False},
    "hunyuan_v1_moe": {"normalise": True},
    "gpt_oss": {"scoring": "chosen_softmax"},
    "granitemoe": {"scoring": "chosen_softmax"},
    "granitemoeshared": {"scoring": "chosen_softmax"},
    "granitemoehybrid": {"scoring": "chosen_softmax"},
    "deepseek_v2": {"group_score": "max", "normalise": False},
    "deepseek_v3": {"scoring": "sigmoid"},
    "glm4_moe": {"scoring": "sigmoid"},
    "minimax_m2": {"scoring": "sigmoid", "normalise": True},
    "llama4": {"scoring": "sigmoid", "normalise": False},
    "llama4_text": {"scoring": "sigmoid", "normalise": False},
}
_SCORINGS = ("softmax", "sigmoid", "chosen_softmax")


@dataclass(frozen=True, slots=True)
class Rule:
    """From logits to experts.

    Parameters
    ----------
    top_k
        Experts per token.
    scoring
        ``softmax`` over all experts, ``sigmoid`` of each, or ``chosen_softmax``: the largest logits are
        chosen first, and the softmax is over those alone.
    normalise
        Whether the chosen weights are made to sum to one.
    groups, top_groups
        Experts are chosen inside the best `top_groups` of `groups` equal groups.
    group_score
        What makes a group good: its ``max``, or the sum of its ``top2``.
    scale
        Factor on the weights.
    """

    top_k: int
    scoring: str = "softmax"
    normalise: bool = False
    groups: int = 1
    top_groups: int = 1
    group_score: str = "top2"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.scoring not in _SCORINGS:
            raise ConfigError(
                Fault("is no known scoring of a router", "scoring_func", self.scoring, ", ".join(_SCORINGS))
            )

    @classmethod
    def of(cls, config: Mapping[str, Any], top_k: int) -> Rule:
        """The rule a Hugging Face config describes.

        Parameters
        ----------
        config
            The text model's config, as a dictionary.
        top_k
            Experts per token, under whatever name the config has it.

        Examples
        --------
        >>> Rule.of({"model_type": "mixtral"}, 2).normalise
        True
        """
        values: dict[str, Any] = {"scoring": config.get("scoring_func") or "softmax"}
        values["normalise"] = bool(config.get("norm_topk_prob"))
        values |= _FAMILIES.get(str(config.get("model_type")), {})
        groups, kept = config.get("n_group") or 1, config.get("topk_group") or 1
        if config.get("topk_method") == "greedy" or kept >= groups:
            groups = kept = 1
        scale = config.get("routed_scaling_factor")
        return cls(
            top_k=top_k,
            groups=int(groups),
            top_groups=int(kept),
            scale=1.0 if scale is None else float(scale),
            **values,
        )


def route(logits: Floats, rule: Rule, bias: Floats | None = None) -> tuple[npt.NDArray[np.int64], Floats]:
    """Choose experts.

    Parameters
    ----------
    logits
        Router outputs ``[tokens, experts]``.
    rule
        What follows them.
    bias
        Added to the scores for the choice alone, ``[experts]`` (DeepSeek-V3's correction bias).

    Returns
    -------
    ids, weights
        ``[tokens, top_k]`` each, best first; equal scores go to the smaller id.

    Examples
    --------
    >>> ids, weights = route(np.array([[0.0, 2.0, 1.0]]), Rule(top_k=2, normalise=True))
    >>> ids.tolist(), weights.round(3).tolist()
    ([[1, 2]], [[0.731, 0.269]])
    """
    logits = logits.astype(np.float64)
    scores = logits
    if rule.scoring == "softmax":
        scores = _softmax(logits)
    elif rule.scoring == "sigmoid":
        scores = np.exp(-np.logaddexp(0.0, -logits))
    choice = scores if bias is None else scores + bias
    if rule.groups > 1:
        choice = _inside_best_groups(choice, rule)
    ids = np.argsort(-choice, axis=1, kind="stable")[:, : rule.top_k]
    weights = np.take_along_axis(scores, ids, axis=1)
    if rule.scoring == "chosen_softmax":
        weights = _softmax(weights)
    if rule.normalise:
        weights = weights / weights.sum(axis=1, keepdims=True)
    return ids, weights * rule.scale


def _softmax(x: Floats) -> Floats:
    shifted = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def _inside_best_groups(choice: Floats, rule: Rule) -> Floats:
    """Experts outside the best groups can no longer be chosen."""
    grouped = choice.reshape(len(choice), rule.groups, -1)
    if rule.group_score == "max":
        quality = grouped.max(axis=2)
    else:
        quality = np.sort(grouped, axis=2)[:, :, -2:].sum(axis=2)
    best = np.argsort(-quality, axis=1, kind="stable")[:, : rule.top_groups]
    inside = np.zeros(quality.shape, bool)
    np.put_along_axis(inside, best, True, axis=1)
    return np.where(inside[:, :, None], grouped, -np.inf).reshape(choice.shape)

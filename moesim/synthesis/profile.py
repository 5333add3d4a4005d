"""A profile: the fitted or designed statistics from which routing is generated."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault, TraceError, UnknownNameError
from moesim.files import atomic_write, data_dir

SCHEMA_VERSION = 1
#: Steps of the int8 tables per factor of two.
STEPS = 8
#: First position of each run of positions that is told apart.
PLACES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 2048, 4096])
_MAX_BYTES = 512 << 20
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """The statistics of routing that `generate` imitates.

    The model: a request has an archetype, a token has a kind, and expert e of layer l has the log weight

        base[phase, l, e]
        + archetype_scale[l] * scores[archetype] . factors[:, l, e]    the request's own taste
        + kind_scale[l] * kinds[l, kind, e]                            what the token is
        + coupling_scale[l] * sum of coupling[l, j, e]                 over its experts j of the layer before
        + sum of memory[l, j, e]                                       over the last token's experts j here
        + recency[l, m]                                                if the token m + 1 back chose e

    and k experts are drawn without replacement in proportion to the weights. The kind of a token follows from
    the archetype, its place in the request and the kind before it. All log weights are in octaves (factors
    of two). Tables in int8 count eighths of an octave.

    Parameters
    ----------
    model
        What it imitates.
    num_experts, top_k, moe_layer_ids
        The shape.
    base
        float32 ``[2, layers, E]``, prefill and decode.
    scores, factors, share, lengths
        Archetypes: float32 ``[A, F]``, int8 ``[F, layers, E]``, float32 ``[A]`` summing to 1, and the
        request length of each, int32 ``[A]``.
    archetype_scale, coupling_scale, kind_scale
        float32 ``[layers]``.
    kinds, kind_of, kind_place, kind_memory
        int8 ``[layers, C, E]``; log weights of kinds, int8: ``[A, C]`` by archetype, ``[places, C]`` by place
        in the request, ``[C, C]`` by the kind before. All of size zero without kinds.
    coupling, memory
        int8 ``[layers, E, E]``, or ``[0, E, E]`` for none; the first layer's coupling is not used.
    recency
        float32 ``[layers, lags]``.
    groups, top_groups
        Groups of experts, and how many of them a token may use.
    phase
        0 or 1 if only that phase was seen, else 2.
    source, licence
        Where the statistics come from.
    assumed
        What was assumed for want of data.
    targets
        What the profile aims at, by statistic, as in `trace stats`.
    """

    model: str
    num_experts: int
    top_k: int
    moe_layer_ids: tuple[int, ...]
    base: Array
    scores: Array
    factors: Array
    share: Array
    lengths: Array
    archetype_scale: Array
    coupling_scale: Array
    kind_scale: Array
    kinds: Array
    kind_of: Array
    kind_place: Array
    kind_memory: Array
    coupling: Array
    memory: Array
    recency: Array
    groups: int = 1
    top_groups: int = 1
    phase: int = 2
    source: str = ""
    licence: str = ""
    assumed: tuple[str, ...] = ()
    targets: dict[str, float] = field(default_factory=dict)

    @property
    def num_layers(self) -> int:
        """MoE layers."""
        return len(self.moe_layer_ids)

    @property
    def num_kinds(self) -> int:
        """Kinds of tokens; 0 for none."""
        return int(self.kinds.shape[1])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as ``.npz``, whole or not at all."""
        texts = {n: getattr(self, n) for n in _TEXTS} | {"schema_version": SCHEMA_VERSION}
        arrays = {name: getattr(self, name) for name in _shapes(self)}
        with atomic_write(path, "wb") as stream:
            np.savez_compressed(
                stream,  # type: ignore[arg-type]
                allow_pickle=False,
                profile=np.array(json.dumps(texts, sort_keys=True)),
                **arrays,
            )


_TEXTS = (
    "model",
    "num_experts",
    "top_k",
    "moe_layer_ids",
    "groups",
    "top_groups",
    "phase",
    "source",
    "licence",
    "assumed",
    "targets",
)


def _shapes(p: Profile) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each array."""
    L, E, C = p.num_layers, p.num_experts, p.num_kinds if p.kinds.ndim == 3 else -1
    A, F = p.scores.shape if p.scores.ndim == 2 else (-1, -1)
    K = C > 0
    return {
        "base": ((2, L, E), "float32"),
        "scores": ((A, F), "float32"),
        "factors": ((F, L, E), "int8"),
        "share": ((A,), "float32"),
        "lengths": ((A,), "int32"),
        "archetype_scale": ((L,), "float32"),
        "coupling_scale": ((L,), "float32"),
        "kind_scale": ((L,), "float32"),
        "kinds": ((L, C, E), "int8"),
        "kind_of": ((A * K, C), "int8"),
        "kind_place": ((len(PLACES) * K, C), "int8"),
        "kind_memory": ((C, C), "int8"),
        "coupling": ((L if len(p.coupling) else 0, E, E), "int8"),
        "memory": ((L if len(p.memory) else 0, E, E), "int8"),
        "recency": ((L, p.recency.shape[-1]), "float32"),
    }


def read_profile(path: str | os.PathLike[str]) -> Profile:
    """Read a profile that `Profile.save` wrote.

    Raises
    ------
    TraceError
        If the file is no profile or damaged; every fault is named.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _MAX_BYTES:
            raise TraceError(Fault("is too large for a profile", "size", size, f"{_MAX_BYTES} bytes"), path)
        with np.load(path, allow_pickle=False) as stored:
            values = {name: stored[name] for name in stored.files}
        texts = json.loads(str(values.pop("profile")))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise TraceError(Fault(f"is no readable profile: {str(error).lower()}"), path) from None
    wanted = {f.name for f in fields(Profile)}
    if not isinstance(texts, dict) or texts.pop("schema_version", None) != SCHEMA_VERSION:
        raise TraceError(Fault("is of another version", "schema_version", allowed=str(SCHEMA_VERSION)), path)
    missing = sorted(wanted - set(texts) - set(values)) + sorted((set(texts) | set(values)) - wanted)
    if missing:
        raise TraceError([Fault("is missing or unknown", name) for name in missing], path)
    texts["moe_layer_ids"], texts["assumed"] = tuple(texts["moe_layer_ids"]), tuple(texts["assumed"])
    profile = Profile(**texts, **values)
    faults = []
    for name, (shape, kind) in _shapes(profile).items():
        array = values[name]
        if array.shape != shape or array.dtype != kind:
            what = f"{array.dtype} {list(array.shape)}"
            faults.append(Fault("has the wrong shape or type", name, what, f"{kind} {list(shape)}"))
        elif array.dtype.kind == "f" and not np.isfinite(array).all():
            faults.append(Fault("holds what is no number", name))
    if not 1 <= profile.top_k <= profile.num_experts:
        faults.append(Fault("is out of range", "top_k", profile.top_k, f"1 to {profile.num_experts}"))
    if faults:
        raise TraceError(faults, path)
    return profile


def profile_names() -> list[str]:
    """Names of the profiles that moesim ships."""
    return sorted(path.stem for path in _folder().glob("*.npz"))


def load_profile(name: str) -> Profile:
    """A shipped profile by name.

    Raises
    ------
    UnknownNameError
        If there is none of that name.
    """
    names = profile_names()
    if name not in names:
        raise UnknownNameError("profile", name, names, f"there are {', '.join(names) or 'none'}")
    return read_profile(_folder() / f"{name}.npz")


def _folder() -> Path:
    return data_dir("traces") / "profiles"

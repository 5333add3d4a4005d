"""Where calibrated machines are kept, and what their files say of how they were measured."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesim.calibrate.reference.design import ids_of
from moesim.errors import ConfigError, Fault
from moesim.files import cache_dir
from moesim.reference.layer import Case, IntArray, LayerShape


@dataclass(frozen=True, slots=True)
class Anchor:
    """A layer of the calibration, to be run again: it shows how much the machine has changed since.

    Parameters
    ----------
    case
        The layer.
    counts
        Tokens of each expert.
    seconds
        Of the whole layer, when the machine was calibrated.
    """

    case: Case
    counts: tuple[int, ...]
    seconds: float

    @property
    def ids(self) -> IntArray:
        """Experts of each token, as they were."""
        return ids_of(self.counts, self.case.shape.top_k)


def default_path(device: str) -> Path:
    """File of a calibrated machine, ``cpu`` or ``cuda``, where none is named; its folder is made.

    It is in the user's cache, or below ``MOESIM_CACHE``.
    """
    return cache_dir("reference") / f"{device}.yaml"


def anchor_entry(case: Case, counts: Sequence[int], seconds: float) -> dict[str, Any]:
    """An anchor as files keep it; `anchors` reads it."""
    shape = case.shape
    return {
        "shape": {
            "name": shape.name,
            "num_experts": shape.num_experts,
            "top_k": shape.top_k,
            "hidden": shape.hidden,
            "width": shape.width,
        },
        "tokens": case.tokens,
        "dtype": case.dtype,
        "counts": list(counts),
        "seconds": seconds,
    }


def yaml_of(document: Mapping[str, Any]) -> str:
    """A description as YAML, in its own order, the same for the same document."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 120
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def measured(path: str | os.PathLike[str]) -> dict[str, Any]:
    """How the kernels inside a hardware file were measured; empty where it does not say.

    Raises
    ------
    ConfigError
        If it is no hardware file.
    """
    from moesim.hardware.catalogue import read_description

    spec = read_description(Path(path)).spec
    for device in spec.devices.values():
        for processor in device.processors.values():
            if processor.kernels is not None and processor.kernels.measured:
                return dict(processor.kernels.measured)
    return {}


def inconclusive(path: str | os.PathLike[str]) -> bool:
    """Whether the machine was too noisy when it was calibrated."""
    return measured(path).get("verdict") == "inconclusive"


def anchors(path: str | os.PathLike[str]) -> tuple[Anchor, ...]:
    """Layers of the calibration to run again.

    Raises
    ------
    ConfigError
        If the file's anchors are not as calibration writes them, with every faulty one.
    """
    made, faults = [], []
    for i, raw in enumerate(measured(path).get("anchors", ())):
        try:
            counts = tuple(int(n) for n in raw["counts"])
            case = Case(LayerShape(**raw["shape"]), int(raw["tokens"]), dtype=str(raw["dtype"]))
            anchor = Anchor(case, counts, float(raw["seconds"]))
            if anchor.ids.shape != (case.tokens, case.shape.top_k) or len(counts) != case.shape.num_experts:
                raise ValueError
            made.append(anchor)
        except (AttributeError, KeyError, TypeError, ValueError):
            where = f"kernels.measured.anchors.{i}"
            faults.append(Fault("is no anchor", where, None, "as moesim calibrate cpu writes them"))
    if faults:
        raise ConfigError(faults, path)
    return tuple(made)

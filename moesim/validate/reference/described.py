"""The machine that runs are predicted from: a description given, or the one the runs carry."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesim.calibrate.reference import measured
from moesim.errors import ConfigError, Fault
from moesim.hardware import Hardware, load_hardware
from moesim.hardware.catalogue import find
from moesim.hardware.read import MAX_BYTES
from moesim.validate.reference.runs import Runs


@dataclass(frozen=True, slots=True, eq=False)
class Described:
    """A description, and what its calibration says of itself.

    Parameters
    ----------
    hardware
        The machine.
    quiet
        Whether the calibration found it quiet enough; true where nothing is said.
    copy_residual
        Median error of the law of copies, a fraction.
    """

    hardware: Hardware
    quiet: bool = True
    copy_residual: float = 0.0


def described(runs: Runs, given: str | None = None) -> Described:
    """The description to predict from.

    Parameters
    ----------
    runs
        With a description of their own.
    given
        A file, or a name of the catalogue, to be used instead.
    """
    if given is not None:
        return _read(find(given))
    if len(runs.hardware_text.encode()) > MAX_BYTES:
        raise ConfigError(Fault("is too big", "hardware", allowed=f"{MAX_BYTES:,} bytes"))
    with tempfile.TemporaryDirectory(prefix="moesim-") as folder:
        path = Path(folder) / "hardware.yaml"
        path.write_text(runs.hardware_text, encoding="utf-8")
        try:
            return _read(path)
        except ConfigError as error:
            faults = [Fault(f"{fault}", "hardware") for fault in error.faults]
            raise ConfigError([*faults, Fault("--hardware names another description")]) from None


def _read(path: Path) -> Described:
    said = measured(path)
    copies = said.get("copies")
    residual = copies.get("residual") if isinstance(copies, Mapping) else None
    return Described(load_hardware(path), said.get("verdict") != "inconclusive", _fraction(residual))


def _fraction(value: Any) -> float:  # noqa: ANN401 - of a free mapping
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10
    return float(value) if known else 0.0

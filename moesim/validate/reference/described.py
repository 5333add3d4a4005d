"""The machine that runs are predicted from: a description given, or the one the runs carry."""

from __future__ import annotations

import tempfile
from pathlib import Path

from moesim.calibrate.reference import inconclusive
from moesim.errors import ConfigError, Fault
from moesim.hardware import Hardware, load_hardware
from moesim.hardware.catalogue import find
from moesim.hardware.read import MAX_BYTES
from moesim.validate.reference.runs import Runs


def described(runs: Runs, given: str | None = None) -> tuple[Hardware, bool]:
    """A description, and whether its calibration found the machine quiet.

    Parameters
    ----------
    runs
        With a description of their own.
    given
        A file, or a name of the catalogue, to be used instead.
    """
    if given is not None:
        path = find(given)
        return load_hardware(path), not inconclusive(path)
    if len(runs.hardware_text.encode()) > MAX_BYTES:
        raise ConfigError(Fault("is too big", "hardware", allowed=f"{MAX_BYTES:,} bytes"))
    with tempfile.TemporaryDirectory(prefix="moesim-") as folder:
        path = Path(folder) / "hardware.yaml"
        path.write_text(runs.hardware_text, encoding="utf-8")
        try:
            return load_hardware(path), not inconclusive(path)
        except ConfigError as error:
            faults = [Fault(f"{fault}", "hardware") for fault in error.faults]
            raise ConfigError([*faults, Fault("--hardware names another description")]) from None

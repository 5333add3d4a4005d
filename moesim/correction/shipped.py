"""Calibrations in files: the one that is shipped, or a user's own."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from moesim.correction.calibration import Calibration
from moesim.errors import ConfigError, Fault
from moesim.files import data_dir

#: Larger files are not read: a calibration of ten thousand runs has a tenth of this.
MOST_BYTES = 50_000_000


@lru_cache(maxsize=1)
def shipped() -> Calibration:
    """The calibration to public measurements that comes with moesim."""
    return calibration_of(data_dir("hardware") / "serving" / "calibration.json")


def calibration_of(path: str | Path) -> Calibration:
    """Read a calibration that `moesim calibrate serving` wrote.

    Parameters
    ----------
    path
        The file, or ``none`` for physics alone.

    Raises
    ------
    ConfigError
        If it cannot be read, or is no calibration.
    """
    if str(path) == "none":
        return Calibration({}, {})
    file = Path(path)
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ConfigError(Fault("is too large for a calibration", allowed=f"{MOST_BYTES} bytes"), file)
        return Calibration.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(Fault(f"cannot be read: {(error.strerror or str(error)).lower()}"), file) from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        why = f"is not a calibration: {type(error).__name__}: {error}"
        raise ConfigError(Fault(why, allowed="what `moesim calibrate serving -o` writes"), file) from None

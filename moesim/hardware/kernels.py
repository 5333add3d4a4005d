"""Read files of measured kernels, as ``moesim calibrate tables`` writes them."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from moesim.errors import ConfigError, Fault, nearest
from moesim.hardware.curves import KERNELS, Axis, Surface, Surfaces

#: S is stored in whole steps of this size: half a percent of time.
RESOLUTION = 0.005


class AxisSpec(BaseModel):
    """Knots of one axis, in logarithms to base 2."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float
    step: Annotated[float, Field(gt=0)]
    knots: Annotated[int, Field(ge=1, le=64)]


class FitSpec(BaseModel):
    """One kernel; see `moesim.hardware.curves.Surface`. `steps` are multiples of `RESOLUTION`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kernel: str
    dtype: str
    backend: str
    version: str
    floor_us: Annotated[float, Field(ge=0)]
    sharpness: Annotated[float, Field(gt=0)]
    axes: Annotated[list[AxisSpec], Field(min_length=1, max_length=4)]
    steps: list[int]
    tile_rows: Annotated[float, Field(ge=1)] = 1.0
    held: Annotated[float, Field(ge=0)] = 0.0
    log_error: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @field_validator("kernel")
    @classmethod
    def _known(cls, kernel: str) -> str:
        if kernel not in KERNELS:
            near = nearest(kernel, KERNELS, 1)
            hint = f"; nearest: {near[0]}" if near else ""
            raise ValueError(f"no kernel; allowed: {', '.join(KERNELS)}{hint}")
        return kernel

    @model_validator(mode="after")
    def _sizes(self) -> FitSpec:
        knots = math.prod(axis.knots for axis in self.axes)
        wrong = []
        if len(self.axes) != len(KERNELS[self.kernel]):
            wrong.append(f"needs one axis for each of: {', '.join(KERNELS[self.kernel])}")
        if len(self.steps) != knots:
            wrong.append(f"has {len(self.steps)} steps; allowed: one for each of {knots} knots")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


class KernelFile(BaseModel):
    """A file of the folder ``kernels``: the measured kernels of one device."""

    model_config = ConfigDict(extra="allow", frozen=True)

    schema_version: Literal[1]
    name: str
    source: str
    licence: str
    fits: list[FitSpec]


def read_kernels(path: Path, seen: object = None) -> Surfaces:
    """Measured kernels by kernel, data type and backend; read once while the file stays as it is.

    Parameters
    ----------
    path
        A JSON file.
    seen
        What changes when the file does.

    Raises
    ------
    ConfigError
        If the file cannot be read, with every fault.
    """
    return _read(path, seen)


@functools.lru_cache(maxsize=16)
def _read(path: Path, _seen: object) -> Surfaces:
    return surfaces_of(read_file(path).fits)


def surfaces_of(fits: Iterable[FitSpec]) -> dict[tuple[str, str, str], Surface]:
    """Surfaces by kernel, data type and backend."""
    return {
        (fit.kernel, fit.dtype, fit.backend): Surface(
            fit.kernel,
            fit.dtype,
            fit.backend,
            fit.version,
            fit.floor_us * 1e-6,
            fit.sharpness,
            tuple(Axis(axis.low, axis.step, axis.knots) for axis in fit.axes),
            tuple(step * RESOLUTION for step in fit.steps),
            fit.tile_rows,
            fit.held,
            fit.log_error,
        )
        for fit in fits
    }


def read_file(path: Path) -> KernelFile:
    """A file of measured kernels as it stands, validated."""
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
        return KernelFile.model_validate(raw)
    except OSError as error:
        raise ConfigError(Fault(f"cannot be read: {(error.strerror or str(error)).lower()}"), path) from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ConfigError(Fault("is no JSON", allowed="a file of measured kernels"), path) from None
    except ValidationError as error:
        faults = [
            Fault(e["msg"].removeprefix("Value error, "), ".".join(str(p) for p in e["loc"]))
            for e in error.errors(include_url=False)
        ]
        raise ConfigError(faults, path) from None

"""The frozen cases: what is run on every machine, fixed before any was calibrated.

`benchmarks/freeze_reference_cases.py` wrote both files. They are held out from calibration: their shapes
and routings are not those that `moesim calibrate` measures.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from moesim.reference.layer import Case, LayerShape

DEVICES = ("cpu", "cuda")
#: SHA-256 of the files; a test compares.
CHECKSUMS = {
    "cpu": "548fce972ce833e5ceba934a23cac280eb71edb09954f2fbd0a80dafce2e4452",
    "cuda": "d40fc275bc2571f7e25c066dd30b8385c15275ad79e4933ea4270859ef753904",
}
_ROUTING = re.compile(r"uniform|one-hot|ragged|zipf:\d+(\.\d+)?|trace:[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _known_routing(text: str) -> str:
    if len(text) > 80 or not _ROUTING.fullmatch(text):
        raise ValueError("is no routing; allowed: uniform, one-hot, ragged, zipf:S, trace:NAME")
    return text


class ShapeRow(BaseModel):
    """Sizes of one layer; see `moesim.reference.layer.LayerShape`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=64)]
    num_experts: Annotated[int, Field(ge=1, le=4096)]
    top_k: Annotated[int, Field(ge=1, le=64)]
    hidden: Annotated[int, Field(ge=1, le=1 << 16)]
    width: Annotated[int, Field(ge=1, le=1 << 17)]
    renormalise: bool

    @model_validator(mode="after")
    def _chosen(self) -> ShapeRow:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k is more than there are experts; allowed: at most {self.num_experts}")
        return self


class CaseRow(BaseModel):
    """One case; see `moesim.reference.layer.Case`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: Annotated[str, Field(max_length=64)]
    tokens: Annotated[int, Field(ge=1, le=1 << 20)]
    routing: Annotated[str, AfterValidator(_known_routing)]
    offloaded: Annotated[float, Field(ge=0.0, lt=1.0)]
    dtype: Literal["fp32", "bf16"]
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0


class CaseTable(BaseModel):
    """Shapes, and cases that name them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shapes: Annotated[list[ShapeRow], Field(min_length=1, max_length=256)]
    cases: Annotated[list[CaseRow], Field(min_length=1, max_length=4096)]

    @model_validator(mode="after")
    def _named(self) -> CaseTable:
        names = [shape.name for shape in self.shapes]
        if len(set(names)) < len(names):
            raise ValueError("two shapes have the same name")
        unknown = sorted({case.shape for case in self.cases} - set(names))
        if unknown:
            raise ValueError(f"no shape is called {', '.join(unknown[:5])}; allowed: {', '.join(names[:20])}")
        return self

    def read(self) -> tuple[Case, ...]:
        """The cases as values."""
        shapes = {row.name: LayerShape(**row.model_dump()) for row in self.shapes}
        return tuple(
            Case(shapes[c.shape], c.tokens, c.routing, c.offloaded, c.dtype, c.seed) for c in self.cases
        )


class CaseFile(CaseTable):
    """A file of frozen cases."""

    schema_version: Literal[1]
    device: Literal["cpu", "cuda"]


def case_file(device: str) -> Path:
    """Where the frozen cases of ``cpu`` or ``cuda`` are."""
    return Path(__file__).with_name(f"cases_{device}.json")


@functools.cache
def frozen(device: str) -> tuple[Case, ...]:
    """The frozen cases of ``cpu`` or ``cuda``.

    >>> cases = frozen("cpu")
    >>> len(cases), cases[0].name, max(case.shape.flops(case.tokens) for case in cases) < 5e9
    (48, 'mixtral-8x7b/8 1 uniform fp32', True)
    """
    return CaseFile.model_validate(json.loads(case_file(device).read_text(encoding="utf-8"))).read()


def checksum(device: str) -> str:
    """SHA-256 of a file of frozen cases as it stands."""
    return hashlib.sha256(case_file(device).read_bytes()).hexdigest()

"""FSMoE's Table 2: 64 seconds of single operations, and how near the model of them is."""

from __future__ import annotations

import csv
import functools
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources

from moesim.overlap import CORRECTED, Bed, Layers, operation_seconds, stretched

#: Table 2: four sequences of 1024 tokens to a node; GPT2-XL's experts have two matrices, Mixtral's three.
MODELS = {
    "GPT2-XL": Layers(4, 1024, 1600, 6400, 25, 1600, 2),
    "Mixtral7B": Layers(4, 1024, 4096, 14336, 32, 1024, 3),
}
#: What a backward pass does twice.
TWICE = ("experts", "attention")


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured operation: bed, model, ``forward`` or ``backward``, operation, seconds."""

    bed: str
    model: str
    phase: str
    operation: str
    seconds: float

    def model_seconds(self, bed: Bed) -> float:
        """What the model says of it."""
        if self.phase == "forward" and self.operation == "all_reduce":
            return 0.0
        seconds = float(operation_seconds(MODELS[self.model], bed)[self.operation])
        return seconds * (2.0 if self.phase == "backward" and self.operation in TWICE else 1.0)


@functools.cache
def cells() -> tuple[Cell, ...]:
    """All cells of the table."""
    text = resources.files("moesim.systems").joinpath("fsmoe_operations.csv").read_text(encoding="utf-8")
    return tuple(
        Cell(r["bed"], r["model"], r["phase"], r["operation"], float(r["milliseconds"]) / 1e3)
        for r in csv.DictReader(text.splitlines())
    )


@functools.cache
def fitted_bed(bed: str, models: Collection[str] = tuple(MODELS)) -> Bed:
    """A bed whose operations take as long as Table 2 has for some models: published slopes, stretched.

    Forward and backward cells of an operation count alike; a backward pass is taken as two forward ones where
    the work is.
    """
    measured = []
    for cell in cells():
        if cell.bed != bed or cell.model not in models or not cell.seconds:
            continue
        twice = 2.0 if cell.phase == "backward" and cell.operation in TWICE else 1.0
        measured.append((MODELS[cell.model], cell.operation, cell.seconds / twice))
    return stretched(CORRECTED[bed], measured)


def held_out_seconds(cell: Cell) -> float:
    """What the model says of a cell when its bed was fitted on the other model's cells."""
    others = tuple(model for model in MODELS if model != cell.model)
    return cell.model_seconds(fitted_bed(cell.bed, others))

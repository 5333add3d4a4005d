"""What every document shares: bounded types, the base class, and how faults are told."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from moesim.errors import ConfigError, Fault

#: What no XML or HTML document may hold.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")
MAX_LAYERS, MAX_EXPERTS, MAX_SLOTS = 2048, 8192, 65536

Text = Annotated[str, Field(max_length=2000), AfterValidator(lambda text: _UNPRINTABLE.sub("\ufffd", text))]
#: A file without its folders, which are nobody's business where a page is read.
FileName = Annotated[Text, AfterValidator(lambda path: last_part(path))]
Positive = Annotated[float, Field(ge=1e-12, le=1e15)]
Rate = Annotated[float, Field(ge=1e-12, le=1e21)]
Count = Annotated[float, Field(ge=0, le=1e21)]
Signed = Annotated[float, Field(ge=-1e15, le=1e15)]
#: Largest over mean: one is even, and the sum may round to a little less.
Ratio = Annotated[float, Field(ge=0.999, le=MAX_SLOTS)]
Share = Annotated[float, Field(ge=0, le=1)]
Degree = Annotated[int, Field(ge=1, le=1_000_000)]
Number = Annotated[int, Field(ge=0, le=10**15)]
LayerId = Annotated[int, Field(ge=0, le=100_000)]
Texts = Annotated[list[Text], Field(max_length=200)]


def last_part(path: str) -> str:
    """A file's name without its folders.

    >>> last_part("/a/b.npz")
    'b.npz'
    """
    return PurePosixPath(path.replace("\\", "/")).name


class Part(BaseModel):
    """A checked part of a document: what is not known is left out, what is known has its type."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class Provenance(Part):
    """What it takes to get the same answer again."""

    moesim: Text = ""
    python: Text = ""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    inputs: Annotated[
        dict[Text, Text], Field(max_length=200), AfterValidator(lambda found: _without_folders(found))
    ] = {}


def _without_folders(inputs: dict[str, str]) -> dict[str, str]:
    """Files by their last part; where others have the same, with a number."""
    found: dict[str, str] = {}
    for path, digest in inputs.items():
        name, nth = last_part(path), 2
        while found.get(name, digest) != digest:
            name, nth = f"{last_part(path)} ({nth})", nth + 1
        found[name] = digest
    return found


class Document(Part):
    """One result.

    Every document has a ``kind`` of its own, warnings, and where it comes from.
    """

    #: What a page calls one of its kind.
    title: ClassVar[str]

    warnings: Texts = []
    provenance: Provenance = Provenance()

    @property
    def traits(self) -> tuple[str, ...]:
        """What may tell it apart from others of its kind, the most telling first: labels are made of it."""
        return ()

    @property
    def machines(self) -> tuple[str, ...]:
        """Hardware behind the numbers."""
        return ()


class HardwareSources(Part):
    """Where the numbers of a machine come from."""

    name: Text
    title: Text
    sources: Annotated[dict[Text, Text], Field(max_length=2000)]


D = TypeVar("D", bound=BaseModel)


def checked(kind: type[D], raw: object, source: object = "") -> D:
    """Read plain JSON values as a document.

    Raises
    ------
    ConfigError
        With every fault: path inside the document, value, what is allowed.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        faults = [_fault(e) for e in error.errors(include_url=False)]
        more = [Fault(f"{len(faults) - 20} more faults")] if len(faults) > 20 else []
        raise ConfigError(faults[:20] + more, source) from None


def _fault(error: Any) -> Fault:  # noqa: ANN401 - pydantic's own dictionary
    value = error.get("input")
    shown: object = value if isinstance(value, int | float | bool) else None
    if isinstance(value, str):
        shown = value if len(value) <= 40 else value[:37] + "..."
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return Fault("is missing", where)
    return Fault(message[:1].lower() + message[1:], where, shown)

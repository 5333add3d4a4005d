"""The parts of the reference about files and documents: what pydantic checks, and the metrics."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from inspect import cleandoc

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docs.reference_parts.markdown import code, table
from docs.reference_parts.words import Words, models_of, plain


def hardware() -> Iterator[str]:
    """The schema of a hardware file."""
    from moesim.hardware.spec import Spec

    yield "# Reference: hardware files"
    yield cleandoc(
        """
        What a machine's YAML may say, `schema_version: 1`; [Machines](../hardware.md) explains it with
        examples, `moesim hardware check FILE` checks a file, and `moesim hardware schema` prints the JSON
        Schema for editors.
        """
    )
    yield cleandoc(
        """
        A quantity is text with a unit, a plain number in SI, or a mapping of `value`, `source`, `status`
        (`seen`, `recalled`, `derived`, `measured`, `assumed`) and `note`. Every mapping may have `source`,
        `status` and `note`, which hold for the numbers in it that have none of their own; they are left out
        below. Names and keys are letters, digits and `._+-`, at most 64 of them.
        """
    )
    yield from _models({"The file as a whole": Spec}, leave_out=("source", "status", "note"))


def study() -> Iterator[str]:
    """The schema of a study file."""
    from moesim.studies.spec import CONFIGURATION, Study

    yield "# Reference: study files"
    yield cleandoc(
        """
        What `moesim plan --grid STUDY.yaml` reads; [Studies](../studies.md) explains it with examples.
        `base` holds a configuration, `grid` and `zip` give lists of values by dotted path, as in
        `layout.tp`.
        """
    )
    kinds = {f"A configuration of kind {kind}": made for kind, made in CONFIGURATION.items()}
    yield from _models({"The file as a whole": Study} | kinds)


def documents() -> Iterator[str]:
    """Metrics, and the documents that commands print."""
    from moesim.metrics import DEFINITIONS
    from moesim.reporting.documents import AnyDocument, ReportDocument

    yield "# Reference: metrics and documents"
    yield cleandoc(
        """
        ## Metrics

        Names are the same in every document, table, Python result and report; times are in seconds.
        """
    )
    yield table(["metric", "unit", "definition"], [[f"`{n}`", u, d] for n, (u, d) in DEFINITIONS.items()])
    yield cleandoc(
        """
        ## Documents

        `--json` prints one document, with `schema_version` and `provenance` besides its own fields. A value
        that is not known is null; NaN and infinity never appear. `moesim report` reads these kinds, told by
        `kind`, and checks them value by value; other fields are ignored.
        """
    )
    kinds = typing.get_args(typing.get_args(AnyDocument)[0])
    titles = models_of({"the data of a report": ReportDocument})
    yield table(
        ["kind", "what it is"],
        [
            [
                f"[`{kind.model_fields['kind'].default}`](#{titles[kind].replace(' ', '-')})",
                _doc(kind).split("\n")[0],
            ]
            for kind in kinds
        ],
    )
    yield from _models({"the data of a report": ReportDocument}, limits=False)


def _models(
    roots: Mapping[str, type[BaseModel]], leave_out: Sequence[str] = (), *, limits: bool = True
) -> Iterator[str]:
    """A section for every model and for those inside them, each once."""
    titles = models_of(roots)
    words = Words(titles, limits)
    for model, title in titles.items():
        rows = [
            [f"`{name}`", words.of(field.annotation, field.metadata), _default(field)]
            for name, field in model.model_fields.items()
            if name not in leave_out
        ]
        yield f"## {title}\n\n{_doc(model)}".strip()
        yield table(["key", "value", "default"], rows)


def _doc(model: type[BaseModel]) -> str:
    return code(cleandoc(model.__doc__ or "")) if model.__doc__ != BaseModel.__doc__ else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ([], {}, (), "") or isinstance(value, BaseModel):
        return ""
    return f"`{plain(value)}`"

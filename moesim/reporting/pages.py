"""What pages share: templates, and JSON inside HTML."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from moesim.files import atomic_write
from moesim.provenance import clean
from moesim.reporting.figures import css

if TYPE_CHECKING:
    from jinja2 import Environment, Template
    from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"


def write_page(
    document: Mapping[str, Any],
    path: str | os.PathLike[str],
    provenance: Mapping[str, Any],
    render: Callable[[dict[str, Any], str], str],
) -> Path:
    """Write the page of a document, whole or not at all.

    Parameters
    ----------
    document
        What ``--json`` prints.
    path
        The page.
    provenance
        Versions, seed, and hashes of what was read; becomes part of the document.
    render
        Makes the page's text of the document and of its JSON, which the page carries.
    """
    whole = clean({**document, "provenance": provenance})
    page = render(whole, json.dumps(whole, ensure_ascii=True, allow_nan=False, separators=(",", ":")))
    with atomic_write(path) as stream:
        cast(IO[str], stream).write(page)
    return Path(path)


def template(name: str) -> Template:
    """A template of this package; text put into it is escaped."""
    return _environment().get_template(name)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The colours of figures: variables that follow the reader's light or dark.
    environment.globals["css"] = Markup(css())
    return environment


def inside(data: str) -> Markup:
    """JSON that can stand inside a ``<script>`` element and ends it nowhere.

    In JSON, ``<`` only stands inside strings, where its escape means the same.
    """
    from markupsafe import Markup

    return Markup(data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))

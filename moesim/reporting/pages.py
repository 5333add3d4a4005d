"""What pages share: templates, and JSON inside HTML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"


def template(name: str) -> Template:
    """A template of this package; text put into it is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def inside(data: str) -> Markup:
    """JSON that can stand inside a ``<script>`` element and ends it nowhere.

    In JSON, ``<`` only stands inside strings, where its escape means the same.
    """
    from markupsafe import Markup

    return Markup(data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))

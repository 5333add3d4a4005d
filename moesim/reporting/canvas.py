"""An empty matplotlib canvas in the house style, for what is not a single figure."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from moesim.reporting.figures import Figure, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

#: Type 42 keeps text as text, so that it can be selected and searched.
_PDF = {"pdf.fonttype": 42, "pdf.compression": 6}


@contextmanager
def canvas(
    theme: Theme, width_in: float, height_in: float, *, scale: float = 1.0, **more: object
) -> Iterator[Canvas]:
    """A canvas, and the settings to draw and save it within.

    Parameters
    ----------
    width_in, height_in
        Inches.
    scale
        Of the text in figures.
    more
        Settings of matplotlib.
    """
    from matplotlib import style
    from matplotlib.figure import Figure as Canvas

    settings: dict[str, Any] = {**theme.settings(), **_PDF, **more}
    settings["font.size"] = float(settings["font.size"]) * scale
    with style.context(["default", settings]), warnings.catch_warnings():
        # A name may hold glyphs that the font lacks; it is drawn with boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield Canvas(figsize=(width_in, height_in), layout="constrained")


def png(figure: Figure, theme: Theme, dpi: float = 144.0) -> bytes:
    """A figure alone as an image."""
    import io

    stream = io.BytesIO()
    with canvas(theme, figure.width_in, figure.height_in) as sheet:
        figure.draw(sheet, theme)
        sheet.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()

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
def style(theme: Theme, scale: float = 1.0) -> Iterator[None]:
    """Settings of matplotlib while something is drawn and saved.

    Parameters
    ----------
    scale
        Of the text in figures.
    """
    from matplotlib import style as styles

    settings: dict[str, Any] = {**theme.settings(), **_PDF}
    settings["font.size"] = float(settings["font.size"]) * scale
    with styles.context(["default", settings]), warnings.catch_warnings():
        # A name may hold glyphs that the font lacks; it is drawn with boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def blank(width_in: float, height_in: float) -> Canvas:
    """An empty canvas."""
    from matplotlib.figure import Figure as Canvas

    return Canvas(figsize=(width_in, height_in), layout="constrained")


def png(figure: Figure, theme: Theme, dpi: float = 144.0) -> bytes:
    """A figure alone as an image."""
    import io

    stream = io.BytesIO()
    with style(theme):
        sheet = blank(figure.width_in, figure.height_in)
        figure.draw(sheet, theme)
        sheet.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()

"""`moesim validate`: predictions beside measurements."""

from __future__ import annotations

import typer

from moesim.cli.validate_serving import serving

app = typer.Typer(no_args_is_help=True, help="Predictions beside measurements.")
app.command()(serving)


@app.callback()
def _validate() -> None:
    """Predictions beside measurements."""

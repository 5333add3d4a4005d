"""`moesim validate`: predictions against measurements."""

from __future__ import annotations

import typer

from moesim.cli.validate_kernels import kernels

app = typer.Typer(no_args_is_help=True, help="Compare predictions with measurements.")
app.command()(kernels)


@app.callback()
def _root() -> None:
    """Compare predictions with measurements."""

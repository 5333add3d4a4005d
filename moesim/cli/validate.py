"""`moesim validate`: predictions beside what was measured or published."""

from __future__ import annotations

import typer

from moesim.cli.validate_kernels import kernels
from moesim.cli.validate_published import published
from moesim.cli.validate_reference import reference
from moesim.cli.validate_serving import serving

app = typer.Typer(no_args_is_help=True, help="Predictions beside what was measured or published.")
app.command()(serving)
app.command()(published)
app.command()(kernels)
app.command()(reference)

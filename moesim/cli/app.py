"""The `moesim` program: commands, and what every error looks like."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Annotated, Any

import typer

from moesim._version import __version__
from moesim.cli import calibrate, hardware, model, requests, trace, validate
from moesim.cli.common import stderr
from moesim.cli.demo import demo
from moesim.cli.many import spread
from moesim.cli.panels import GROUPED, group_options
from moesim.cli.place import place
from moesim.cli.plan import plan
from moesim.cli.predict import predict
from moesim.cli.rebalance import rebalance
from moesim.cli.replay import replay
from moesim.cli.report import report
from moesim.cli.reproduce import reproduce
from moesim.cli.simulate import simulate
from moesim.cli.train import train
from moesim.cli.ui import ui
from moesim.errors import ConfigError, InfeasibleError, MoesimError, TraceError

app = typer.Typer(
    name="moesim",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Predict, place and validate Mixture-of-Experts inference from real routing traces.",
)
app.command()(predict)
app.command()(simulate)
app.command()(place)
app.command()(plan)
app.command()(rebalance)
app.command()(train)
app.command()(replay)
app.command()(reproduce)
app.command()(report)
app.command()(demo)
app.command()(ui)
app.add_typer(trace.app, name="trace")
app.add_typer(requests.app, name="requests")
app.add_typer(hardware.app, name="hardware")
app.add_typer(model.app, name="model")
app.add_typer(calibrate.app, name="calibrate")
app.add_typer(validate.app, name="validate")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"moesim {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Predict, place and validate Mixture-of-Experts inference from real routing traces."""


def main() -> None:
    """Run the program: 0 ok, 1 infeasible or failed check, 2 usage or bad input."""
    warnings.showwarning = _show_warning
    if sys.stderr.isatty():
        # Whoever watches is told why the first run takes long.
        logging.basicConfig(stream=sys.stderr, format="%(message)s")
        logging.getLogger("moesim").setLevel(logging.INFO)
    words = sys.argv[1:]
    program: Any = typer.main.get_command(app)
    if words and words[0] in GROUPED:
        group_options(program.commands[words[0]].params)
    code = 1
    try:
        program(args=spread(words))
    except (ConfigError, TraceError) as error:
        stderr(f"error: {error}")
        code = 2
    except InfeasibleError as error:
        stderr(f"infeasible: {error}")
    except MoesimError as error:
        stderr(f"error: {error}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    stderr(f"warning: {message}")

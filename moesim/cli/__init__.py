"""The command line: one thin file per command."""

from moesim.cli.app import main

__all__ = ["main"]

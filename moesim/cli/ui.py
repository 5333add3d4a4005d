"""`moesim ui`: a local page of sliders and answers."""

from __future__ import annotations

from typing import Annotated

import typer

from moesim.cli.common import stderr


def ui(
    host: Annotated[
        str, typer.Option(help="Address to listen at; any but this machine's own asks for a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")] = 8765,
    trace: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="A routing trace to offer; again for more.")
    ] = None,
    hardware: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="A machine to offer; again for more.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="A model to offer; again for more.")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="A further name of this machine; again for more.")
    ] = None,
    token: Annotated[
        bool, typer.Option("--token", help="Ask for a token on this machine too, where others log in.")
    ] = False,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve a page on this machine: move a slider, see the answer, until Ctrl-C."""
    from moesim.errors import ConfigError, Fault
    from moesim.ui.library import Library
    from moesim.ui.serve import address_of, listen, rules_for, serve

    faults: list[Fault] = []
    library, listener = None, None
    try:
        library = Library(model or (), hardware or (), trace or ())
    except ConfigError as error:
        faults += error.faults
    try:
        listener = listen(host, port)
    except ConfigError as error:
        faults += error.faults
    if library is None or listener is None:
        raise ConfigError(faults)
    rules = rules_for(listener, host, name or (), token=token)
    address = address_of(listener, host, rules)

    def ready() -> None:
        typer.echo(address)
        if rules.access_token is not None:
            stderr("note: whoever has this address may ask, and traffic is not encrypted; do not share it")
        stderr("Ctrl-C stops it")
        if open_:
            import webbrowser

            webbrowser.open(address)

    serve(library, listener, rules, ready)

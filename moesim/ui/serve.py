"""Listen, say where, and stop when asked."""

from __future__ import annotations

import errno
import ipaddress
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Collection
from types import FrameType

from moesim.errors import ConfigError, Fault, OutOfDomainWarning
from moesim.ui.app import Server
from moesim.ui.library import Library
from moesim.ui.security import LOOPBACK, Rules, new_token

DEFAULT_PORT = 8765
#: Connections at once, and seconds that an idle one is kept.
_MOST_CONNECTIONS, _IDLE_S = 64, 30


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises
    ------
    ConfigError
        If the port is taken, or the address is none of this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
    except (OSError, UnicodeError):
        raise ConfigError(Fault("is no address", "--host", host, "an address of this machine")) from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            fault = Fault("is taken by another program", "--port", port, "a free port, or 0 for any")
        elif error.errno == errno.EACCES:
            fault = Fault("needs rights that you do not have", "--port", port, "1024 to 65535, or 0 for any")
        else:
            fault = Fault(
                f"cannot be listened at: {(error.strerror or str(error)).lower()}",
                "--host",
                host,
                "an address of this machine",
            )
        raise ConfigError(fault) from None
    return listener


def rules_for(
    listener: socket.socket, host: str, names: Collection[str] = (), *, token: bool = False
) -> Rules:
    """Who may ask, by where a socket listens.

    Parameters
    ----------
    listener, host
        The socket, and the address that was asked for.
    names
        Further names of this machine.
    token
        Whether a token is asked for on this machine too.
    """
    bound = str(listener.getsockname()[0])
    address = ipaddress.ip_address(bound.partition("%")[0])
    own = {_bracketed(host.lower()), _bracketed(bound.lower()), *(name.lower() for name in names), *LOOPBACK}
    if address.is_loopback and not token:
        return Rules(own)
    if address.is_unspecified:
        own |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return Rules(own, any_address=address.is_unspecified, access_token=new_token())


def address_of(listener: socket.socket, host: str, rules: Rules) -> str:
    """Where a browser finds the page, with the token where one is asked for."""
    port = listener.getsockname()[1]
    bound = ipaddress.ip_address(str(listener.getsockname()[0]).partition("%")[0])
    name = socket.gethostname() if bound.is_unspecified else _bracketed(host)
    query = "" if rules.access_token is None else f"?token={rules.access_token}"
    return f"http://{name}:{port}/{query}"


def serve(library: Library, listener: socket.socket, rules: Rules, ready: Callable[[], None]) -> None:
    """Answer until an interrupt or a request to terminate comes.

    Parameters
    ----------
    library
        What may be asked about.
    listener, rules
        Where, and by whom.
    ready
        Called when requests are answered.
    """
    import uvicorn

    # What is outside the calibrated domain is among an answer's own warnings.
    warnings.simplefilter("ignore", OutOfDomainWarning)
    server = Server(library, rules, warm=True)
    config = uvicorn.Config(
        server.app(),
        http="h11",
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=2,
    )

    class Loud(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    # uvicorn stops in order, then hands the signal on to whoever had it before: an end like any other.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        Loud(config).run([listener])
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
        listener.close()
    if server.busy:
        # A thread cannot be stopped, and nobody waits for what this one computes: it ends with the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host

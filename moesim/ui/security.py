"""Who may ask: checks of every request, before anything looks at what it asks.

A page on another site can make a browser send requests here, and a name of its own can be made to point
here. So the Host has to be one of ours, the Origin the page's own, and whatever changes or computes anything
has to carry a token that only our page knows. Beyond this machine, a second token has to be shown first.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_HEADER = "x-moesim"
_SAFE = ("GET", "HEAD")
#: Names of this machine that no other machine can claim.
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def new_token() -> str:
    """A token nobody guesses, safe in a URL."""
    return secrets.token_urlsafe(24)


@dataclass(frozen=True, slots=True)
class Rules:
    """What is asked of requests.

    Parameters
    ----------
    hosts
        Names and addresses that requests may be sent to, without a port; brackets around IPv6.
    any_address
        Whether any IP address will do: no other site has one of ours, but a name can point anywhere.
    access_token
        What has to be shown before anything is; None where everybody who gets here may ask.
    page_token
        What only our page knows.
    """

    hosts: Collection[str] = LOOPBACK
    any_address: bool = False
    access_token: str | None = field(default=None, repr=False)
    page_token: str = field(default_factory=new_token, repr=False)

    @property
    def cookie(self) -> str:
        """Name of the cookie that keeps the token: browsers send cookies to every port of a host."""
        return "moesim-" + hashlib.sha256((self.access_token or "").encode()).hexdigest()[:8]

    def known_host(self, value: str) -> bool:
        """Whether a Host header names this server; the port may be another's that is forwarded.

        >>> rules = Rules()
        >>> rules.known_host("localhost:8765"), rules.known_host("evil.example:8765")
        (True, False)
        """
        name, port = _split(value.lower())
        if port and not (port.isascii() and port.isdecimal() and len(port) <= 5):
            return False
        return name in self.hosts or (self.any_address and _is_address(name))


class Guard:
    """Let through what the rules allow, and put headers on every answer.

    Parameters
    ----------
    app
        What is guarded.
    rules
        What is asked.
    """

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self.app, self.rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope)
        await (self.app if refusal is None else refusal)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers, method = Headers(scope=scope), scope["method"]
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self.rules.known_host(hosts[0]):
            return _no(scope, 421, "this server does not go by that name; see moesim ui --name")
        if method not in (*_SAFE, "POST"):
            return _no(scope, 405, "method not allowed", {"allow": "GET, HEAD, POST"})
        if not _same_site(headers, method, scope["path"]):
            return _no(scope, 403, "requests of other sites are refused")
        token = self.rules.access_token
        if token is not None and not _equal(_cookie(headers, self.rules.cookie), token):
            return _admission(scope, token, self.rules.cookie)
        if method == "POST":
            origins = headers.getlist("origin")
            if origins and origins != [f"{scope.get('scheme', 'http')}://{hosts[0]}"]:
                return _no(scope, 403, "requests of other sites are refused")
            if not _equal(headers.get(TOKEN_HEADER, ""), self.rules.page_token):
                return _no(scope, 403, "the token of the page is missing or old: load the page again")
        return None


def _same_site(headers: Headers, method: str, path: str) -> bool:
    """Whether a browser says that our page sent it, or a person; links elsewhere may lead to the page."""
    site = headers.get("sec-fetch-site", "same-origin")
    if site in ("same-origin", "none"):
        return True
    return method in _SAFE and path == "/" and headers.get("sec-fetch-mode") == "navigate"


def _admission(scope: Scope, token: str, cookie: str) -> Response:
    """Take the token from the address once; keep it in a cookie that neither scripts nor other sites see."""
    given = parse_qs(scope.get("query_string", b"").decode("latin-1"), max_num_fields=8).get("token", [""])
    if scope["method"] not in _SAFE or scope["path"] != "/" or not _equal(given[0], token):
        return _no(scope, 401, "open the address that moesim ui printed, with its token")
    answer = RedirectResponse("/", 303)
    answer.set_cookie(cookie, token, httponly=True, samesite="strict", path="/")
    return answer


def _cookie(headers: Headers, name: str) -> str:
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookies[name].value if name in cookies else ""


def _equal(given: str, token: str) -> bool:
    """Compare in a time that does not tell how much was right."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode())


def _no(scope: Scope, status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    """A refusal: for programs where they ask, for people elsewhere."""
    if scope["path"].startswith("/api/"):
        return JSONResponse({"error": text, "faults": []}, status, headers)
    return PlainTextResponse(text + "\n", status, headers)


def _split(host: str) -> tuple[str, str]:
    """Name and port of a Host header; an IPv6 address keeps its brackets."""
    if host.startswith("["):
        name, bracket, rest = host.partition("]")
        return name + bracket, rest.removeprefix(":")
    name, _, port = host.partition(":")
    return name, port


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True

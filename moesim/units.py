"""Parse and print quantities. Inside moesim everything is SI: seconds, bytes, FLOP, watts.

Decimal prefixes are decimal (``GB`` is 1e9 bytes) and binary prefixes binary (``GiB`` is 2**30).
"""

from __future__ import annotations

import math
import re

_PREFIX = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_SMALL = {"m": 1e-3, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "n": 1e-9, "p": 1e-12}

#: kind -> (base symbols, allowed prefixes, canonical symbol)
_KINDS: dict[str, tuple[dict[str, float], dict[str, float], str]] = {
    "bytes": ({"B": 1.0, "byte": 1.0, "bytes": 1.0}, _PREFIX | _BINARY, "B"),
    "bytes_per_s": ({"B/s": 1.0, "bit/s": 0.125, "bps": 0.125}, _PREFIX | _BINARY, "B/s"),
    "flops": ({"FLOP": 1.0, "OP": 1.0}, _PREFIX, "FLOP"),
    "flops_per_s": ({"FLOP/s": 1.0, "FLOPS": 1.0, "OP/s": 1.0, "OPS": 1.0}, _PREFIX, "FLOP/s"),
    "s": ({"s": 1.0, "min": 60.0, "h": 3600.0}, {"": 1.0} | _SMALL, "s"),
    "hz": ({"Hz": 1.0}, _PREFIX, "Hz"),
    "w": ({"W": 1.0}, _PREFIX | _SMALL, "W"),
    "j_per_byte": ({"J/B": 1.0, "J/bit": 8.0}, {"": 1.0} | _SMALL, "J/B"),
    "j_per_flop": ({"J/FLOP": 1.0, "J/OP": 1.0}, {"": 1.0} | _SMALL, "J/FLOP"),
    "usd_per_h": ({"USD/h": 1.0}, {"": 1.0}, "USD/h"),
}
_QUANTITY = re.compile(r"^\s*([-+]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\s\d].*?)?\s*$")


def parse(value: str | float | int, kind: str) -> float:
    """Read a quantity into SI.

    Parameters
    ----------
    value
        ``"4.8 TB/s"``, ``"80 GiB"``, ``"1.2 us"``; a bare number is taken to be SI already.
    kind
        One of ``bytes, bytes_per_s, flops, flops_per_s, s, hz, w, j_per_byte, j_per_flop, usd_per_h``.

    Returns
    -------
    float
        The quantity in SI.

    Raises
    ------
    ValueError
        If the text is no quantity of that kind; the message shows an accepted form.

    Examples
    --------
    >>> parse("4.8 TB/s", "bytes_per_s")
    4800000000000.0
    >>> parse("80 GiB", "bytes") == 80 * 2**30
    True
    >>> parse("400 Gbit/s", "bytes_per_s")
    50000000000.0
    """
    symbols, prefixes, canonical = _KINDS[kind]
    example = (
        f"a number with a unit such as '1.5 G{canonical}'"
        if "G" in prefixes
        else f"such as '1.5 {canonical}'"
    )
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is no quantity; allowed: {example}")
    if not isinstance(value, str):
        number, unit = (float(value), "") if abs(value) < 1e300 else (math.inf, "")
    else:
        match = _QUANTITY.match(value)
        if not match:
            raise ValueError(f"{value!r} is no quantity; allowed: {example}")
        number, unit = float(match[1].replace("_", "").replace(",", "")), match[2] or ""
    if not math.isfinite(number):
        raise ValueError(f"{str(value)[:40]!r} is not finite; allowed: {example}")
    if not unit:
        return number
    for symbol, factor in sorted(symbols.items(), key=lambda item: -len(item[0])):
        if unit.endswith(symbol) and unit[: -len(symbol)] in prefixes:
            return number * prefixes[unit[: -len(symbol)]] * factor
    raise ValueError(f"{value!r} has an unknown unit {unit!r}; allowed: {example}")


def show(value: float | None, kind: str, digits: int = 4) -> str:
    """Print an SI quantity for people.

    >>> show(4.8e12, "bytes_per_s"), show(1.2e-6, "s"), show(None, "bytes")
    ('4.8 TB/s', '1.2 us', '-')
    """
    if value is None:
        return "-"
    canonical = _KINDS[kind][2]
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {canonical}"
    if kind == "s":
        scale = next(
            ((f, p) for f, p in ((1.0, ""), (1e-3, "m"), (1e-6, "u")) if abs(value) >= f), (1e-9, "n")
        )
    elif kind == "usd_per_h":
        scale = (1.0, "")
    else:
        steps = [(1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")]
        small = (
            [(1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p")]
            if kind in ("w", "j_per_byte", "j_per_flop")
            else []
        )
        scale = next(((f, p) for f, p in steps + small if abs(value) >= f), (1.0, ""))
    return f"{value / scale[0]:.{digits}g} {scale[1]}{canonical}"

"""Slots that a user chooses by name, plug-ins among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moesim.errors import ConfigError, Fault, UnknownNameError
from moesim.policy import Transfer
from moesim.policy.registry import GROUPS, build

#: How weights move has no rules of its own to name, only values.
_FETCH = "fetch"


def chosen(texts: Sequence[str]) -> dict[str, object]:
    """Slots of a composition from texts.

    Parameters
    ----------
    texts
        ``SLOT=NAME`` or ``SLOT=NAME:value=1,other=2`` each; the transfer is ``transfer=fetch:width=4``.

    Returns
    -------
    dict
        Objects by the slot's name in `moesim.policy.Composition`.

    Raises
    ------
    ConfigError
        With everything that is wrong with any of them.

    Examples
    --------
    >>> found = chosen(["predictor=markov:width=4", "transfer=fetch:width=4,order=near"])
    >>> found["predictor"].width, found["transfer"].order
    (4, 'near')
    """
    found: dict[str, object] = {}
    faults: list[Fault] = []
    for text in texts:
        slot, sign, what = text.partition("=")
        try:
            if not sign or not what:
                raise ConfigError(Fault("is no SLOT=NAME", "--slot", text, "as in predictor=markov:width=4"))
            if slot in found:
                raise ConfigError(Fault("is given twice", "--slot", slot))
            if slot == "transfer":
                found[slot] = _transfer(what)
            elif slot in GROUPS:
                found[slot] = build(slot, what)
            else:
                raise UnknownNameError("slot", slot, [*GROUPS, "transfer"])
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return found


def _transfer(text: str) -> Transfer:
    from moesim.policy.registry import called, values_of

    name, _, rest = text.partition(":")
    if name != _FETCH:
        raise UnknownNameError("transfer", name, [_FETCH], f"it is {_FETCH}")
    values: dict[str, Any] = values_of("transfer", name, rest)
    made = called("transfer", name, Transfer, values)
    assert isinstance(made, Transfer)
    return made

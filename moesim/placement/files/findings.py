"""Collect everything that is wrong with a file: the first few of each kind, and how many there are."""

from __future__ import annotations

from moesim.errors import Fault

#: Faults of one kind that are told one by one: a foreign file has as many as it has entries.
SHOWN = 4
_VALUE_CHARACTERS = 40


class Findings:
    """Faults by kind.

    Examples
    --------
    >>> found = Findings()
    >>> for i in range(9):
    ...     found.add("is no expert", f"row[{i}]", -1, "0 to 7")
    >>> [str(fault) for fault in found.faults][-1]
    '5 more: is no expert; allowed: 0 to 7'
    """

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], list[Fault]] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def add(
        self, message: str, where: str = "", value: object = None, allowed: str = "", kind: str = ""
    ) -> None:
        """Note a fault; those of one `kind`, or of one message, are told together."""
        key = (kind or message, allowed)
        few = self._kinds.setdefault(key, [])
        self._counts[key] = self._counts.get(key, 0) + 1
        if len(few) < SHOWN:
            few.append(Fault(message, where, short(value), allowed))

    def extend(self, faults: list[Fault]) -> None:
        """Note faults found elsewhere."""
        for fault in faults:
            self.add(fault.message, fault.where, fault.value, fault.allowed)

    def __bool__(self) -> bool:
        return bool(self._kinds)

    @property
    def faults(self) -> list[Fault]:
        """The first of each kind, and how many more."""
        every = []
        for key, few in self._kinds.items():
            more = self._counts[key] - len(few)
            every += few
            if more:
                every.append(Fault(f"{more} more: {key[0]}", allowed=key[1]))
        return every


def short(value: object) -> object:
    """A value for a message, or the beginning of its text: a hostile one may be long or deep.

    >>> short(3), short([0] * 99)
    (3, 'list of 99')
    """
    if isinstance(value, list | dict):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    text = str(value)
    return value if len(text) <= _VALUE_CHARACTERS else text[:_VALUE_CHARACTERS] + "..."

"""Look up a config's fields by concept, and gather everything that is wrong with them.

A wrong config is answered once, with all its faults: wrong values where they stand, and every missing concept
with the names it is accepted under.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moesim.errors import ConfigError, Fault
from moesim.model.aliases import ALIASES, NESTED

#: No real model comes near these; they keep a hostile file from asking for unbounded memory.
MAX_LAYERS = 4096
MAX_VALUE = 2**31
MAX_NESTING = 3


class Fields:
    """The fields of a config, looked up by concept.

    Parameters
    ----------
    config
        A parsed ``config.json``. Fields of nested language-model sections come first.
    source
        File or name that faults are reported for.
    """

    def __init__(self, config: Mapping[str, Any], source: str = "") -> None:
        self.source = source
        self.top = config
        self.faults: list[Fault] = []
        self.warnings: list[str] = []
        self._missing: list[str] = []
        self.values: dict[str, Any] = {}
        self._where: dict[str, str] = {}
        self._merge(config, "")

    def _merge(self, section: Mapping[str, Any], prefix: str) -> None:
        for name in NESTED:
            inner = section.get(name)
            if isinstance(inner, Mapping) and prefix.count(".") < MAX_NESTING:
                self._merge(inner, f"{prefix}{name}.")
            elif inner is not None:
                self.faults.append(
                    Fault("is no section of a config", prefix + name, _short(inner), "an object")
                )
        for key, value in section.items():
            if key not in self.values or self.values[key] is None:
                self.values[key] = value
                self._where[key] = prefix + key

    def find(self, concept: str) -> tuple[str, Any] | None:
        """Name and value of a concept that is present and not null; a warning if its names disagree."""
        hits = [(n, self.values[n]) for n in ALIASES[concept][1] if self.values.get(n) is not None]
        if not hits:
            return None
        for name, value in hits[1:]:
            text = f"{self._where[hits[0][0]]} and {self._where[name]} disagree; the first is used"
            if value != hits[0][1] and text not in self.warnings:
                self.warnings.append(text)
        return self._where[hits[0][0]], hits[0][1]

    def has(self, *concepts: str) -> bool:
        """Whether any of the concepts is present and not null, zero, false or an empty list."""
        return any((hit := self.find(c)) is not None and bool(hit[1]) for c in concepts)

    def number(self, concept: str, default: int = 0, *, least: int = 0) -> int:
        """Return a whole number of at least `least`, or `default` where the concept is absent."""
        hit = self.find(concept)
        if hit is None:
            return default
        return self._whole(hit[0], hit[1], least)

    def need(self, concept: str) -> int:
        """Return a positive whole number; where it is absent the concept is noted as missing."""
        hit = self.find(concept)
        if hit is None:
            self.missing(concept)
            return 1
        return self._whole(hit[0], hit[1], 1)

    def per_layer(
        self, concept: str, layers: int, *, least: int = 0, default: int | None = None
    ) -> list[int]:
        """Return one number per layer, from a number or a list.

        Without a `default` the concept is needed, and positive.
        """
        hit = self.find(concept)
        if hit is None or not isinstance(hit[1], list):
            least = max(least, 1) if default is None else least
            value = self.need(concept) if default is None else self.number(concept, default, least=least)
            return [value] * layers
        return self.numbers(concept, layers, least=least)

    def numbers(self, concept: str, layers: int, *, least: int = 0) -> list[int]:
        """Return a list of at least `layers` whole numbers."""
        where, values = self.find(concept) or (concept, [])
        found = self._list(where, values, layers, "numbers")
        return [self._whole(f"{where}[{i}]", v, least) for i, v in enumerate(found)]

    def words(self, concept: str, layers: int, allowed: Sequence[str]) -> list[str]:
        """Return a list of at least `layers` words, each one of `allowed`."""
        where, values = self.find(concept) or (concept, [])
        found = self._list(where, values, layers, "words")
        wrong = {repr(v)[:80]: v for v in found if v not in allowed}
        for word in wrong.values():
            self.faults.append(Fault("has an unknown entry", where, _short(word), ", ".join(allowed)))
        return [v if v in allowed else allowed[0] for v in found]

    def flag(self, name: str, default: bool) -> bool:
        """Return a true or false field by its own name."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.faults.append(Fault("is neither true nor false", self._where[name], _short(value)))
            return default
        return value

    def text(self, *names: str) -> str:
        """Return the first of these fields that is present, as text."""
        for name in names:
            value = self.values.get(name)
            if isinstance(value, str):
                return value
            if value is not None:
                self.faults.append(Fault("is no text", self._where[name], _short(value)))
        return ""

    def missing(self, concept: str) -> None:
        """Note that a needed concept is absent."""
        if concept not in self._missing:
            self._missing.append(concept)

    def fault(self, message: str, concept: str, value: object = None, allowed: str = "") -> None:
        """Note that a concept's value does not go with the others."""
        hit = self.find(concept)
        self.faults.append(Fault(message, hit[0] if hit else concept, _short(value), allowed))

    def check(self) -> None:
        """Raise everything noted so far.

        Raises
        ------
        ConfigError
            With one fault per wrong value and per missing concept.
        """
        faults = list(self.faults)
        for concept in self._missing:
            what, names = ALIASES[concept]
            faults.append(Fault(f"missing {what}", allowed="one of " + ", ".join(names)))
        if self._missing:
            faults.append(Fault("fields seen: " + _keys(self.values)))
        if faults:
            raise ConfigError(faults, self.source)

    def _whole(self, where: str, value: object, least: int) -> int:
        allowed = f"a whole number from {least} to {MAX_VALUE}"
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.faults.append(Fault("is no whole number", where, _short(value), allowed))
            return max(least, 1)
        if not least <= value <= MAX_VALUE:
            self.faults.append(Fault("is out of range", where, _short(value), allowed))
            return max(least, 1)
        return value

    def _list(self, where: str, values: object, layers: int, kind: str) -> list[Any]:
        if not isinstance(values, list):
            self.faults.append(Fault("is no list", where, _short(values), f"a list of {layers} {kind}"))
            return []
        if len(values) < layers:
            found = f"{len(values)} entries"
            self.faults.append(Fault("is shorter than the layers", where, found, f"{layers} {kind}"))
        return values[: MAX_LAYERS * 2]


def _short(value: object) -> object:
    """A value as it is shown in an error: long ones are cut."""
    text = repr(value)
    return value if len(text) <= 80 else text[:77] + "..."


def _keys(values: Mapping[str, Any]) -> str:
    names = sorted(str(k) for k in values)
    shown = ", ".join(n[:60] for n in names[:40])
    return (shown or "none") + (f" and {len(names) - 40} more" if len(names) > 40 else "")

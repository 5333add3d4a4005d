"""What may be chosen: models, machines and traces, each by a name that is never used as a path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moesim.errors import ConfigError, Fault, UnknownNameError
from moesim.files import data_dir
from moesim.hardware import Hardware, aliases, load_hardware
from moesim.hardware import names as hardware_names
from moesim.model import Model, load_model
from moesim.model import names as model_names
from moesim.model.load import catalogue_name
from moesim.ui.traces import Shelf

#: Names longer than this are cut before they are compared with others.
_MOST_NAME = 100


class Library:
    """What a page may ask about.

    Parameters
    ----------
    models, hardware, traces
        Files beside those that moesim ships; one of the name of a shipped one takes its place.

    Attributes
    ----------
    models, machines
        How ``--model`` and ``--hardware`` are told of each, by name.
    traces
        A `moesim.ui.traces.Shelf`.

    Raises
    ------
    ConfigError
        With every fault of every file.

    Examples
    --------
    >>> library = Library()
    >>> library.model("deepseek-ai/DeepSeek-V3").name, library.machine("H200_SXM", 2).num_devices
    ('deepseek-v3', 16)
    """

    def __init__(
        self, models: Sequence[str] = (), hardware: Sequence[str] = (), traces: Sequence[str] = ()
    ) -> None:
        faults: list[Fault] = []
        self.models = {name: name for name in model_names()}
        self.models["tiny-moe"] = str(data_dir("traces") / "tiny-moe" / "config.json")
        self.machines = {name: name for name in hardware_names()}
        self.given: set[str] = set()
        for text in models:
            try:
                self._give(self.models, load_model(text).name, text)
            except ConfigError as error:
                faults += _named(error, "--model")
        for text in hardware:
            try:
                self._give(self.machines, load_hardware(text).name, text)
            except ConfigError as error:
                faults += _named(error, "--hardware")
        try:
            self.traces = Shelf(traces)
        except ConfigError as error:
            faults += error.faults
        if faults:
            raise ConfigError(faults)

    def _give(self, table: dict[str, str], name: str, spelling: str) -> None:
        # Commands are run elsewhere: a path is told in full.
        path = Path(spelling).expanduser()
        table[name] = str(path.resolve()) if path.exists() else spelling
        self.given.add(name)

    def model(self, name: str) -> Model:
        """A model by name, or by another spelling of a catalogue's.

        Raises
        ------
        UnknownNameError
            With the nearest names.
        """
        known = name if name in self.models else catalogue_name(name)
        if known is None or known not in self.models:
            raise UnknownNameError("model", name[:_MOST_NAME], list(self.models))
        return load_model(self.models[known])

    def machine(self, name: str, nodes: int | None = None) -> Hardware:
        """A machine by name or alias.

        Raises
        ------
        UnknownNameError
            With the nearest names.
        ConfigError
            If it cannot have so many nodes.
        """
        known = name if name in self.machines else _canonical(name)
        if known not in self.machines:
            raise UnknownNameError("hardware", name[:_MOST_NAME], [*self.machines, *aliases()])
        return load_hardware(self.machines[known], nodes)


def _canonical(name: str) -> str:
    """The catalogue's name of an alias; what is none stays as it is."""
    folded = name.strip().lower().replace("_", "-").replace(" ", "-")
    return aliases().get(folded, folded)


def _named(error: ConfigError, option: str) -> list[Fault]:
    return [
        Fault(f"{error.source}: {fault}" if error.source else str(fault), option) for fault in error.faults
    ]

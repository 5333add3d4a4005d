"""Launch commands of serving engines, from a candidate; one module per engine."""

from moesim.planning.launch.emit import folder_faults, launch, script, unsupported, write_launch
from moesim.planning.launch.fleet import Place, places
from moesim.planning.launch.words import Command, Launch

__all__ = [
    "Command",
    "Launch",
    "Place",
    "folder_faults",
    "launch",
    "places",
    "script",
    "unsupported",
    "write_launch",
]

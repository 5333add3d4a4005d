"""What the machines are."""

from moesim.hardware.catalogue import aliases, load_hardware, names
from moesim.hardware.curves import Curve, Efficiency
from moesim.hardware.types import CollectiveFit, Device, Hardware, Host, Link, Memory, Price, Processor

__all__ = [
    "CollectiveFit",
    "Curve",
    "Device",
    "Efficiency",
    "Hardware",
    "Host",
    "Link",
    "Memory",
    "Price",
    "Processor",
    "aliases",
    "load_hardware",
    "names",
]

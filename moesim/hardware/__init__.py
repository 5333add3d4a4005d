"""What the machines are."""

from moesim.hardware.catalogue import aliases, load_hardware, names
from moesim.hardware.curves import Curve, Efficiency
from moesim.hardware.types import (
    KINDS,
    Cache,
    CollectiveFit,
    Device,
    Energy,
    Fabric,
    Hardware,
    Host,
    Link,
    Memory,
    Price,
    Processor,
    Wire,
)

__all__ = [
    "KINDS",
    "Cache",
    "CollectiveFit",
    "Curve",
    "Device",
    "Efficiency",
    "Energy",
    "Fabric",
    "Hardware",
    "Host",
    "Link",
    "Memory",
    "Price",
    "Processor",
    "Wire",
    "aliases",
    "load_hardware",
    "names",
]

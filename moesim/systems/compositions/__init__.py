"""Named systems as compositions of slots, for ``moesim replay --system NAME``."""

from moesim.systems.compositions.table import compositions, named
from moesim.systems.compositions.types import Named, Shape

__all__ = ["Named", "Shape", "compositions", "named"]

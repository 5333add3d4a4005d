"""The operations of one MoE layer and their seconds, for any number of layers at once.

A chunk of ``1/r`` of an operation takes ``startup + (seconds - startup) / r``: cutting an operation does not
cut what it costs to start it. This is the ``t = alpha + n beta / r`` of FSMoE (arXiv:2501.10714, Eq. 1).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from moesim.engine.routing import Array

#: Operations that a schedule may cut into chunks, in the order in which a chunk does them.
CHUNKED = ("dispatch", "gather", "experts", "scatter", "combine")
#: What each operation occupies where inter-node and intra-node links and the cores work side by side.
STREAMS = {
    "dispatch": "inter",
    "gather": "intra",
    "experts": "compute",
    "scatter": "intra",
    "combine": "inter",
    "gradients": "inter",
}


@dataclass(frozen=True, slots=True, eq=False)
class LayerSeconds:
    """Seconds of each operation done in one piece, every field ``[layers]`` or a number.

    Parameters
    ----------
    dispatch, combine
        All-to-all to the experts and back.
    experts
        Routed experts.
    gather, scatter
        All-gather before and reduce-scatter after experts that are cut over the devices of a node.
    before, after
        Computation that the layer's MoE part waits for (attention, gate, order) and that waits for it.
    gradients
        Reduction of gradients that may go on beside the layer.
    shared
        Computation that depends on neither (shared experts; the dense block that a shortcut spans).
    dispatch_startup, gather_startup, experts_startup, scatter_startup, combine_startup
        The part of each that every chunk pays anew.
    """

    dispatch: Array | float
    experts: Array | float
    combine: Array | float
    gather: Array | float = 0.0
    scatter: Array | float = 0.0
    before: Array | float = 0.0
    after: Array | float = 0.0
    gradients: Array | float = 0.0
    shared: Array | float = 0.0
    dispatch_startup: Array | float = 0.0
    gather_startup: Array | float = 0.0
    experts_startup: Array | float = 0.0
    scatter_startup: Array | float = 0.0
    combine_startup: Array | float = 0.0

    def __post_init__(self) -> None:
        shape = np.broadcast_shapes(*(np.shape(getattr(self, f.name)) for f in fields(self)))
        for f in fields(self):
            value = np.broadcast_to(np.asarray(getattr(self, f.name), dtype=np.float64), shape)
            if not (value >= 0).all():
                raise ValueError(f"{f.name} has negative seconds")
            object.__setattr__(self, f.name, value)
        for name in CHUNKED:
            if (self.startup(name) > self.whole(name)).any():
                raise ValueError(f"{name}_startup is more than all of {name}")

    def whole(self, name: str) -> Array:
        """Seconds of an operation in one piece, ``[layers]``."""
        return np.asarray(getattr(self, name))

    def startup(self, name: str) -> Array:
        """The part of it that does not shrink with the chunk, ``[layers]``."""
        return np.asarray(getattr(self, f"{name}_startup"))

    def chunk(self, name: str, degree: int) -> Array:
        """Seconds of one of `degree` chunks, ``[layers]``.

        >>> layer = LayerSeconds(dispatch=3.0, experts=4.0, combine=3.0, dispatch_startup=1.0)
        >>> float(layer.chunk("dispatch", 2)), float(layer.chunk("experts", 2))
        (2.0, 2.0)
        """
        start = self.startup(name)
        return np.asarray(start + (self.whole(name) - start) / degree)

    def compute(self) -> Array:
        """Computation of the layer in one piece, ``[layers]``."""
        return np.asarray(
            self.whole("before") + self.whole("experts") + self.whole("shared") + self.whole("after")
        )

    def communication(self) -> Array:
        """Communication of the layer in one piece, gradients included, ``[layers]``."""
        return np.asarray(
            sum(self.whole(name) for name in ("dispatch", "gather", "scatter", "combine", "gradients"))
        )


def backward(layer: LayerSeconds, gradients: Array | float = 0.0, compute: float = 2.0) -> LayerSeconds:
    """The same layer in the backward pass: computation twice, the same messages, and the gradients.

    Parameters
    ----------
    layer
        Forward.
    gradients
        Seconds of the reduction of gradients that belongs to the layer.
    compute
        How often the forward computation: two GEMMs for one, as in FSMoE Sec. 4.
    """
    return replace(
        layer,
        experts=compute * layer.whole("experts"),
        experts_startup=compute * layer.startup("experts"),
        before=compute * layer.whole("after"),
        after=compute * layer.whole("before"),
        shared=compute * layer.whole("shared"),
        gradients=gradients,
    )

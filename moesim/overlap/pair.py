"""A pair of transformer blocks, the second with experts, under ScMoE's variants (arXiv:2404.05019, Sec. 3).

``attention MLP attention MoE`` is what a standard model does. The shared-expert and ScMoE variants replace
one of two routed experts by one that every token uses: as much computation, half the communication. ScMoE
also feeds the routed expert from an earlier place, so that what lies in between hides the exchange.
"""

from __future__ import annotations

from dataclasses import dataclass

from moesim.overlap.layer import LayerSeconds
from moesim.overlap.schedules import layer_seconds
from moesim.overlap.shortcut import exposed_seconds

#: What the shortcut of each position spans.
WINDOWS = {
    "pos-1": ("attention", "shared"),
    "pos-2": ("attention", "shared", "mlp"),
    "pos-3": ("attention", "shared", "mlp", "attention"),
}


@dataclass(frozen=True, slots=True)
class PairSeconds:
    """Seconds of the parts of a pair of blocks in one direction.

    Parameters
    ----------
    attention, mlp
        Of one block, norms and residuals included.
    expert
        One routed expert per token, with its spare rows.
    around
        Gate, and the ordering of tokens for one routed expert per token.
    exchange
        One all-to-all of one routed expert per token.
    dense
        Whether the first block has an MLP; else every block has experts.
    """

    attention: float
    mlp: float
    expert: float
    around: float
    exchange: float
    dense: bool = True

    def share(self, routed: int = 2) -> float:
        """Part of the MoE's seconds that is communication."""
        sent = 2.0 * routed * self.exchange
        return sent / (sent + routed * (self.expert + self.around))

    def scaled(self, compute: float) -> PairSeconds:
        """The same with so many times the computation and the same exchanges."""
        return PairSeconds(
            compute * self.attention,
            compute * self.mlp,
            compute * self.expert,
            compute * self.around,
            self.exchange,
            self.dense,
        )

    def seconds(self, variant: str) -> float:
        """Seconds of the pair.

        Parameters
        ----------
        variant
            ``top-K``; ``shared`` (a shared expert and one routed, in a row); ``pos-1`` to ``pos-3``;
            ``pos-2+2`` has two routed experts beside the shared one.

        Examples
        --------
        >>> pair = PairSeconds(attention=2.0, mlp=2.0, expert=2.5, around=0.5, exchange=4.5)
        >>> pair.share()
        0.75
        >>> [pair.seconds(v) for v in ("top-2", "top-1", "shared", "pos-1", "pos-2", "pos-3")]
        [30.0, 18.0, 20.0, 16.0, 14.0, 12.0]
        """
        base = 2.0 * self.attention + (self.mlp if self.dense else 0.0)
        if variant.startswith("top-"):
            return base + int(variant[4:]) * (self.expert + self.around + 2.0 * self.exchange)
        place, _, extra = variant.partition("+")
        routed = int(extra or 1)
        work = base + self.mlp + routed * (self.expert + self.around)
        if place == "shared":
            return work + 2.0 * routed * self.exchange
        return work + self.exposed(place, routed)

    def pipelined(self, routed: int, startup_s: float = 0.0) -> float:
        """Seconds of the pair with `routed` experts and Tutel's chunks, each exchange of which starts anew.

        >>> PairSeconds(attention=2.0, mlp=2.0, expert=2.5, around=0.5, exchange=2.0).pipelined(1)
        10.5
        """
        moe = LayerSeconds(
            dispatch=routed * self.exchange,
            combine=routed * self.exchange,
            experts=routed * self.expert,
            before=2.0 * self.attention + (self.mlp if self.dense else 0.0) + routed * self.around,
            dispatch_startup=min(startup_s, routed * self.exchange),
            combine_startup=min(startup_s, routed * self.exchange),
        )
        return float(layer_seconds(moe, "tutel").seconds)

    def exposed(self, place: str, routed: int = 1) -> float:
        """Seconds of communication that a shortcut from `place` leaves in sight."""
        parts = {"attention": self.attention, "shared": self.mlp, "mlp": self.mlp if self.dense else 0.0}
        window = [parts[name] for name in WINDOWS[place]]
        return float(exposed_seconds(window, routed * self.exchange, routed * self.exchange))

    def overlapped(self, place: str, routed: int = 1) -> float:
        """Part of the communication that is hidden."""
        return 1.0 - self.exposed(place, routed) / (2.0 * routed * self.exchange)


def exchange_of_share(share: float, expert: float, around: float) -> float:
    """Seconds of one all-to-all that make communication this part of a top-2 MoE.

    >>> exchange_of_share(0.75, 2.5, 0.5)
    4.5
    """
    return share / (1.0 - share) * (expert + around) / 2.0

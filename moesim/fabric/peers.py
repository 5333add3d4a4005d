"""What each peer of an all-to-all over the network costs beside its bytes at the link's rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.hardware.wiring import Array


@dataclass(frozen=True, slots=True)
class PeerCost:
    """Seconds of a peer, growing with a power of its message.

    Below some megabytes, a connection does not reach the link's rate before its message ends.

    Parameters
    ----------
    seconds_at_mb
        For a message of 1 MB.
    power
        Of the message's bytes.
    """

    seconds_at_mb: float
    power: float

    def __call__(self, message_bytes: Array | float) -> Array:
        """Seconds of a peer for messages of so many bytes.

        >>> PeerCost(10e-6, 0.5)(np.array([1e6, 4e6])).tolist()
        [1e-05, 2e-05]
        """
        return np.asarray(self.seconds_at_mb * (np.asarray(message_bytes) / 1e6) ** self.power)


#: NCCL over AWS's EFA: `benchmarks/fabric/peer_cost.py`, fitted on 16 to 128 H100. On 256, which it is not
#: fitted to, it is 4 % off in the median and at most 8 %; InfiniBand costs less (NVIDIA/nccl#1531).
EFA = PeerCost(11.4e-6, 0.48)

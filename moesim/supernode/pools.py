"""How many instances prefill and how many decode, on a machine of so many devices.

Requests per second of ``p`` prefill and ``d`` decode instances are ``min(p a, d b)``, with a and b those of
one of each. Among the few pairs that fit, the one with most requests wins; of equals, the one
with fewest devices.
"""

from __future__ import annotations

from dataclasses import dataclass

from moesim.errors import InfeasibleError


@dataclass(frozen=True, slots=True)
class Pool:
    """Equal instances of one kind.

    Parameters
    ----------
    devices
        Of one instance.
    requests_per_s
        Of one instance.
    """

    devices: int
    requests_per_s: float


@dataclass(frozen=True, slots=True)
class Split:
    """Instances of either kind.

    Parameters
    ----------
    prefill, decode
        How many.
    devices
        Of all.
    requests_per_s
        Of the whole.
    """

    prefill: int
    decode: int
    devices: int
    requests_per_s: float


def best_split(devices: int, prefill: Pool, decode: Pool) -> Split:
    """The split of a machine with most requests per second.

    Parameters
    ----------
    devices
        Of the machine.
    prefill, decode
        One instance of each kind.

    Raises
    ------
    InfeasibleError
        If not even one of each fits.

    Examples
    --------
    >>> best_split(384, Pool(16, 26.0), Pool(160, 120.0))
    Split(prefill=5, decode=1, devices=240, requests_per_s=120.0)
    """
    found = []
    for decoders in range(1, (devices - prefill.devices) // decode.devices + 1):
        room = (devices - decoders * decode.devices) // prefill.devices
        # More prefill instances than the decoders can follow only cost devices.
        wanted = -int(-decoders * decode.requests_per_s // prefill.requests_per_s)
        count = min(room, max(wanted, 1))
        rate = min(count * prefill.requests_per_s, decoders * decode.requests_per_s)
        used = count * prefill.devices + decoders * decode.devices
        found.append(Split(count, decoders, used, rate))
    if not found:
        missing = prefill.devices + decode.devices
        raise InfeasibleError(
            f"an instance of each kind takes {missing} devices, and there are {devices}",
            resource="devices",
            needed=missing,
            available=devices,
        )
    return max(found, key=lambda split: (split.requests_per_s, -split.devices))

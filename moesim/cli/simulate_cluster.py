"""Pools that hand caches over, and nodes that fail: options of `moesim simulate`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from moesim.errors import Fault

if TYPE_CHECKING:
    from moesim.serving.failures import Failures
    from moesim.serving.handover import HandOver


@dataclass(frozen=True, slots=True)
class Mishaps:
    """Options about failures; None where nothing is said."""

    mtbf: float | None
    repair: float | None
    fail: tuple[str, ...]
    crews: int | None
    reload: str | None
    retries: int | None

    def read(self, faults: list[Fault], replicas: int, seed: int) -> Failures | None:
        """What fails when; None where nothing does."""
        from moesim.serving.failures import Failures

        if self.mtbf is None and not self.fail:
            for name, value in (
                ("repair", self.repair),
                ("crews", self.crews),
                ("reload", self.reload),
                ("retries", self.retries),
            ):
                if value is not None:
                    faults.append(Fault("is of failures", f"--{name}", value, "with --mtbf or --fail"))
            return None
        listed = [_listed(text, faults) for text in self.fail]
        given: dict[str, Any] = {"reload": self.reload, "retries": self.retries}
        found = Failures(
            mtbf_s=self.mtbf,
            repair_s=self.repair,
            listed=tuple(one for one in listed if one is not None),
            crews=self.crews,
            seed=seed,
            **{name: value for name, value in given.items() if value is not None},
        )
        faults += found.faults(replicas)
        return found


def _listed(text: str, faults: list[Fault]) -> tuple[float, int, float] | None:
    parts = text.split(":")
    try:
        at, replica = float(parts[0]), int(parts[1])
        seconds = float(parts[2]) if len(parts) > 2 else math.inf
    except (ValueError, IndexError):
        at, replica, seconds = math.nan, 0, 0.0
    if math.isnan(at) or len(parts) > 3:
        faults.append(
            Fault("is no failure", "--fail", text, "SECOND:REPLICA:SECONDS, or SECOND:REPLICA for ever")
        )
        return None
    return at, replica, seconds


def hand_over_of(
    faults: list[Fault],
    apart: bool,
    **given: Any,  # noqa: ANN401 - fields of HandOver, None where nothing is said
) -> HandOver | None:
    """How caches cross; None for one pool."""
    options = {
        "over": "--kv-link",
        "oversubscription": "--kv-oversubscription",
        "overlap": "--kv-overlap",
        "first_token": "--first-token-from",
    }
    said = {name: value for name, value in given.items() if value is not None}
    if not apart:
        faults += [
            Fault("is of disaggregated serving, which --prefill-workers asks for", options[name], value)
            for name, value in said.items()
        ]
        return None
    from moesim.serving.handover import HandOver

    assert set(said) <= {f.name for f in fields(HandOver)}
    found = HandOver(**said)
    faults += found.faults()
    return found

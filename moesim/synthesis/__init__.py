"""Routing that no model was run for: fit the statistics of a trace, or design them, and draw more of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moesim.synthesis.fitting import fit
    from moesim.synthesis.profile import Profile, load_profile, profile_names, read_profile
    from moesim.synthesis.sampling import generate, generate_to

__all__ = ["Profile", "fit", "generate", "generate_to", "load_profile", "profile_names", "read_profile"]
# numba takes longer to import than most commands take to run.
_LAZY = {
    "Profile": "profile",
    "fit": "fitting",
    "generate": "sampling",
    "generate_to": "sampling",
    "load_profile": "profile",
    "profile_names": "profile",
    "read_profile": "profile",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)

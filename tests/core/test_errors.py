"""Faults are reported together, and the tree drawn in the docstring is the tree."""

from __future__ import annotations

from moesim import errors
from moesim.errors import (
    ConfigError,
    Fault,
    InfeasibleError,
    MoesimError,
    TraceError,
    UnknownNameError,
    nearest,
)


def test_all_faults_in_one_message():
    error = ConfigError([Fault("too big", "--ep", 7, "1, 2, 4"), Fault("missing", "--model")], "command line")
    assert str(error).splitlines() == [
        "command line: 2 faults",
        "  --ep: too big (got 7); allowed: 1, 2, 4",
        "  --model: missing",
    ]


def test_tree():
    assert issubclass(ConfigError, MoesimError)
    assert issubclass(UnknownNameError, ConfigError)
    assert issubclass(TraceError, MoesimError)
    assert issubclass(InfeasibleError, MoesimError)
    drawn = [word for word in (errors.__doc__ or "").split() if word.endswith(("Error", "Warning"))]
    assert all(hasattr(errors, name) for name in drawn)


def test_nearest_names():
    assert nearest("h200_sxm", ["h200-sxm-8", "l40s-8"]) == ["h200-sxm-8"]
    assert nearest("zzz", ["a", "b"]) == []
    assert "nearest: mixtral-8x7b" in str(UnknownNameError("model", "mixtral-8x7", ["mixtral-8x7b", "dbrx"]))

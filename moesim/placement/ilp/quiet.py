"""HiGHS without its banner."""

from __future__ import annotations

import os
from functools import cache
from typing import Any


@cache
def highs() -> Any:
    """Load the module `highspy`.

    The first solver made in a process prints a banner, whatever its options, past Python's ``sys.stdout``. A
    program whose output is read by another cannot have that, so one is made here with nowhere to print to.
    """
    import highspy

    try:
        kept = os.dup(1)
    except OSError:  # no standard output to keep clean
        return highspy
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        highspy.Highs()  # type: ignore[no-untyped-call]
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
    return highspy

"""The program in this process, for tests that are about what it says, not about being a process."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import warnings
from unittest import mock


def run_here(*words, cwd=None) -> subprocess.CompletedProcess[str]:
    """Run a command as a shell would, without starting Python anew: what it prints, and its exit code.

    Compiled code is used again, and nothing is imported twice. Warnings are shown as a process shows them.
    """
    from moesim.cli import main

    out, err = io.StringIO(), io.StringIO()
    words = list(map(str, words))
    with (
        contextlib.chdir(cwd or "."),
        mock.patch.object(sys, "argv", ["moesim", *words]),
        mock.patch.dict(os.environ, {"NO_COLOR": "1"}),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        warnings.resetwarnings()
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

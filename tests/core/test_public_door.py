"""The public door: what it names exists, and opening it is light."""

from __future__ import annotations

import subprocess
import sys

import moesim


def test_everything_named_exists():
    for name in moesim.__all__:
        assert getattr(moesim, name) is not None
    assert set(moesim.__all__) <= set(dir(moesim))


def test_functions_are_not_shadowed_by_modules():
    import moesim.placement
    import moesim.prediction
    import moesim.reporting

    assert callable(moesim.predict)
    assert callable(moesim.place)
    assert callable(moesim.report)


def test_importing_is_light():
    code = "import sys, moesim, moesim.cli; print(sorted(m for m in HEAVY if m in sys.modules))"
    heavy = [
        "numba",
        "pandas",
        "pyarrow",
        "matplotlib",
        "networkx",
        "scipy",
        "duckdb",
        "pydantic",
        "numpy",
        "pulp",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code.replace("HEAVY", repr(heavy))], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_layers():
    """The floor plan holds."""
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

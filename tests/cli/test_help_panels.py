"""The help of commands with many options shows them in groups."""

from __future__ import annotations

import pytest

from docs.reference_parts.program import commands
from moesim.cli.panels import GROUPED, PANELS, panel_of
from tests.program import run_here

BY_NAME = {" ".join(command.words): command for command in commands()}


@pytest.mark.parametrize("name", GROUPED)
def test_every_option_has_one_group(name):
    options = [p for p in BY_NAME[name].parameters if p.is_option]
    assert len(options) > 30
    for option in options:
        assert len({panel_of(spelled) for spelled in option.names} - {""}) == 1, option.names


def test_every_name_in_a_group_is_an_option():
    known = {name for grouped in GROUPED for p in BY_NAME[grouped].parameters for name in p.names}
    assert {option for options in PANELS.values() for option in options} - known == set()


@pytest.mark.parametrize("name", GROUPED)
def test_help_shows_the_groups_it_has(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    done = run_here(name, "--help")
    assert done.returncode == 0
    has = {panel_of(spelled) for p in BY_NAME[name].parameters for spelled in p.names} - {""}
    shown = [panel for panel in PANELS if f" {panel} " in done.stdout]
    assert set(shown) == has
    # What a group holds stands under its heading.
    engine = done.stdout.index(" Engine ")
    assert engine < done.stdout.index("--max-num-seqs") < done.stdout.index("╰", engine)

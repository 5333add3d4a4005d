"""Fixtures of the validation against real runs."""

from __future__ import annotations

import contextlib

import pytest
from reference_laws import ANCHORS, HELD, Law, machine_text

from moesim.hardware import load_hardware
from moesim.reference.routings import route
from moesim.validate.reference import Anchor, execute, predict
from moesim.validate.reference.works import resident


@pytest.fixture(scope="session")
def machine_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("machine") / "box.yaml"
    path.write_text(machine_text())
    return path


@pytest.fixture(scope="session")
def machine(machine_file):
    return load_hardware(machine_file)


@pytest.fixture(scope="session")
def runs_of(machine, machine_file):
    """Runs of `HELD` by a law of seconds; `opened` gets the device."""

    def make(seconds=None, *, device="cpu", rounds=8, anchors=True, opened=None, cases=HELD, **more):
        law = seconds or (lambda work, _run: predict(work, machine).seconds)

        @contextlib.contextmanager
        def start(played):
            found = Law(played, law, **more)
            if opened is not None:
                opened.append(found)
            yield found

        known = [
            Anchor(case, ids := route(case), predict(resident(case, ids), machine).seconds)
            for case in ANCHORS
        ]
        return execute(
            device, cases, start, machine_file, anchors=known if anchors else (), rounds=rounds, seed=1
        )

    return make

"""Results that several tests draw."""

from __future__ import annotations

from dataclasses import replace

import pytest

import moesim as ms
from moesim.files import data_dir


@pytest.fixture(scope="session")
def trace():
    return ms.load_trace(data_dir("traces") / "gpt-oss-20b-synthetic.npz")


@pytest.fixture(scope="session")
def predictions(trace):
    """gpt-oss-20b three ways: experts equally likely, real routing, and with overlap."""
    model, hardware = ms.load_model("gpt-oss-20b"), ms.load_hardware("h100-sxm-8")
    layout, load = ms.Parallelism(dp=8, ep=8), ms.Workload(1024, 1024, 256)
    return [
        ms.predict(model, hardware, layout, load),
        ms.predict(model, hardware, layout, load, trace=trace),
        ms.predict(model, hardware, layout, load, trace=trace, engine=ms.Engine(overlap="two-batch")),
    ]


@pytest.fixture(scope="session")
def overlapped(trace):
    """A batch so large that overlap hides something."""
    model, hardware = ms.load_model("gpt-oss-20b"), ms.load_hardware("h100-sxm-8", nodes=2)
    layout, load = ms.Parallelism(dp=16, ep=16), ms.Workload(1024, 1024, 8000)
    return ms.predict(model, hardware, layout, load, trace=trace, engine=ms.Engine(overlap="two-batch"))


@pytest.fixture(scope="session")
def placed(trace):
    model, hardware = ms.load_model("gpt-oss-20b"), ms.load_hardware("h100-sxm-8")
    return ms.place(trace, model, hardware, ep=8, redundant=8)


@pytest.fixture(scope="session")
def planned(trace):
    """A placement whose number of copies was searched for, judged on other traffic."""
    model, hardware = ms.load_model("gpt-oss-20b"), ms.load_hardware("h100-sxm-8")
    half = trace.request % 2 == 0
    kept, other = (
        replace(
            trace,
            topk_ids=trace.topk_ids[rows],
            request=trace.request[rows],
            position=trace.position[rows],
            phase=trace.phase[rows],
            topk_weights=None,
            token_id=None,
        )
        for rows in (half, ~half)
    )
    return ms.place(kept, model, hardware, ep=8, redundant="auto", evaluate_on=other)


@pytest.fixture
def canvases(monkeypatch):
    """The matplotlib figures that are saved, so that a test can look at what was drawn."""
    from matplotlib.figure import Figure

    seen = []
    save = Figure.savefig

    def remember(self, *args, **kwargs):
        seen.append(self)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", remember)
    return seen


@pytest.fixture(scope="session")
def printed_kinds(tmp_path_factory):
    """A file with a document of every kind."""
    from kinds import print_all

    return print_all(tmp_path_factory.mktemp("kinds"))

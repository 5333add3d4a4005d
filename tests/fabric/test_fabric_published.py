"""The network of a machine against published exchanges: a bound, and near the time of large ones."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "fabric"))

from comms_rows import judge, nccl_shares, rows


@pytest.fixture(scope="module")
def published(shared):
    return rows(shared("published/measurements.csv"))


def test_no_library_beats_the_links_of_its_machine(published):
    assert len(published) >= 100
    for row in published:
        assert row.bound_s <= row.published_s, row
    # At the reachable bandwidth of the files, which other libraries were measured with, nearly none does.
    assert np.mean([row.links_s <= row.published_s for row in published]) > 0.95


def test_links_alone_come_near_where_they_are_what_counts(published):
    """No number fitted to any row: DeepEP across nodes, and one-sided kernels of thousands of tokens."""
    errors = judge(published)
    assert np.median(np.abs(errors["DeepEP V1 low-latency"].links)) < 0.10
    assert np.median(np.abs(errors["DeepEP V1 normal"].links)) < 0.06
    large = [row for row in published if row.system.startswith("TRT") and row.published_s > 150e-6]
    assert np.median([abs(row.links_s / row.published_s - 1) for row in large]) < 0.25


def test_one_number_for_what_software_adds(published):
    """From the small groups, judged on the larger ones."""
    errors = judge(published)
    assert np.median(np.abs(errors["DeepEP V1 low-latency"].start)) < 0.06
    assert np.median(np.abs(errors["TRT-LLM NVLinkOneSided"].start)) < 0.15
    for system in ("DeepEP V1 low-latency", "TRT-LLM NVLinkOneSided"):
        assert np.median(np.abs(errors[system].start)) < np.median(np.abs(errors[system].links))


def test_nccl_does_not_beat_the_links_but_by_reducing_in_switches(shared):
    """Large messages on nine systems; NVLink SHARP halves the traffic of an all-reduce over 8 Hopper GPUs."""
    shares = nccl_shares(shared("facts/nccl_alpha_beta_fits.csv"))
    assert sum(len(rows_) for rows_ in shares.values()) == 218
    for (system, collective), found in shares.items():
        for n, share in found:
            reduces = collective == "all_reduce" and n == 8 and system in ("h100_sxm", "h200_sxm")
            assert 0.0 < share < (1.1 if reduces else 0.9), (system, collective, n)

"""The frozen cases stay what they were, and cover what they promise."""

import subprocess
import sys
from pathlib import Path

import pytest

from moesim.validate.reference.cases import CHECKSUMS, DEVICES, case_file, checksum, frozen

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("device", DEVICES)
def test_frozen(device):
    assert checksum(device) == CHECKSUMS[device], "frozen cases may not change: add a new file instead"


def test_script_writes_the_same(tmp_path):
    subprocess.run([sys.executable, ROOT / "benchmarks/freeze_reference_cases.py", tmp_path], check=True)
    for device in DEVICES:
        assert (tmp_path / f"cases_{device}.json").read_bytes() == case_file(device).read_bytes()


def test_cpu_covers():
    cases = frozen("cpu")
    assert len(cases) >= 28
    assert len({case.name for case in cases}) == len(cases)
    assert max(case.shape.flops(case.tokens) for case in cases) <= 5e9
    assert {case.dtype for case in cases} == {"fp32", "bf16"}
    assert {case.offloaded for case in cases} == {0.0, 0.25, 0.5, 0.75}
    weights = {case.shape: 4 * case.shape.num_experts * case.shape.params for case in cases}
    assert sum(weights.values()) < 1e9


def test_cuda_covers():
    cases = frozen("cuda")
    assert len(cases) >= 100
    sizes = {(c.shape.num_experts, c.shape.top_k, c.shape.hidden, c.shape.width) for c in cases}
    assert sizes == {
        (8, 2, 4096, 14336),
        (128, 8, 2048, 768),
        (64, 6, 2048, 1408),
        (64, 8, 2048, 1024),
        (32, 4, 2880, 2880),
        (128, 8, 2816, 704),
    }
    assert {case.tokens for case in cases} >= {1, 4, 16, 64, 256, 1024, 4096, 16384}
    assert {case.offloaded for case in cases} == {0.0, 0.25, 0.5, 0.75}
    assert {case.dtype for case in cases} == {"bf16"}


@pytest.mark.parametrize("device", DEVICES)
def test_cpu_and_cuda_cover_routings(device):
    kinds = {case.routing.split(":")[0] for case in frozen(device)}
    assert kinds == {"uniform", "zipf", "trace"}
    # The two models of which tokens were recorded.
    assert {c.routing for c in frozen(device)} >= {"trace:deepseek-v2-lite", "trace:gpt-oss-20b"}

"""The experts' kernels as machine code, without a GPU (all: `benchmarks/reference/compile_all.py`)."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from moesim.reference.cuda import cache
from moesim.reference.cuda.compile import Compiled, Program
from moesim.reference.cuda.compile import compiled as compile_program
from moesim.reference.cuda.machine_code import disassembler, instructions, resources
from moesim.reference.cuda.variants import by_name

pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC comes with moesim[cuda]")

HOPPER = ("sm90_swap_8", "sm90_swap_64", "sm90_64x256", "sm90_128x256")
PAIRS = [
    *((name, "sm_90a") for name in HOPPER),
    ("mma_16x128", "sm_80"),
    ("mma_128x128", "sm_80"),
    ("mma_64x128", "sm_100"),
    ("mma_64x128", "sm_120"),
]
KERNELS = {"experts_up", "experts_down"}


@functools.cache
def compiled(name: str, arch: str) -> Compiled:
    variant = by_name(name)
    return compile_program(Program((variant.source,), variant.defines, tensor=variant.tensor_maps), arch)


@pytest.mark.parametrize(("name", "arch"), PAIRS)
def test_variants_compile_without_spills(name, arch):
    log = compiled(name, arch).log
    found, variant = resources(log), by_name(name)
    assert set(found) == KERNELS
    for kernel in found.values():
        assert kernel.spilled_bytes == 0
        assert kernel.stack_bytes == 0
        # All blocks that should run at once find registers, which are given out in eights.
        used = -(-kernel.registers // 8) * 8 * variant.threads * variant.blocks_per_sm
        assert used <= 65536
    registers = dict(variant.defines).get("REGISTERS")
    if registers:  # one warpgroup gives, two take: together no more than the block was given at its start
        assert 40 + 2 * registers <= 3 * 168
        assert all(kernel.registers == 168 for kernel in found.values())
    # C7508: setmaxnreg ignored; C7510: wgmma serialised, as when accumulators are touched between products.
    assert "warning" not in log.lower()
    assert "C75" not in log


@pytest.mark.parametrize("name", HOPPER)
def test_hopper_code_uses_what_hopper_has(name):
    tool = disassembler()
    if tool is None:
        pytest.skip("no nvdisasm: pip install nvidia-cuda-nvdisasm")
    code = instructions(compiled(name, "sm_90a").cubin, tool)
    assert set(code) == KERNELS
    registers = dict(by_name(name).defines)["REGISTERS"]
    for counts in code.values():
        assert counts["HGMMA"] == 4  # a step of 64 along k
        assert counts["UTMALDG"] == 2  # tokens and weights
        assert counts["SYNCS"] > 4  # barriers: made, announced, arrived at, waited for
        assert counts["USETMAXREG"] == (2 if registers else 0)
        assert counts["HMMA"] == counts["LDL"] == counts["STL"] == 0


@pytest.mark.parametrize(("name", "arch"), [("mma_16x128", "sm_80"), ("mma_64x128", "sm_120")])
def test_mma_code_multiplies_on_tensor_cores_and_copies_asynchronously(name, arch):
    tool = disassembler()
    if tool is None:
        pytest.skip("no nvdisasm: pip install nvidia-cuda-nvdisasm")
    for counts in instructions(compiled(name, arch).cubin, tool).values():
        assert counts["HMMA"] >= 16
        assert counts["LDSM"] >= 8
        assert counts["LDGSTS"] >= 8
        assert counts["LDL"] == counts["STL"] == 0


def test_nvcc_compiles_them_too(tmp_path):
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=home / "bin")
    if nvcc is None:
        pytest.skip("no nvcc here")
    variant = by_name("sm90_64x256")
    unit = tmp_path / "unit.cu"
    unit.write_text(f'#include "{variant.source}"\n')
    target = "-gencode=arch=compute_90a,code=sm_90a"
    macros = [f"-D{name}={value}" for name, value in variant.defines]
    flags = ["-std=c++17", "-cubin", "-Xptxas", "-v", f"-I{cache.KERNELS}", *macros]
    command = [nvcc, target, *flags, "-o", tmp_path / "unit.cubin", unit]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {kernel.spilled_bytes for kernel in resources(done.stderr).values()} == {0}

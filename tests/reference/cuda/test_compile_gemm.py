"""The experts' kernels as machine code: every variant, every architecture it is for, without a GPU."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from moesim.reference.cuda import cache
from moesim.reference.cuda.machine_code import disassembler, instructions, resources
from moesim.reference.cuda.variants import VARIANTS, Variant, by_name

nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC comes with moesim[cuda]")

#: The architectures of the issue; 8.6, 8.9 and 9.0 of the mma kernels are left to compile_all.py.
PAIRS = [
    (variant.name, arch)
    for variant in VARIANTS
    for arch in ("sm_80", "sm_90a", "sm_100", "sm_120")
    if arch in variant.arch
]
KERNELS = {"experts_up", "experts_down"}


def options(variant: Variant, arch: str) -> list[str]:
    macros = [f"-D{name}={value}" for name, value in variant.defines]
    return [f"--gpu-architecture={arch}", "--std=c++17", f"-I{cache.KERNELS}", *macros]


@functools.cache
def compiled(name: str, arch: str) -> tuple[str, bytes]:
    """Log and code; PTX for a virtual architecture."""
    variant = by_name(name)
    source = f'#include "{variant.source}"\n'.encode()
    wanted = [*options(variant, arch), "--ptxas-options=-v"]
    program = nvrtc.nvrtcCreateProgram(source, b"unit.cu", 0, [], [])[1]
    result = nvrtc.nvrtcCompileProgram(program, len(wanted), [each.encode() for each in wanted])[0]
    log = bytes(nvrtc.nvrtcGetProgramLogSize(program)[1])
    nvrtc.nvrtcGetProgramLog(program, log)
    assert result == nvrtc.nvrtcResult.NVRTC_SUCCESS, log.decode()
    size, get = nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN
    if arch.startswith("compute"):
        size, get = nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX
    code = bytes(size(program)[1])
    get(program, code)
    return log.decode(), code


@pytest.mark.parametrize(("name", "arch"), PAIRS)
def test_variants_compile_without_spills(name, arch):
    log = compiled(name, arch)[0]
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


@pytest.mark.parametrize("name", [variant.name for variant in VARIANTS if variant.tensor_maps])
def test_hopper_code_uses_what_hopper_has(name):
    tool = disassembler()
    if tool is None:
        pytest.skip("no nvdisasm: pip install nvidia-cuda-nvdisasm")
    code = instructions(compiled(name, "sm_90a")[1], tool)
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
    for counts in instructions(compiled(name, arch)[1], tool).values():
        assert counts["HMMA"] >= 16
        assert counts["LDSM"] >= 8
        assert counts["LDGSTS"] >= 8
        assert counts["LDL"] == counts["STL"] == 0


def test_ptx_has_the_instructions_whatever_disassembler_there_is():
    ptx = compiled("sm90_swap_8", "compute_90a")[1].decode()
    for instruction in (
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16",
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes",
        "mbarrier.try_wait.parity.shared::cta.b64",
        "mbarrier.arrive.expect_tx.shared::cta.b64",
        "fence.proxy.async.shared::cta",
    ):
        assert instruction in ptx


@pytest.mark.parametrize(("name", "arch"), [("sm90_128x256", "90a"), ("mma_16x128", "80")])
def test_nvcc_compiles_them_too(name, arch, tmp_path):
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=home / "bin")
    if nvcc is None:
        pytest.skip("no nvcc here")
    unit = tmp_path / "unit.cu"
    unit.write_text(f'#include "{by_name(name).source}"\n')
    target = f"-gencode=arch=compute_{arch},code=sm_{arch}"
    wanted = options(by_name(name), "")[1:]
    command = [nvcc, target, "-cubin", "-Xptxas", "-v", *wanted, "-o", tmp_path / "unit.cubin", unit]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {kernel.spilled_bytes for kernel in resources(done.stderr).values()} == {0}

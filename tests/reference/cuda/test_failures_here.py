"""Machines without a GPU, a driver, a package or a compiler: one line that says so."""

import os
import sys

import pytest

from moesim.errors import ConfigError, MoesimError
from moesim.reference.cuda import compile as nvrtc
from moesim.reference.cuda.backend import open_backend
from moesim.reference.cuda.compile import Program

FLUSH = Program(("flush.cuh",))
bindings = pytest.importorskip("cuda.bindings")


def message(action) -> str:
    with pytest.raises(ConfigError) as caught:
        action()
    found = str(caught.value)
    assert "\n" not in found
    return found


def without_driver(monkeypatch):
    """Also where there is one."""
    from cuda.bindings import driver

    def fails(_flags):
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(driver, "cuInit", fails)


def test_no_driver(monkeypatch):
    without_driver(monkeypatch)
    assert message(open_backend) == (
        "no CUDA driver (libcuda.so.1 cannot be loaded); "
        "allowed: run on a machine with an NVIDIA GPU and its driver"
    )


def test_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    expected = "the packages for CUDA are not installed; allowed: pip install 'moesim[cuda]'"
    assert message(open_backend) == message(nvrtc.compiler) == expected


def test_no_compiler(monkeypatch):
    def fails():
        raise RuntimeError('Failure finding "libnvrtc.so": No such file')

    monkeypatch.setattr("cuda.bindings.nvrtc.nvrtcVersion", fails)
    found = message(lambda: nvrtc.compiled(FLUSH, "sm_90"))
    assert found == (
        'NVRTC cannot be loaded (Failure finding "libnvrtc.so": No such file); '
        "allowed: pip install 'moesim[cuda]'"
    )


def test_architectures():
    assert nvrtc.architecture((8, 0)) == "sm_80"
    assert message(lambda: nvrtc.architecture((7, 5))).startswith("compute capability: is too old")
    assert message(lambda: nvrtc.architecture((10, 0), tensor=True)).startswith(
        "compute capability: lacks wgmma"
    )
    with pytest.raises(ConfigError, match="does not know an option or the architecture"):
        nvrtc.compiled(FLUSH, "sm_35")


def test_a_program_is_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setenv("MOESIM_CACHE", str(tmp_path))
    first = nvrtc.compiled(FLUSH, "sm_80")
    assert first.cubin[:4] == b"\x7fELF"
    assert first.registers > 0
    assert first.spilled_bytes == 0
    monkeypatch.setattr(nvrtc, "_compile", lambda *_: pytest.fail("compiled again"))
    assert nvrtc.compiled(FLUSH, "sm_80") == first


def test_a_source_that_does_not_compile_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("MOESIM_CACHE", str(tmp_path))
    with pytest.raises(MoesimError, match="does not compile") as caught:
        nvrtc.compiled(Program(("flush.cuh", "absent.cuh")), "sm_80")
    assert 'cannot open source file "absent.cuh"' in str(caught.value)
    assert not list(tmp_path.rglob("*.cubin"))


def test_few_programs_are_kept(tmp_path):
    files = [tmp_path / f"{number}.cubin" for number in range(5)]
    for age, file in enumerate(reversed(files)):
        file.write_bytes(b"")
        os.utime(file, (age, age))
    nvrtc.prune(tmp_path, 3)
    assert sorted(tmp_path.iterdir()) == files[:2]

"""The kernels around the experts as machine code, without a GPU."""

import functools

import pytest

from moesim.reference.cuda.compile import Compiled, Program, compiled
from moesim.reference.cuda.machine_code import disassembler, instructions, resources
from moesim.reference.cuda.routing import PROGRAM_FILES

pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC comes with moesim[cuda]")

#: Threads of a block, and how many blocks at once find registers on a multiprocessor of 65,536.
KERNELS = {
    "router_logits": (128, 4),
    "top_k": (128, 8),
    "plan": (1024, 1),
    "route_small": (256, 1),
    "list_tiles": (512, 1),
    "permute": (256, 4),
    "combine": (256, 4),
}


@functools.cache
def code(arch: str) -> Compiled:
    return compiled(Program(PROGRAM_FILES), arch)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100", "sm_120"])
def test_no_spills_and_registers_for_all_blocks(arch):
    found = resources(code(arch).log)
    assert set(found) == set(KERNELS)
    for name, kernel in found.items():
        threads, blocks = KERNELS[name]
        assert (kernel.stack_bytes, kernel.spilled_bytes) == (0, 0), name
        assert -(-kernel.registers // 8) * 8 * threads * blocks <= 65536, name


def test_products_and_votes_are_instructions():
    tool = disassembler()
    if tool is None:
        pytest.skip("no nvdisasm: pip install nvidia-cuda-nvdisasm")
    found = instructions(code("sm_90a").cubin, tool)
    logits = found["router_logits"]
    assert logits["HMMA"] == 2 * 4 * 4  # sixteens of tokens and eights of experts of a warp, sixteens of k
    assert logits["LDSM"] == 2 * 2 * 4
    assert logits["LDGSTS"] == 2 * 4 * 3  # both operands; before the loop two steps are asked for
    assert found["top_k"]["REDUX"] == 3  # the largest logit, and of each choice the value and the lowest id
    assert found["plan"]["MATCH"] == 1
    for kernel in found.values():
        assert kernel["LDL"] + kernel["STL"] == 0

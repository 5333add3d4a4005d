"""Compile every variant of the experts' kernels for every architecture it is for, and run it emulated.

No GPU is needed: NVRTC compiles (extra ``cuda``), ``nvdisasm`` reads the code (package
``nvidia-cuda-nvdisasm``), a C++ compiler builds the emulation. Prints registers, spills and instructions;
ends with 1 if anything spills or is wrong. About a minute.

    python benchmarks/reference/compile_all.py [--no-emulation]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "reference" / "cuda"))

from grouped_products import Problem, emulation, error, run

from moesim.reference.cuda.compile import Program, compiled
from moesim.reference.cuda.machine_code import disassembler, instructions, resources
from moesim.reference.cuda.variants import VARIANTS

SHOWN = ("HGMMA", "UTMALDG", "SYNCS", "USETMAXREG", "HMMA", "LDSM", "LDGSTS", "SHFL", "MOVM", "STG", "STL")
PROBLEMS = [
    Problem(counts, n, k, gated)
    for counts in ((37, 1, 70, 5), (0, 0, 9, 0, 130), (0, 300, 0))
    for n, k in ((272, 200), (512, 128))
    for gated in (True, False)
]


def main() -> int:
    """Compile, count, run."""
    tool = disassembler()
    failed = False
    print(
        f"{'variant':14} {'arch':7} {'kernel':13} {'regs':>4} {'spill':>5}  "
        + (" ".join(SHOWN) if tool else "")
    )
    for variant in VARIANTS:
        for arch in variant.arch:
            program = Program((variant.source,), variant.defines, tensor=variant.tensor_maps)
            made = compiled(program, arch)
            counts = instructions(made.cubin, tool) if tool else {}
            for kernel, used in sorted(resources(made.log).items()):
                shown = " ".join(f"{counts[kernel][name]:{len(name)}}" for name in SHOWN) if tool else ""
                head = f"{variant.name:14} {arch:7} {kernel:13} {used.registers:4} {used.spilled_bytes:5}"
                print(f"{head}  {shown}", flush=True)
                failed |= used.spilled_bytes > 0 or "warning" in made.log
    if "--no-emulation" not in sys.argv:
        emulated = emulation({variant.name: variant for variant in VARIANTS})
        for variant in VARIANTS:
            worst = max(
                error(run(emulated, variant.name, variant, p, order=o), p.reference())
                for p in PROBLEMS
                for o in (0, 1, 5)
            )
            print(f"{variant.name:14} emulated: largest relative error {worst:.1e}", flush=True)
            failed |= not worst < 1e-3
    return failed


if __name__ == "__main__":
    sys.exit(main())

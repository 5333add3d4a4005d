"""Bugs planted in the experts' kernels: the emulator must tell each of them from the sound kernel.

All mutants are compiled together, each in a namespace of its own.
"""

# ruff: noqa: E501 - texts of the sources

import dataclasses

import pytest
from grouped_products import Problem, emulation, error, run

from moesim.reference.cuda.emulate import EmulationError
from moesim.reference.cuda.variants import Variant, by_name

pytestmark = pytest.mark.emulation

#: What is wrong: text of the source, and what stands there instead.
HOPPER = {
    "consumer waits for the other parity": ("(full + at.stage, at.parity)", "(full + at.stage, at.parity ^ 1)"),
    "producer waits for the other parity": ("(empty + at.stage, at.parity ^ 1)", "(empty + at.stage, at.parity)"),
    "parity never changes": ("stage = 0, parity ^= 1", "stage = 0"),
    "stages are not given back": ("if (lane == 0 && before >= 0) mbarrier_arrive(empty + before);", ""),
    "the last stage is not given back": ("if (lane == 0) mbarrier_arrive(empty + before);", ""),
    "another stage is given back": ("empty + before);\n                before", "empty + at.stage);\n                before"),
    "fewer bytes are announced than come": ("(full + at.stage, STAGE_BYTES)", "(full + at.stage, WEIGHT_BYTES)"),
    "consumer does not wait": ("mbarrier_wait(full + at.stage, at.parity);", ""),
    "producer does not wait": ("mbarrier_wait(empty + at.stage, at.parity ^ 1);", ""),
    "barriers expect half of the warps": ("mbarrier_init(empty + s, CONSUMER_WARPS)", "mbarrier_init(empty + s, 4)"),
    "products are not waited for": ("wgmma_wait<0>();", ""),
    "too many products are under way": ("wgmma_wait<1>();", "wgmma_wait<4>();"),
    "no fence before products": ("wgmma_fence();", ""),
    "sums start from what was there": ("step | part);", "1);"),
    "every part starts anew": ("step | part);", "step);"),
    "tokens advance half along k": ("a + 2 * part", "a + part"),
    "weights do not advance along k": ("b + 2 * part", "b"),
    "k starts one step late": ("full + at.stage, step * STEP, weight_row", "full + at.stage, step * STEP + 8, weight_row"),
    "swizzle of 64 bytes in the descriptor": ("(u64)1 << 62", "(u64)2 << 62"),
    "no swizzle in the descriptor": (" | (u64)1 << 62", ""),
    "stride of 512 in the descriptor": ("(u64)(1024 >> 4) << 32", "(u64)(512 >> 4) << 32"),
    "stride in the place of the leading offset": ("(u64)1 << 16 | (u64)(1024 >> 4) << 32", "(u64)1 << 32 | (u64)(1024 >> 4) << 16"),
    "start address not shifted": ("((address & 0x3FFFF) >> 4)", "(address & 0x3FFF)"),
    "both warpgroups take the first rows": ("TOKEN_BYTES + half * 64 * ROW_BYTES", "TOKEN_BYTES"),
    "weights of the next slot": ("item.slot * n + item.column", "(item.slot + 1) * n + item.column"),
    "rows of a warp overlap": ("half * 64 + warp * 16;", "half * 64 + warp * 8;"),
    "tiles start one row late": ("step * STEP, item.first)", "step * STEP, item.first + 1)"),
    "barriers are used before they are made": ("__syncthreads();", ""),
    "the copy engine is not told of barriers": ("mbarrier_init_done();", ""),
}  # fmt: skip
SHARED = {
    "rows behind a group are written": ("row < end && column < width", "column < width"),
    "columns behind the last are written": ("row < end && column < width", "row < end"),
    "up and gate change places": ("return __fdividef(gate, 1.0f + fast_exp(-gate)) * up", "return __fdividef(up, 1.0f + fast_exp(-up)) * gate"),
    "pieces of a quad change places": ("high ? low0 : high0", "high ? low1 : high0"),
    "column of the wrong size": ("column * BN}", "column * (BN / 2)}"),
}  # fmt: skip
MMA = {
    "a copy too many may be under way": ("cp_async_wait<STAGES - 2>", "cp_async_wait<STAGES - 1>"),
    "no barrier before a stage is filled again": ("__syncthreads();", ""),
    "no group where nothing is copied": ("        cp_async_commit();", "        if (loader.more()) cp_async_commit();"),
    "pieces of tokens not moved": ("a_rows + place_of(top + 16 * i + (lane & 15), 2 * part + lane / 16)", "a_rows + (top + 16 * i + (lane & 15)) * ROW_BYTES + (2 * part + lane / 16) * 16"),
    "halves of k change places": ("2 * part + (lane / 8 & 1)", "2 * part + (~lane / 8 & 1)"),
    "weight rows change places": ("(lane / 16) * 8 + (lane & 7)", "(lane & 7) * 2 + lane / 16"),
    "rows of a warp are another's": ("item.first + top + 16 * i", "item.first + 16 * i"),
    "sums of the last tile stay": ("f32 d[TALL][8 * WIDE] = {};", "static f32 d[TALL][8 * WIDE];"),
    "zeros are not filled in behind k": ("const bool inside = column < k;", "const bool inside = true;"),
}  # fmt: skip
SUITES = {
    "wgmma": ("sm90_swap_8", HOPPER | SHARED),
    "mma": ("mma_64x128", MMA | SHARED),
}
STAGES = 3
#: More steps than stages, two tiles of one expert, an empty one, and sizes that end in the middle.
PROBLEM = Problem((9, 0, 3), n=272, k=328, gated=True)


def shorter(variant: Variant) -> Variant:
    """With fewer stages, so that a small product goes around the ring."""
    defines = dict(variant.defines)
    smem_bytes = variant.smem_bytes * STAGES // defines["STAGES"]
    return dataclasses.replace(
        variant, defines=tuple((defines | {"STAGES": STAGES}).items()), smem_bytes=smem_bytes
    )


@pytest.fixture(scope="module")
def compiled():
    """All mutants together; the sound kernels have the names of their suites."""
    variants, changes = {}, {}
    for suite, (name, texts) in SUITES.items():
        variants[suite] = shorter(by_name(name))
        for number, change in enumerate(texts.values()):
            variants[f"{suite}_{number}"] = variants[suite]
            changes[f"{suite}_{number}"] = change
    return variants, emulation(variants, changes)


def outcome(compiled, key) -> str:
    """What is wrong with a mutant, in the first order of threads that shows it; empty if nothing is."""
    variants, emulated = compiled
    for order in (0, 1, 3):
        try:
            wrong = error(
                run(emulated, key, variants[key], PROBLEM, grid=1, order=order), PROBLEM.reference()
            )
        except EmulationError as failure:
            return str(failure)
        if not wrong < 1e-3:
            return f"error {wrong}"
    return ""


@pytest.mark.parametrize("suite", list(SUITES))
def test_the_sound_kernel_passes(compiled, suite):
    assert outcome(compiled, suite) == ""


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(f"{suite}_{number}", id=f"{suite}: {name}")
        for suite, (_, changes) in SUITES.items()
        for number, name in enumerate(changes)
    ],
)
def test_planted_bugs_are_caught(compiled, key):
    assert outcome(compiled, key) != ""

"""Blocks as fibers: what CUDA promises holds, and what it forbids is reported."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from moesim.errors import ConfigError
from moesim.reference.cuda import cache
from moesim.reference.cuda.emulate import EmulationError, build, guarded, intact

pytestmark = pytest.mark.emulation

ORDERS = (0, 1, 7)
TEXT = """
extern "C" __global__ void __launch_bounds__(256) reverse(const f32* in, f32* out, i32 n) {
    __shared__ f32 part[256];
    const i32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) part[threadIdx.x] = in[i];
    __syncthreads();
    if (i < n) out[i] = part[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void unsynchronised(const f32* in, f32* out) {
    __shared__ f32 part[256];
    part[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = part[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void poisoned(u32* fixed, u32* dynamic) {
    __shared__ u32 part[32];
    DYNAMIC_SHARED(room);
    fixed[blockIdx.x * 32 + threadIdx.x] = part[threadIdx.x];
    dynamic[blockIdx.x * 32 + threadIdx.x] = ((u32*)room)[threadIdx.x];
    part[threadIdx.x] = 1;
    ((u32*)room)[threadIdx.x] = 1;
}
extern "C" __global__ void warps(const f32* in, f32* sum, f32* most, i32* scan, u32* votes) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    sum[i] = warp_sum(in[i]);
    most[i] = warp_max(in[i]);
    scan[i] = warp_scan((i32)(threadIdx.x % 7));
    votes[i] = __ballot_sync(0xFFFFFFFFu, in[i] > 0.5f);
}
extern "C" __global__ void halves(i32* out) {
    const u32 low = 0x0000FFFFu, own = (threadIdx.x & 16) ? ~low : low;
    i32 x = threadIdx.x;
    const i32 rounds = (threadIdx.x & 16) ? 3 : 5;  // the halves take different ways
    for (i32 r = 0; r < rounds; ++r) x = __shfl_sync(own, x, (threadIdx.x & 16) + r) + 1;
    out[threadIdx.x] = x;
}
extern "C" __global__ void early_end(i32* out) {
    __shared__ i32 total;
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    if (threadIdx.x >= 40) return;
    atomicAdd(&total, 1);
    __syncthreads();
    out[threadIdx.x] = total;
}
extern "C" __global__ void hand_over(i32* out, i32 rounds) {
    __shared__ i32 slot;
    const bool producer = threadIdx.x < 32;
    for (i32 r = 0; r < rounds; ++r) {
        if (producer) {
            if (r) bar_sync(2, 64);
            if (threadIdx.x == 0) slot = r * r;
            bar_arrive(1, 64);
        } else {
            bar_sync(1, 64);
            out[r * 32 + threadIdx.x - 32] = slot;
            if (r + 1 < rounds) bar_arrive(2, 64);
        }
    }
}
extern "C" __global__ void conversions(const f32* in, u16* one, u32* two, f32* back) {
    const u32 i = threadIdx.x;
    one[i] = to_bf16(in[i]);
    two[i] = pack_bf16(in[i], -in[i]);
    back[i] = unpack_lo(two[i]) + unpack_hi(two[i]) + from_bf16(one[i]);
}
extern "C" __global__ void later(i32* out) {
    __shared__ i32 box;
    if (threadIdx.x == 0) {
        box = 0;
        i32* there = &box;
        emu::defer(5, [there] { *there = 42; });
    }
    __syncthreads();
    emu::wait_until([] { return box != 0; }, "the copy");
    out[threadIdx.x] = box;
}
extern "C" __global__ void stuck_shuffle(i32* out) {
    if (threadIdx.x < 40) out[threadIdx.x] = __shfl_sync(0xFFFFFFFFu, (i32)threadIdx.x, 0);
    __syncthreads();
}
extern "C" __global__ void stuck_barrier(i32 n) {
    if (threadIdx.x < 32 || n) bar_sync(3, 64);
}
extern "C" __global__ void stuck_spin(i32* flag) {
    while (*(volatile i32*)flag != 1) pause_thread();
}
extern "C" __global__ void divided(i32* out) {
    out[threadIdx.x] = threadIdx.x % 2 ? __any_sync(0xFFFFFFFFu, 1) : __shfl_sync(0xFFFFFFFFu, 1, 0);
}
extern "C" __global__ void crooked(const u16* in, u16* out) { store16(out, load16(in + threadIdx.x)); }
extern "C" __global__ void beyond(i32* out, i32 n) { out[n] = 1; }
extern "C" __global__ void deep(i32* out) {
    volatile unsigned char room[160 << 10];
    for (i32 i = (160 << 10) - 1; i >= 0; --i) room[i] = 0;
    out[0] = room[0];
}
"""


@pytest.fixture(scope="session")
def emulation():
    return build(TEXT)


@pytest.mark.parametrize("order", ORDERS)
def test_a_block_meets_at_its_barrier(emulation, order):
    values = np.random.default_rng(0).random(1000, np.float32)
    out = guarded(1000, np.float32)
    emulation.launch("reverse", 5, 200, [values, out, 1000], order=order)
    np.testing.assert_array_equal(out.reshape(5, 200), values.reshape(5, 200)[:, ::-1])


def test_a_missing_barrier_shows_as_poison_in_some_order(emulation):
    values = np.ones(256, np.float32)
    seen = []
    for order in ORDERS:
        out = guarded(256, np.float32)
        emulation.launch("unsynchronised", 1, 256, [values, out], order=order)
        seen.append(bool(np.isnan(out).any()))
    assert all(seen)


def test_shared_memory_is_poisoned_before_each_block(emulation):
    fixed, dynamic = guarded(96, np.uint32), guarded(96, np.uint32)
    fixed[:], dynamic[:] = 0, 0
    emulation.launch("poisoned", 3, 32, [fixed, dynamic], smem=128)
    assert (fixed == 0xFFFFFFFF).all()
    assert (dynamic == 0xFFFFFFFF).all()


@pytest.mark.parametrize("order", ORDERS)
def test_warps_exchange(emulation, order):
    values = np.random.default_rng(1).random(256, np.float32)
    total, most = guarded(256, np.float32), guarded(256, np.float32)
    scan, votes = guarded(256, np.int32), guarded(256, np.uint32)
    emulation.launch("warps", 2, 128, [values, total, most, scan, votes], order=order)
    by_warp = values.reshape(8, 32)
    np.testing.assert_allclose(total, by_warp.sum(1).repeat(32), rtol=1e-6)
    np.testing.assert_array_equal(most, by_warp.max(1).repeat(32))
    np.testing.assert_array_equal(
        scan.reshape(2, 4, 32), (np.arange(128) % 7).reshape(4, 32).cumsum(1)[None].repeat(2, 0)
    )
    bits = ((by_warp > 0.5) * (np.uint32(1) << np.arange(32, dtype=np.uint32))).sum(1)
    np.testing.assert_array_equal(votes, bits.repeat(32))


@pytest.mark.parametrize("order", ORDERS)
def test_parts_of_a_warp_go_their_own_ways(emulation, order):
    out = guarded(32, np.int32)
    emulation.launch("halves", 1, 32, [out], order=order)
    assert out.tolist() == [5] * 16 + [19] * 16


@pytest.mark.parametrize("order", ORDERS)
def test_threads_that_ended_are_not_waited_for(emulation, order):
    out = guarded(40, np.int32)
    emulation.launch("early_end", 1, 128, [out], order=order)
    assert (out == 40).all()


@pytest.mark.parametrize("order", ORDERS)
def test_named_barriers_hand_over(emulation, order):
    out = guarded((9, 32), np.int32)
    emulation.launch("hand_over", 1, 64, [out, 9], order=order)
    assert (out == np.arange(9)[:, None] ** 2).all()


def test_bf16_rounds_to_nearest_even(emulation):
    bits = np.concatenate(
        [
            np.random.default_rng(2).integers(0, 2**32, 240, np.uint32) & np.uint32(0xBFFFFFFF),
            np.array([0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0, 0x80000000, 0x7F800000, 0xFF800000]),
            np.array([1, 0x8000, 0x18000, 0x7FFF, 0x3F800000, 0x7F7FFFFF, 0x7FC00000, 0xFFC00001]),
        ]
    ).astype(np.uint32)
    values = bits.view(np.float32)
    one, two, back = guarded(256, np.uint16), guarded(256, np.uint32), guarded(256, np.float32)
    emulation.launch("conversions", 1, 256, [values, one, two, back])
    rounded = ((bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    numbers = ~np.isnan(values)
    np.testing.assert_array_equal(one[numbers], rounded[numbers])
    assert np.isnan((one.astype(np.uint32) << 16).view(np.float32)[~numbers]).all()
    np.testing.assert_array_equal(two & 0xFFFF, one)
    finite = np.isfinite((one.astype(np.uint32) << 16).view(np.float32))
    np.testing.assert_array_equal(back[finite], (one.astype(np.uint32) << 16).view(np.float32)[finite])


def test_what_is_deferred_comes_while_all_wait(emulation):
    out = guarded(64, np.int32)
    emulation.launch("later", 1, 64, [out])
    assert (out == 42).all()


@pytest.mark.parametrize(
    ("kernel", "args", "says"),
    [
        ("stuck_shuffle", [np.zeros(64, np.int32)], "threads 32..39 wait for __shfl_sync; threads 40..63"),
        ("stuck_barrier", [0], "threads 0..31 wait for barrier 3; 32 have ended"),
        ("stuck_spin", [np.zeros(1, np.int32)], "threads 0..63 wait for its turn"),
    ],
    ids=["shuffle", "barrier", "spin"],
)
@pytest.mark.parametrize("order", ORDERS)
def test_a_deadlock_is_reported(emulation, kernel, args, says, order):
    with pytest.raises(EmulationError, match=f"{kernel}, block 0: deadlock;.*{re.escape(says)}"):
        emulation.launch(kernel, 2, 64, args, order=order)


def test_failed_checks_are_reported_and_the_next_launch_runs(emulation):
    with pytest.raises(EmulationError, match="crooked, block 0, thread 1: misaligned access"):
        emulation.launch("crooked", 1, 2, [np.zeros(64, np.uint16), np.zeros(64, np.uint16)])
    with pytest.raises(
        EmulationError, match="thread 1: __ballot_sync: other lanes of the warp are in __shfl_sync"
    ):
        emulation.launch("divided", 1, 32, [guarded(32, np.int32)])
    out = guarded(4, np.int32)
    with pytest.raises(EmulationError, match="beyond: writes outside of its argument 0"):
        emulation.launch("beyond", 1, 1, [out, -1])
    assert not intact(out)
    with pytest.raises(EmulationError, match="beyond, block 0, thread 0: no memory of the kernel's at 0x"):
        emulation.launch("beyond", 1, 1, [guarded(4, np.int32), 4])
    with pytest.raises(EmulationError, match="no kernel is called reverses"):
        emulation.launch("reverses", 1, 1, [])
    with pytest.raises(EmulationError, match=r"0 blocks of 32 threads .* cannot be made"):
        emulation.launch("beyond", 0, 32, [out, 0])
    with pytest.raises(EmulationError, match="deep, block 0, thread 0: its stack overflows"):
        emulation.launch("deep", 1, 1, [guarded(1, np.int32)])
    out = guarded(4, np.int32)
    emulation.launch("beyond", 1, 1, [out, 3])
    assert out.tolist() == [-1, -1, -1, 1]


def test_guarded_arrays_of_any_size():
    for size in (1, 7, 16, 65536, 100_003):
        array = guarded(size, np.uint8)
        assert (array == 0xFF).all()
        assert array.ctypes.data % 16 == 0
        assert intact(array)
        array[:] = 0
        assert intact(array)
        assert intact(array.reshape(-1, 1))
        (array if array.base is None else array.base)[100] = 0
        assert not intact(array)
    assert intact(np.zeros(3))
    assert intact(np.zeros(4)[1:])


def test_a_portable_switch_of_fibers_does_the_same(emulation):
    only = "extern " + next(part for part in TEXT.split("extern ") if " warps(" in part)
    portable = build(only, {"MOESIM_UCONTEXT": 1})
    assert portable.path != emulation.path
    values = np.random.default_rng(1).random(256, np.float32)
    got = []
    for each in (emulation, portable):
        out = [guarded(256, dtype) for dtype in (np.float32, np.float32, np.int32, np.uint32)]
        each.launch("warps", 2, 128, [values, *out])
        got.append(out)
    for one, other in zip(*got, strict=True):
        np.testing.assert_array_equal(one, other)


def test_compiled_once_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("MOESIM_CACHE", str(tmp_path / "kept"))
    made = []

    def make(path):
        made.append(path)
        path.write_bytes(b"x")

    first = cache.built("thing.so", b"key", make)
    assert cache.built("thing.so", b"key", make) == first
    assert len(made) == 1
    assert cache.built("thing.so", b"other", make) != first
    assert first.read_bytes() == b"x"

    def broken(path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.built("thing.so", b"third", broken)
    assert sorted(p.suffix for p in (tmp_path / "kept" / "kernels").iterdir()) == [
        ".lock",
        ".lock",
        ".lock",
        ".so",
        ".so",
    ]


def test_no_compiler_no_folder_bad_text(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"does not compile for the host: .*nonsense"):
        build("nonsense;")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"CXX: kernels run without a GPU only where a C\+\+ compiler"):
        build("")
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match=r"allowed: g\+\+ or clang\+\+ on the PATH"):
        build("")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOESIM_CACHE", str(tmp_path / "file" / "folder"))
    with pytest.raises(ConfigError, match="MOESIM_CACHE: nothing can be kept there"):
        cache.folder()


def test_two_processes_build_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MOESIM_CACHE", str(tmp_path))
    code = (
        "from pathlib import Path; from moesim.reference.cuda import cache\n"
        "print(cache.built('a.txt', b'k', lambda p: p.write_text('one')))"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [child.communicate()[0] for child in children]
    assert outputs[0] == outputs[1]
    assert len(list(tmp_path.glob("kernels/a-*.txt"))) == 1

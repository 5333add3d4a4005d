"""The emulated tensor cores and copy engine against the PTX ISA's layouts, written once more in numpy."""

import ctypes

import numpy as np
import pytest
from grouped_products import Map, encode, from_bf16, to_bf16

from moesim.reference.cuda.emulate import EmulationError, build, guarded

pytestmark = pytest.mark.emulation

TEXT = """
#include "prims_tensor.cuh"
// One product of a warpgroup, with the bytes of both matrices given.
template <int N>
static __device__ void product(const u32* bytes, i32 words, u64 a, u64 b, f32* out) {
    DYNAMIC_SHARED(room);
    for (i32 i = threadIdx.x; i < words; i += 128) ((u32*)room)[i] = bytes[i];
    __syncthreads();
    f32 d[N / 2];
    wgmma_fence();
    wgmma<N>(d, a, b, 0);
    wgmma_commit();
    wgmma_wait<0>();
    for (int i = 0; i < N / 2; ++i) out[threadIdx.x * (N / 2) + i] = d[i];
}
extern "C" __global__ void product_8(const u32* bytes, i32 words, u64 a, u64 b, f32* out) {
    product<8>(bytes, words, a, b, out);
}
extern "C" __global__ void product_64(const u32* bytes, i32 words, u64 a, u64 b, f32* out) {
    product<64>(bytes, words, a, b, out);
}
extern "C" __global__ void box(const __grid_constant__ TensorMap map, i32 column, i32 row, i32 bytes,
                               u32* out) {
    DYNAMIC_SHARED(room);
    u64* const full = (u64*)(room + 32768);
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        mbarrier_init_done();
        mbarrier_expect(full, bytes);
        tma_load(room, &map, full, column, row);
    }
    __syncthreads();
    mbarrier_wait(full, 0);
    for (i32 i = threadIdx.x; i < bytes / 4; i += 32) out[i] = ((u32*)room)[i];
}
extern "C" __global__ void fragments(const u16* a, const u16* b, f32* product, u32* transposed) {
    DYNAMIC_SHARED(room);  // a [16, 16], then b [8, 16] and, a second time, all as they are given
    u16* const part = (u16*)room;
    for (i32 i = threadIdx.x; i < 256; i += 32) part[i] = a[i];
    for (i32 i = threadIdx.x; i < 128; i += 32) part[256 + i] = part[384 + i] = b[i];
    __syncthreads();
    const i32 lane = threadIdx.x;
    u32 x[4], y[4];
    f32 d[4] = {0, 0, 0, 0};
    ldmatrix4(x, part + lane % 16 * 16 + lane / 16 * 8);
    ldmatrix4(y, part + 256 + (lane / 16 * 8 + lane % 8) * 16 + (lane / 8 % 2) * 8);
    mma_16816(d, x, y[0], y[1]);
    mma_16816(d, x, y[2], y[3]);
    for (int i = 0; i < 4; ++i) product[lane * 4 + i] = d[i];
    transposed[lane] = transpose_8x8(x[0]);
}
template <int LESS, int MORE>
static __device__ void roles(i32* out) {
    if (threadIdx.x < 128)
        registers_give<LESS>();
    else
        registers_take<MORE>();
    out[threadIdx.x] = 1;
}
extern "C" __global__ void registers_enough(i32* out) { roles<40, 232>(out); }
extern "C" __global__ void registers_too_many(i32* out) { roles<40, 240>(out); }
extern "C" __global__ void registers_by_half_a_warpgroup(i32* out) {
    if (threadIdx.x < 64) registers_give<40>();
}
"""
#: Swizzles as descriptors number them: bytes, and how many address bits are mixed (CuTe: Swizzle<n, 4, 3>).
MODES = {0: (16, 0), 1: (128, 3), 2: (64, 2), 3: (32, 1)}


@pytest.fixture(scope="module")
def emulated():
    return build(TEXT)


def canonical(matrix, mode, leading, stride):
    """Bytes of a K-major matrix [rows, 16], from PTX's canonical layouts (their T is 8 for 16-bit elements).

    No swizzle ((8,m),(T,2)) : ((1T,SBO),(1,LBO)); 128 bytes ((8,m),(T,2)) : ((8T,SBO),(1,T)) under
    Swizzle<3,4,3>; 64 and 32 bytes the same with 4T, 2T.
    """
    width, bits = MODES[mode]
    place = np.zeros(matrix.shape, np.int64)  # in bytes
    for r in range(matrix.shape[0]):
        for k in range(16):
            across = (k // 8) * (leading if mode == 0 else 16)
            place[r, k] = (r % 8) * width + (r // 8) * stride + (k % 8) * 2 + across
    place ^= ((place >> 7) & ((1 << bits) - 1)) << 4
    return place


def descriptor(start, leading, stride, mode):
    def encoded(x):
        return (x & 0x3FFFF) >> 4

    return encoded(start) | encoded(leading) << 16 | encoded(stride) << 32 | mode << 62


def accumulators(d, n):
    """[128, n / 2] of a warpgroup's threads -> [64, n]."""
    thread, i = np.indices(d.shape)
    row = thread // 32 * 16 + thread % 32 // 4 + i // 2 % 2 * 8
    column = i // 4 * 8 + thread % 4 * 2 + i % 2
    out = np.full((64, n), np.nan)
    out[row, column] = d
    return out


@pytest.mark.parametrize("n", [8, 64])
@pytest.mark.parametrize("mode", list(MODES))
def test_products_read_matrices_through_their_descriptors(emulated, mode, n):
    random = np.random.default_rng(mode)
    a, b = to_bf16(random.normal(size=(64, 16))), to_bf16(random.normal(size=(n, 16)))
    # Without a swizzle eights of rows follow each other, and the second half of k lies behind all of them.
    stride = 128 if mode == 0 else 8 * MODES[mode][0] + 256 * (mode == 3)
    leading = {0: 4096}.get(mode, 16)
    room = np.full(32768, 0xFF, np.uint8)
    starts = 2048, 2048 + 16384
    for matrix, start in zip((a, b), starts, strict=True):
        place = canonical(matrix, mode, leading, stride) + start
        room[place] = matrix & 0xFF
        room[place + 1] = matrix >> 8
    d = np.zeros((128, n // 2), np.float32)
    a_at, b_at = (np.uint64(descriptor(start, leading, stride, mode)) for start in starts)
    emulated.launch(f"product_{n}", 1, 128, [room.view(np.uint32), 8192, a_at, b_at, d], smem=32768)
    expected = from_bf16(a).astype(float) @ from_bf16(b).astype(float).T
    np.testing.assert_allclose(accumulators(d, n), expected, rtol=1e-5, atol=1e-5)


def test_a_step_along_k_is_32_bytes_of_the_start_address(emulated):
    """With 128 bytes to a row, the four parts of 16 are read by adding 32 to the start and nothing else."""
    random = np.random.default_rng(5)
    a, b = (to_bf16(random.normal(size=(rows, 64))) for rows in (64, 8))
    room = np.zeros(32768, np.uint8)
    for matrix, start in ((a, 1024), (b, 1024 + 8192)):
        row, k = np.indices(matrix.shape)
        place = start + row * 128 + ((k // 8) ^ (row % 8)) * 16 + k % 8 * 2
        room[place], room[place + 1] = matrix & 0xFF, matrix >> 8
    total = np.zeros((64, 8))
    for part in range(4):
        d = np.zeros((128, 4), np.float32)
        at = [np.uint64(descriptor(start + 32 * part, 16, 1024, 1)) for start in (1024, 1024 + 8192)]
        emulated.launch("product_8", 1, 128, [room.view(np.uint32), 8192, *at, d], smem=32768)
        total += accumulators(d, 8)
    expected = from_bf16(a).astype(float) @ from_bf16(b).astype(float).T
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (5, 16), (90, 0), (0, 96), (-3, -8)])
def test_boxes_are_swizzled_and_zero_outside(emulated, row, column):
    random = np.random.default_rng(1)
    tensor = random.integers(1, 1 << 16, (100, 104)).astype(np.uint16)
    rows = 24
    out = guarded((rows, 64), np.uint16)
    made = encode(emulated.library, tensor, 100, 104, rows)
    emulated.launch("box", 1, 32, [made, column, row, rows * 128, out], smem=32768 + 8)
    y, x = row + np.arange(rows)[:, None], column + np.arange(64)
    inside = (y >= 0) & (y < 100) & (x >= 0) & (x < 104)
    expected = np.where(inside, tensor[np.clip(y, 0, 99), np.clip(x, 0, 103)], 0)
    line, piece = np.indices((rows, 8))
    pieces = expected.reshape(rows, 8, 8)[line, piece ^ (line % 8)]  # piece c of row r lies at c ^ (r mod 8)
    np.testing.assert_array_equal(out, pieces.reshape(rows, 64))


@pytest.mark.parametrize("bytes_", [24 * 128 - 16, 24 * 128 + 16])
def test_a_phase_ends_with_the_bytes_that_were_announced_and_no_others(emulated, bytes_):
    tensor = np.ones((24, 64), np.uint16)
    made = encode(emulated.library, tensor, 24, 64, 24)
    with pytest.raises(EmulationError, match=r"deadlock.*mbarrier"):
        emulated.launch("box", 1, 32, [made, 0, 0, bytes_, guarded((24, 64), np.uint16)], smem=32768 + 8)


def test_maps_the_driver_would_refuse_are_refused(emulated):
    tensor = np.zeros((8, 64), np.uint16)

    def refused(address=0, columns=64, rows=8, pitch=128, box=64, box_rows=8, swizzle=3):
        u64, u32 = ctypes.c_uint64, ctypes.c_uint32
        at = u64(tensor.ctypes.data // 16 * 16 + address)
        sizes = u64(columns), u64(rows), u64(pitch), u32(box), u32(box_rows), u32(swizzle)
        return emulated.library.encode_tensor_map(ctypes.byref(Map()), at, *sizes) != 0

    assert not refused()
    assert refused(address=8)
    assert refused(rows=0)
    assert refused(pitch=120)
    assert refused(box=72)  # wider than the swizzle
    assert refused(box_rows=257)
    with pytest.raises(EmulationError, match="not encoded"):
        emulated.launch("box", 1, 32, [Map(), 0, 0, 1024, guarded((8, 64), np.uint16)], smem=32768 + 8)


def test_warps_multiply_and_transpose(emulated):
    random = np.random.default_rng(2)
    a, b = to_bf16(random.normal(size=(16, 16))), to_bf16(random.normal(size=(8, 16)))
    d, transposed = np.zeros((32, 4), np.float32), np.zeros(32, np.uint32)
    emulated.launch("fragments", 1, 32, [a, b, d, transposed], smem=1024)
    lane, i = np.indices((32, 4))
    got = np.full((16, 8), np.nan)
    got[lane // 4 + i // 2 * 8, lane % 4 * 2 + i % 2] = d
    expected = 2 * from_bf16(a).astype(float) @ from_bf16(b).astype(float).T
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(transposed.view(np.uint16).reshape(8, 8), a[:8, :8].T)


def test_registers_are_taken_from_what_others_gave(emulated):
    out = np.zeros(384, np.int32)
    for order in (0, 1, 5):
        emulated.launch("registers_enough", 1, 384, [out], order=order)
    assert out.all()
    with pytest.raises(EmulationError, match="wait for registers"):
        emulated.launch("registers_too_many", 1, 384, [out])
    with pytest.raises(EmulationError, match="setmaxnreg"):
        emulated.launch("registers_by_half_a_warpgroup", 1, 384, [out])

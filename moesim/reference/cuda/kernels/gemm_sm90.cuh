// Grouped products on Hopper: TMA, wgmma, one warpgroup that loads and two that multiply.
//
// Macros: BM tokens and BN weight rows of a tile, STAGES of the ring, SWAP. The ring holds, for steps of 64 along k,
// a box of tokens [BM, 64] and one of weights [BN, 64], both with 128 bytes to a row, swizzled.
//   SWAP 0: tokens are the 64-row side of wgmma. BM = 128: each warpgroup has 64 tokens and all BN weight rows;
//           BM = 64: each has all tokens and half of the weight rows.
//   SWAP 1: weights are the 64-row side (BN = 128: 64 for each warpgroup), tokens the N = BM side, 8 to 64: few
//           tokens per expert do not pay for 64.
// Limits: k and the outputs' width are multiples of 8 (16-byte rows; the copy engine fills zeros behind k).
#pragma once
#include "gemm_tiles.cuh"

constexpr i32 STEP = 64;
constexpr u32 ROW_BYTES = STEP * 2, TOKEN_BYTES = BM * ROW_BYTES, WEIGHT_BYTES = BN * ROW_BYTES;
constexpr u32 STAGE_BYTES = TOKEN_BYTES + WEIGHT_BYTES;
constexpr int WIDTH = SWAP ? BM : BM == 128 ? BN : BN / 2;  // N of wgmma
constexpr int CONSUMER_WARPS = 8;  // one lane of each gives a stage back
static_assert(SWAP ? BN == 128 && BM <= 64 : BM == 64 || BM == 128, "two warpgroups multiply, 64 rows each");

// Matrix descriptor of PTX, "Matrix Descriptor Format" of wgmma: bits 0-13 start address / 16, 16-29 leading
// dimension offset / 16 (unused with swizzled K-major, 1 by convention), 32-45 stride offset / 16 (8 rows to the next
// 8: 1024 bytes), 49-51 base offset (0: boxes start at multiples of 1024), 62-63 swizzle (1: 128 bytes).
// A step of 16 along k is 32 bytes, added to the start address: the swizzle is of address bits, so it goes along.
// DeepGEMM and TensorRT-LLM fill the same fields of CUTLASS' GmmaDescriptor with the same numbers (stride 64,
// layout 1, base 0).
static __device__ __forceinline__ u64 matrix_descriptor(u32 address) {
    return (u64)((address & 0x3FFFF) >> 4) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

struct Ring {
    i32 stage = 0;
    u32 parity = 0;
    __device__ __forceinline__ void next() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

// SWAP: of the product weights x tokens a warp holds 16 weight rows; put tokens in rows and store. Of d's four j, the
// first two are weight row l / 4 and the others that plus 8 (GATED: the gate and the up row of one output), for the
// tokens 8 j + 2 (l % 4) + 0, 1.
template <bool GATED, int FOURS>
static __device__ __forceinline__ void store_columns(u16* out, const f32 (&d)[4 * FOURS], i32 row, i32 end,
                                                     i32 column, i32 width) {
    constexpr int ACROSS = GATED ? 1 : 2, DOWN = 4 / ACROSS;  // pieces of a row, rows of 8 tokens apart
    const i32 lane = threadIdx.x & 31, mine = lane & 3;
#pragma unroll
    for (int j = 0; j < FOURS; j += DOWN) {
        u32 pair[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int at = 4 * (j + i / ACROSS), r = 2 * (i % ACROSS);
            if (j + i / ACROSS >= FOURS)
                pair[i] = 0;
            else if (GATED)
                pair[i] = transpose_8x8(pack_bf16(swiglu(d[at], d[at + 2]), swiglu(d[at + 1], d[at + 3])));
            else
                pair[i] = transpose_8x8(pack_bf16(d[at + r], d[at + r + 1]));
        }
        const uint4 piece = gather_piece(pair);
        if (j + mine / ACROSS < FOURS)
            store_piece(out, piece, row + 8 * (j + mine / ACROSS) + lane / 4, end, column + 8 * (mine % ACROSS), width);
    }
}

template <bool GATED>
static __device__ __forceinline__ void grouped(const TensorMap& tokens, const TensorMap& weights, u16* out,
                                               const int4* tiles, const i32* num_tiles, i32 n, i32 k) {
    DYNAMIC_SHARED(ring);
    u64* const full = (u64*)(ring + STAGES * STAGE_BYTES);
    u64* const empty = full + STAGES;
    const i32 group = threadIdx.x / 128;
    if (threadIdx.x == 0) {
        if (shared_address(ring) % 1024) trap();
        prefetch_map(&tokens);
        prefetch_map(&weights);
        for (int s = 0; s < STAGES; ++s) {
            mbarrier_init(full + s, 1);
            mbarrier_init(empty + s, CONSUMER_WARPS);
        }
        mbarrier_init_done();
    }
    __syncthreads();

    const i32 count = __ldg(num_tiles), columns = (n + BN - 1) / BN, steps = (k + STEP - 1) / STEP;
    Ring at;
    if (group == 0) {
#if REGISTERS  // 40 and twice 232 are three times 168, what a block of 384 threads starts with
        registers_give<40>();
#endif
        if (threadIdx.x != 0) return;
        for (i32 index = blockIdx.x; index < count * columns; index += gridDim.x) {
            const Item item = item_at(tiles, count, columns, index);
            const i32 weight_row = item.slot * n + item.column;
            for (i32 step = 0; step < steps; ++step, at.next()) {
                unsigned char* const stage = ring + at.stage * STAGE_BYTES;
                mbarrier_wait(empty + at.stage, at.parity ^ 1);
                mbarrier_expect(full + at.stage, STAGE_BYTES);
                tma_load(stage, &tokens, full + at.stage, step * STEP, item.first);
                tma_load(stage + TOKEN_BYTES, &weights, full + at.stage, step * STEP, weight_row);
            }
        }
    } else {
#if REGISTERS
        registers_take<REGISTERS>();
#endif
        const i32 half = group - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x & 31;
        // Where this warpgroup's part of either box starts.
        const u32 left = SWAP ? TOKEN_BYTES + half * 64 * ROW_BYTES : BM == 128 ? half * 64 * ROW_BYTES : 0;
        const u32 right = SWAP ? 0 : TOKEN_BYTES + (BM == 128 ? 0 : half * (BN / 2) * ROW_BYTES);
        const u32 base = shared_address(ring);
        f32 d[WIDTH / 2];
        for (i32 index = blockIdx.x; index < count * columns; index += gridDim.x) {
            const Item item = item_at(tiles, count, columns, index);
            i32 before = -1;  // stage whose products may be under way
            for (i32 step = 0; step < steps; ++step, at.next()) {
                mbarrier_wait(full + at.stage, at.parity);
                const u64 a = matrix_descriptor(base + at.stage * STAGE_BYTES + left);
                const u64 b = matrix_descriptor(base + at.stage * STAGE_BYTES + right);
                wgmma_fence();
#pragma unroll
                for (int part = 0; part < STEP / 16; ++part) wgmma<WIDTH>(d, a + 2 * part, b + 2 * part, step | part);
                wgmma_commit();
                wgmma_wait<1>();
                if (lane == 0 && before >= 0) mbarrier_arrive(empty + before);
                before = at.stage;
            }
            wgmma_wait<0>();
            hold(d);
            if (lane == 0) mbarrier_arrive(empty + before);
            if constexpr (SWAP) {
                const i32 column = item.column + half * 64 + warp * 16;
                store_columns<GATED, WIDTH / 8>(out, d, item.first, item.end, GATED ? column / 2 : column,
                                                GATED ? n / 2 : n);
            } else {
                const i32 row = item.first + warp * 16 + (BM == 128 ? half * 64 : 0);
                const i32 column = item.column + (BM == 128 ? 0 : half * (BN / 2));
                store_rows<GATED, WIDTH / 8>(out, d, row, item.end, GATED ? column / 2 : column, GATED ? n / 2 : n);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(384, 1)
    experts_up(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w13, u16* h, const int4* tiles,
               const i32* num_tiles, i32 n, i32 k) {
    grouped<true>(x, w13, h, tiles, num_tiles, n, k);
}

extern "C" __global__ void __launch_bounds__(384, 1)
    experts_down(const __grid_constant__ TensorMap h, const __grid_constant__ TensorMap w2, u16* y, const int4* tiles,
                 const i32* num_tiles, i32 n, i32 k) {
    grouped<false>(h, w2, y, tiles, num_tiles, n, k);
}

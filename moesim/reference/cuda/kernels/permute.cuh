// Rows of tokens to where the plan puts them: each row is read once and written k times.
#pragma once
#include "prims.cuh"

constexpr i32 MOVE_THREADS = 256, MOVE_AHEAD = 4;

// Work is cut into pieces of 16 bytes, `pieces` of them for a block (a multiple of its threads), whatever the rows.
// Dynamic shared memory: i32 [(pieces / (H / 8) + 2) * k], the rows of the block's tokens.
extern "C" __global__ void __launch_bounds__(MOVE_THREADS)
    permute(const u16* x, const i32* ids, const i32* rank, const i32* base, u16* xp, i32* place, i32 T, i32 H, i32 E,
            i32 k, i32 chunk, i32 pieces) {
    DYNAMIC_SHARED(room);
    i32* const rows = (i32*)room;
    const i32 wide = H / 8, end = min(T * wide, (i32)(blockIdx.x + 1) * pieces);
    const i32 begin = blockIdx.x * pieces, token = begin / wide, last = (end - 1) / wide;
    for (i32 i = threadIdx.x; i < (last - token + 1) * k; i += blockDim.x) {
        const i32 pair = token * k + i;
        const i32 row = base[(i64)(pair / chunk) * E + ids[pair]] + rank[pair];
        rows[i] = row;
        if ((pair / k) * wide >= begin) place[pair] = row;  // of the block in which the token begins
    }
    __syncthreads();
    for (i32 first = begin + threadIdx.x; first < end; first += MOVE_AHEAD * blockDim.x) {
        uint4 v[MOVE_AHEAD];
#pragma unroll
        for (i32 a = 0; a < MOVE_AHEAD; ++a) {
            const i32 i = first + a * blockDim.x;
            if (i < end) v[a] = load16_streaming(x + (i64)i * 8);
        }
#pragma unroll
        for (i32 a = 0; a < MOVE_AHEAD; ++a) {
            const i32 i = first + a * blockDim.x;
            if (i >= end) break;
            const i32 t = i / wide, column = (i - t * wide) * 8;
            for (i32 j = 0; j < k; ++j) store16(xp + (i64)rows[(t - token) * k + j] * H + column, v[a]);
        }
    }
}

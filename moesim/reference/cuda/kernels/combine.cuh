// What experts made of a token, summed with the token's weights, in the order of its choices.
#pragma once
#include "prims.cuh"

constexpr i32 COMBINE_THREADS = 256, COMBINE_AHEAD = 4;

// Work is cut as in permute. Dynamic shared memory: i32 rows and f32 weights, [(pieces / (H / 8) + 2) * k] each.
// A pair whose expert has no slot adds nothing: its row of y was never written.
extern "C" __global__ void __launch_bounds__(COMBINE_THREADS)
    combine(const u16* y, const i32* place, const i32* ids, const i32* slot_of_expert, const f32* weights, u16* out,
            i32 T, i32 H, i32 k, i32 pieces) {
    DYNAMIC_SHARED(room);
    const i32 wide = H / 8, begin = blockIdx.x * pieces, end = min(T * wide, begin + pieces);
    const i32 token = begin / wide, count = ((end - 1) / wide - token + 1) * k;
    i32* const rows = (i32*)room;
    f32* const shares = (f32*)room + count;
    for (i32 i = threadIdx.x; i < count; i += blockDim.x) {
        const i32 pair = token * k + i;
        rows[i] = slot_of_expert[ids[pair]] < 0 ? -1 : place[pair];
        shares[i] = weights[pair];
    }
    __syncthreads();
    for (i32 i = begin + threadIdx.x; i < end; i += blockDim.x) {
        const i32 t = i / wide, column = (i - t * wide) * 8, at = (t - token) * k;
        f32 sum[8] = {};
        for (i32 j = 0; j < k; j += COMBINE_AHEAD) {
            uint4 v[COMBINE_AHEAD];
            i32 row[COMBINE_AHEAD];
#pragma unroll
            for (i32 a = 0; a < COMBINE_AHEAD; ++a) {
                row[a] = j + a < k ? rows[at + j + a] : -1;
                if (row[a] >= 0) v[a] = load16_streaming(y + (i64)row[a] * H + column);
            }
#pragma unroll
            for (i32 a = 0; a < COMBINE_AHEAD; ++a) {
                if (row[a] < 0) continue;
                const f32 share = shares[at + j + a];
                const u32 words[4] = {v[a].x, v[a].y, v[a].z, v[a].w};
#pragma unroll
                for (i32 w = 0; w < 4; ++w) {
                    sum[2 * w] = fmaf(share, unpack_lo(words[w]), sum[2 * w]);
                    sum[2 * w + 1] = fmaf(share, unpack_hi(words[w]), sum[2 * w + 1]);
                }
            }
        }
        store16(out + (i64)i * 8, make_uint4(pack_bf16(sum[0], sum[1]), pack_bf16(sum[2], sum[3]),
                                             pack_bf16(sum[4], sum[5]), pack_bf16(sum[6], sum[7])));
    }
}

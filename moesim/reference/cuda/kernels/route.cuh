// Which experts a token goes to: logits of the router, then the k best of them.
#pragma once
#include "prims_tensor.cuh"

constexpr i32 ROUTER_TILE = 64, ROUTER_STEP = 64, ROUTER_STAGES = 3, ROUTER_THREADS = 128;
constexpr i32 ROUTER_HALF = ROUTER_TILE * ROUTER_STEP * 2, ROUTER_STAGE = 2 * ROUTER_HALF;  // bytes
constexpr i32 LANE_EXPERTS = 16, MAX_EXPERTS = 32 * LANE_EXPERTS;

// Byte of a 16-byte piece of a row of 128 bytes: pieces are permuted, so that eight rows hit different banks.
static __device__ __forceinline__ i32 router_place(i32 row, i32 piece) {
    return row * (ROUTER_STEP * 2) + ((piece ^ (row & 7)) << 4);
}

// Rows of logits start at multiples of 16 bytes.
static __device__ __forceinline__ i32 logits_pitch(i32 E) { return (E + 3) & ~3; }

// logits[s] = x[:, slab s] router[:, slab s]^T: with few tokens, slabs of the hidden size keep more of the GPU
// reading. The sum over slabs is left to those who read it, in a fixed order. A block makes 64 x 64 of one slab.
extern "C" __global__ void __launch_bounds__(ROUTER_THREADS)
    router_logits(const u16* x, const u16* router, f32* logits, i32 T, i32 H, i32 E, i32 slabs) {
    DYNAMIC_SHARED(ring);
    const i32 lane = threadIdx.x & 31, warp = threadIdx.x / 32, piece = threadIdx.x & 7;
    const i32 across = (E + ROUTER_TILE - 1) / ROUTER_TILE, down = (T + ROUTER_TILE - 1) / ROUTER_TILE;
    const i32 slab = blockIdx.x / (across * down), tile = blockIdx.x % (across * down);
    const i32 token = tile / across * ROUTER_TILE, expert = tile % across * ROUTER_TILE;
    const i32 all = H / ROUTER_STEP, per_slab = (all + slabs - 1) / slabs;
    const i32 begin = slab * per_slab, steps = max(0, min(per_slab, all - begin));

    // Rows behind the last are zeros.
    const auto load = [&](i32 step) {
        if (step < steps) {
            unsigned char* const stage = ring + step % ROUTER_STAGES * ROUTER_STAGE;
            const i64 column = (i64)(begin + step) * ROUTER_STEP + piece * 8;
#pragma unroll
            for (i32 i = 0; i < ROUTER_TILE / (ROUTER_THREADS / 8); ++i) {
                const i32 row = threadIdx.x / 8 + i * (ROUTER_THREADS / 8);
                const bool a = token + row < T, b = expert + row < E;
                cp_async16(stage + router_place(row, piece), x + (i64)(a ? token + row : 0) * H + column, a);
                cp_async16(stage + ROUTER_HALF + router_place(row, piece),
                           router + (i64)(b ? expert + row : 0) * H + column, b);
            }
        }
        cp_async_commit();
    };
    for (i32 step = 0; step < ROUTER_STAGES - 1; ++step) load(step);

    const i32 top = warp / 2 * 32, side = warp % 2 * 32;  // of this warp in the tile
    f32 d[2][4][4] = {};
    for (i32 step = 0; step < steps; ++step) {
        cp_async_wait<ROUTER_STAGES - 2>();
        __syncthreads();  // the step is there, and all have read the stage that is filled next
        load(step + ROUTER_STAGES - 1);
        const unsigned char* const a_rows = ring + step % ROUTER_STAGES * ROUTER_STAGE;
        const unsigned char* const b_rows = a_rows + ROUTER_HALF;
#pragma unroll
        for (i32 part = 0; part < ROUTER_STEP / 16; ++part) {
            u32 a[2][4], b[2][4];
#pragma unroll
            for (i32 i = 0; i < 2; ++i) {
                ldmatrix4(a[i], a_rows + router_place(top + 16 * i + (lane & 15), 2 * part + lane / 16));
                ldmatrix4(b[i], b_rows + router_place(side + 16 * i + (lane / 16) * 8 + (lane & 7),
                                                      2 * part + (lane / 8 & 1)));
            }
#pragma unroll
            for (i32 i = 0; i < 2; ++i)
#pragma unroll
                for (i32 j = 0; j < 4; ++j) mma_16816(d[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
    }
    const i32 pitch = logits_pitch(E);
    f32* const out = logits + (i64)slab * T * pitch;
#pragma unroll
    for (i32 i = 0; i < 2; ++i)
#pragma unroll
        for (i32 j = 0; j < 4; ++j)
#pragma unroll
            for (i32 half = 0; half < 2; ++half) {
                const i32 row = token + top + 16 * i + lane / 4 + half * 8;
                const i32 column = expert + side + 8 * j + lane % 4 * 2;
                if (row < T && column < pitch)
                    *(float2*)(out + (i64)row * pitch + column) = make_float2(d[i][j][2 * half], d[i][j][2 * half + 1]);
            }
}

// A float as an unsigned number of the same order. Zero of either sign is one number; 0 is below all numbers.
static __device__ __forceinline__ u32 ordered(f32 x) {
    const u32 bits = __float_as_uint(x + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
static __device__ __forceinline__ f32 from_ordered(u32 key) {
    return __uint_as_float(key >> 31 ? key & 0x7FFFFFFFu : ~key);
}

// One token's k best experts (a warp's work; k <= 32, E <= MAX_EXPERTS). Ties go to the lower id; best first. With
// `forced` ids the choice is made and set aside. Weights are the softmax of all logits, or of the chosen ones.
static __device__ __forceinline__ void choose(const f32* logits, const i32* forced, i32* ids, f32* weights, i32 token,
                                              i32 T, i32 E, i32 k, i32 slabs, i32 renormalise) {
    const u32 full = 0xFFFFFFFFu;
    const i32 lane = threadIdx.x & 31, pitch = logits_pitch(E);
    const f32* const row = logits + (i64)token * pitch;
    // A lane has experts 128 j + 4 lane + q, with q below 4; the key of one that is not there is 0.
    u32 keys[LANE_EXPERTS];
    u32 most = 0;
#pragma unroll
    for (i32 j = 0; j < LANE_EXPERTS / 4; ++j) {
        const i32 expert = 128 * j + 4 * lane;
        f32 sum[4] = {};
#pragma unroll 8
        for (i32 slab = 0; slab < slabs; ++slab)
            if (expert < E) {
                const float4 part = *(const float4*)(row + (i64)slab * T * pitch + expert);
                sum[0] += part.x, sum[1] += part.y, sum[2] += part.z, sum[3] += part.w;
            }
#pragma unroll
        for (i32 q = 0; q < 4; ++q) {
            keys[4 * j + q] = expert + q < E ? ordered(sum[q]) : 0;
            most = max(most, keys[4 * j + q]);
        }
    }
    const f32 peak = from_ordered(__reduce_max_sync(full, most));
    f32 total = 0.0f;
#pragma unroll
    for (i32 n = 0; n < LANE_EXPERTS; ++n)
        if (keys[n]) total += fast_exp(from_ordered(keys[n]) - peak);
    total = warp_sum(total);

    i32 id = 0;
    f32 value = 0.0f;  // lane i keeps the i-th choice
    for (i32 i = 0; i < k; ++i) {
        u32 best = 0, at = full;
#pragma unroll
        for (i32 n = 0; n < LANE_EXPERTS; ++n)
            if (keys[n] > best) best = keys[n], at = n / 4 * 128 + 4 * lane + n % 4;
        const u32 winner = __reduce_max_sync(full, best);
        const u32 chosen = __reduce_min_sync(full, best == winner ? at : full);
#pragma unroll
        for (i32 n = 0; n < LANE_EXPERTS; ++n)
            if (chosen == (u32)(n / 4 * 128 + 4 * lane + n % 4)) keys[n] = 0;
        if (lane == i) id = (i32)chosen, value = from_ordered(winner);
    }
    if (forced && lane < k) {
        id = forced[(i64)token * k + lane];
        value = 0.0f;
        for (i32 slab = 0; slab < slabs; ++slab) value += row[(i64)slab * T * pitch + id];
    }
    const f32 weight = lane < k ? fast_exp(value - peak) : 0.0f;
    const f32 chosen_total = warp_sum(weight);
    if (lane < k) {
        ids[(i64)token * k + lane] = id;
        weights[(i64)token * k + lane] = weight / (renormalise ? chosen_total : total);
    }
}

// A warp for each token.
extern "C" __global__ void __launch_bounds__(128, 8)
    top_k(const f32* logits, const i32* forced, i32* ids, f32* weights, i32 T, i32 E, i32 k, i32 slabs,
          i32 renormalise) {
    const i32 token = (i32)((blockIdx.x * blockDim.x + threadIdx.x) / 32);
    if (token < T) choose(logits, forced, ids, weights, token, T, E, k, slabs, renormalise);
}

// What a warp does together, over the primitives of either kind.
#pragma once

static __device__ __forceinline__ f32 warp_sum(f32 x) {
    for (int step = 16; step; step >>= 1) x += __shfl_xor_sync(0xFFFFFFFFu, x, step);
    return x;
}
static __device__ __forceinline__ f32 warp_max(f32 x) {
    for (int step = 16; step; step >>= 1) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, step));
    return x;
}
// Sum of the lanes below and of this one.
static __device__ __forceinline__ i32 warp_scan(i32 x) {
    for (int step = 1; step < 32; step <<= 1) {
        const i32 below = __shfl_up_sync(0xFFFFFFFFu, x, step);
        if ((threadIdx.x & 31) >= (u32)step) x += below;
    }
    return x;
}

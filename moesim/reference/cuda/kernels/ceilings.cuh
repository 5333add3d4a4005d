// What a device can do at most: nothing, as often as possible; reading, writing and copying.
#include "prims.cuh"

extern "C" __global__ void empty_kernel(u32* sink) {
    if (blockIdx.x > 1000000) sink[0] = 1;
}

// Sizes are in words of 16 bytes. What was read goes nowhere, but the compiler cannot know.
extern "C" __global__ void read_bytes(const uint4* from, u32* sink, i64 words) {
    const i64 step = (i64)gridDim.x * blockDim.x;
    u32 seen = 0;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += 4 * step) {
        uint4 v[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const i64 at = i + j * step;
            v[j] = load16_streaming(from + (at < words ? at : i));
        }
#pragma unroll
        for (int j = 0; j < 4; j++) seen ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    if (seen == 0x9E3779B9u) sink[0] = seen;
}

extern "C" __global__ void write_bytes(uint4* to, u32 value, i64 words) {
    const i64 step = (i64)gridDim.x * blockDim.x;
    uint4 v;
    v.x = v.y = v.z = v.w = value;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += step) store16_streaming(to + i, v);
}

extern "C" __global__ void copy_bytes(const uint4* from, uint4* to, i64 words) {
    const i64 step = (i64)gridDim.x * blockDim.x;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += 4 * step) {
        uint4 v[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const i64 at = i + j * step;
            v[j] = load16_streaming(from + (at < words ? at : i));
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const i64 at = i + j * step;
            if (at < words) store16_streaming(to + at, v[j]);
        }
    }
}

// Read memory and keep nothing: what was in the second-level cache leaves it.
#pragma once
#include "prims.cuh"

// units: of 16 bytes. sink is written to only if the memory holds what it never does, so that reads stay.
extern "C" __global__ void __launch_bounds__(256) read_all(const uint4* memory, i64 units, u32* sink) {
    u32 mixed = 0;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < units; i += (i64)gridDim.x * blockDim.x) {
        uint4 v = load16(memory + i);
        mixed |= v.x ^ v.y ^ v.z ^ v.w;
    }
    if (mixed == 0x9E3779B9u) sink[0] = mixed;
}

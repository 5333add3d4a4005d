// Base primitives on the device: what CUDA does not have without its headers.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;
typedef float f32;

#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

// --- bf16 -----------------------------------------------------------------------------------------------------
static __device__ __forceinline__ f32 from_bf16(u16 x) { return __uint_as_float((u32)x << 16); }
static __device__ __forceinline__ f32 unpack_lo(u32 pair) { return __uint_as_float(pair << 16); }
static __device__ __forceinline__ f32 unpack_hi(u32 pair) { return __uint_as_float(pair & 0xFFFF0000u); }
// Two values to one word, the first in the low half; nearest, ties to even.
static __device__ __forceinline__ u32 pack_bf16(f32 lo, f32 hi) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(hi), "f"(lo));
    return pair;
}
static __device__ __forceinline__ u16 to_bf16(f32 x) { return (u16)pack_bf16(x, 0.0f); }

// --- memory ---------------------------------------------------------------------------------------------------
static __device__ __forceinline__ uint4 load16(const void* p) {
    uint4 v;
    asm volatile("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
// Read once: not kept in the first cache.
static __device__ __forceinline__ uint4 load16_streaming(const void* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}
// What another block may have written while this one ran: past the first cache, which does not see it.
static __device__ __forceinline__ i32 load_through(const i32* p) {
    i32 x;
    asm volatile("ld.global.cg.s32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
    return x;
}
static __device__ __forceinline__ void store16(void* p, uint4 v) { *(uint4*)p = v; }
static __device__ __forceinline__ void store16_streaming(void* p, uint4 v) {
    asm volatile("st.global.cs.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}

// --- arithmetic -----------------------------------------------------------------------------------------------
static __device__ __forceinline__ f32 fast_exp2(f32 x) {
    f32 y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
static __device__ __forceinline__ f32 fast_exp(f32 x) { return fast_exp2(x * 1.44269504f); }

// --- barriers -------------------------------------------------------------------------------------------------
static __device__ __forceinline__ void bar_sync(u32 id, u32 threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
static __device__ __forceinline__ void bar_arrive(u32 id, u32 threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// In a loop that waits for another thread's write.
static __device__ __forceinline__ void pause_thread() { asm volatile("nanosleep.u32 20;"); }

#include "prims_warp.cuh"

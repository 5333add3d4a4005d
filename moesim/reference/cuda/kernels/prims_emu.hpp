// Base primitives on the host: CUDA's own names and ours, over fibers.
#pragma once
#include "fibers.hpp"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;
typedef int32_t i32;
typedef long long i64;
typedef float f32;

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __shared__ MOESIM_SHARED
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__
#define __align__(n) __attribute__((aligned(n)))
#define DYNAMIC_SHARED(name) unsigned char* const name = emu::block().shared

// As <cmath> declares them, which takes long to read.
extern "C" {
float exp2f(float) noexcept;
float expf(float) noexcept;
float fabsf(float) noexcept;
float fmaf(float, float, float) noexcept;
float fmaxf(float, float) noexcept;
float fminf(float, float) noexcept;
float sqrtf(float) noexcept;
}

// --- vectors --------------------------------------------------------------------------------------------------
struct alignas(8) int2 { i32 x, y; };
struct alignas(16) int4 { i32 x, y, z, w; };
struct alignas(8) uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct alignas(8) float2 { f32 x, y; };
struct alignas(16) float4 { f32 x, y, z, w; };
static inline int2 make_int2(i32 x, i32 y) { return {x, y}; }
static inline int4 make_int4(i32 x, i32 y, i32 z, i32 w) { return {x, y, z, w}; }
static inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
static inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
static inline float2 make_float2(f32 x, f32 y) { return {x, y}; }
static inline float4 make_float4(f32 x, f32 y, f32 z, f32 w) { return {x, y, z, w}; }

// --- where a thread is ----------------------------------------------------------------------------------------
namespace emu {
struct Place {
    unsigned x, y, z;
};
static inline Place thread_place() { return {running->id, 0, 0}; }
static inline Place block_place() { return {current_block.index, 0, 0}; }
static inline Place block_size() { return {current_block.threads, 1, 1}; }
static inline Place grid_size() { return {current_block.grid, 1, 1}; }
}  // namespace emu
#define threadIdx (emu::thread_place())
#define blockIdx (emu::block_place())
#define blockDim (emu::block_size())
#define gridDim (emu::grid_size())

// --- arithmetic -----------------------------------------------------------------------------------------------
static inline i32 min(i32 a, i32 b) { return a < b ? a : b; }
static inline i32 max(i32 a, i32 b) { return a < b ? b : a; }
static inline u32 min(u32 a, u32 b) { return a < b ? a : b; }
static inline u32 max(u32 a, u32 b) { return a < b ? b : a; }
static inline i64 min(i64 a, i64 b) { return a < b ? a : b; }
static inline i64 max(i64 a, i64 b) { return a < b ? b : a; }
static inline f32 min(f32 a, f32 b) { return fminf(a, b); }
static inline f32 max(f32 a, f32 b) { return fmaxf(a, b); }
static inline f32 __uint_as_float(u32 x) { f32 y; std::memcpy(&y, &x, 4); return y; }
static inline u32 __float_as_uint(f32 x) { u32 y; std::memcpy(&y, &x, 4); return y; }
static inline f32 __int_as_float(i32 x) { return __uint_as_float((u32)x); }
static inline i32 __float_as_int(f32 x) { return (i32)__float_as_uint(x); }
static inline i32 __popc(u32 x) { return __builtin_popcount(x); }
static inline i32 __clz(i32 x) { return x ? __builtin_clz((u32)x) : 32; }
static inline i32 __ffs(i32 x) { return __builtin_ffs(x); }
static inline f32 __fdividef(f32 a, f32 b) { return a / b; }
static inline f32 fast_exp2(f32 x) { return exp2f(x); }
static inline f32 fast_exp(f32 x) { return exp2f(x * 1.44269504f); }

// --- bf16 -----------------------------------------------------------------------------------------------------
static inline f32 from_bf16(u16 x) { return __uint_as_float((u32)x << 16); }
static inline f32 unpack_lo(u32 pair) { return __uint_as_float(pair << 16); }
static inline f32 unpack_hi(u32 pair) { return __uint_as_float(pair & 0xFFFF0000u); }
static inline u16 to_bf16(f32 x) {
    const u32 bits = __float_as_uint(x);
    if (x != x) return 0x7FFF;
    return (u16)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
static inline u32 pack_bf16(f32 lo, f32 hi) { return (u32)to_bf16(lo) | (u32)to_bf16(hi) << 16; }

// --- memory ---------------------------------------------------------------------------------------------------
namespace emu {
template <class P>
static inline P aligned(P p, unsigned bytes) {
    if (reinterpret_cast<uintptr_t>(p) % bytes) fail("misaligned access: %p is no multiple of %u", (const void*)p, bytes);
    return p;
}
}  // namespace emu
static inline uint4 load16(const void* p) { return *static_cast<const uint4*>(emu::aligned(p, 16)); }
static inline uint4 load16_streaming(const void* p) { return load16(p); }
static inline i32 load_through(const i32* p) { return *emu::aligned(p, 4); }
static inline void store16(void* p, uint4 v) { *static_cast<uint4*>(emu::aligned(p, 16)) = v; }
static inline void store16_streaming(void* p, uint4 v) { store16(p, v); }
template <class T>
static inline T __ldg(const T* p) { return *emu::aligned(p, alignof(T)); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}

template <class T>
static inline T atomicAdd(T* p, T x) { const T old = *p; *p = old + x; return old; }
template <class T>
static inline T atomicMax(T* p, T x) { const T old = *p; *p = old < x ? x : old; return old; }
template <class T>
static inline T atomicMin(T* p, T x) { const T old = *p; *p = x < old ? x : old; return old; }
template <class T>
static inline T atomicExch(T* p, T x) { const T old = *p; *p = x; return old; }
template <class T>
static inline T atomicCAS(T* p, T expected, T x) { const T old = *p; if (old == expected) *p = x; return old; }
static inline u32 atomicInc(u32* p, u32 last) { const u32 old = *p; *p = old >= last ? 0 : old + 1; return old; }

// --- barriers -------------------------------------------------------------------------------------------------
static inline void __syncthreads() { emu::sync_all(); }
static inline void bar_sync(u32 id, u32 threads) { emu::barrier_sync(id, threads); }
static inline void bar_arrive(u32 id, u32 threads) { emu::barrier_arrive(id, threads); }
static inline void pause_thread() { emu::yield(); }

// --- warps ----------------------------------------------------------------------------------------------------
static inline void __syncwarp(u32 mask = 0xFFFFFFFFu) { emu::gather(mask, 0, "__syncwarp"); }
template <class T>
static inline T __shfl_sync(u32 mask, T x, i32 lane, i32 width = 32) {
    const i32 from = (i32)(emu::self().lane & ~(u32)(width - 1)) | (lane & (width - 1));
    return emu::gather(mask, x, "__shfl_sync")[from];
}
template <class T>
static inline T __shfl_xor_sync(u32 mask, T x, i32 bits, i32 width = 32) {
    const u32 own = emu::self().lane, from = own ^ (u32)bits;
    return emu::gather(mask, x, "__shfl_xor_sync")[from / (u32)width > own / (u32)width ? own : from];
}
template <class T>
static inline T __shfl_up_sync(u32 mask, T x, u32 delta, i32 width = 32) {
    const u32 own = emu::self().lane;
    return emu::gather(mask, x, "__shfl_up_sync")[own % (u32)width < delta ? own : own - delta];
}
template <class T>
static inline T __shfl_down_sync(u32 mask, T x, u32 delta, i32 width = 32) {
    const u32 own = emu::self().lane;
    return emu::gather(mask, x, "__shfl_down_sync")[own % (u32)width + delta >= (u32)width ? own : own + delta];
}
static inline u32 __ballot_sync(u32 mask, i32 x) {
    const bool* all = emu::gather(mask, x != 0, "__ballot_sync");
    u32 bits = 0;
    for (u32 lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1 && all[lane]) bits |= 1u << lane;
    return bits;
}
static inline i32 __any_sync(u32 mask, i32 x) { return __ballot_sync(mask, x) != 0; }
static inline i32 __all_sync(u32 mask, i32 x) { return __ballot_sync(mask, x) == mask; }
template <class T>
static inline u32 __match_any_sync(u32 mask, T x) {
    const T* all = emu::gather(mask, x, "__match_any_sync");
    u32 bits = 0;
    for (u32 lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1 && all[lane] == x) bits |= 1u << lane;
    return bits;
}
template <class T>
static inline T __reduce_max_sync(u32 mask, T x) {
    const T* all = emu::gather(mask, x, "__reduce_max_sync");
    for (u32 lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1 && x < all[lane]) x = all[lane];
    return x;
}
template <class T>
static inline T __reduce_min_sync(u32 mask, T x) {
    const T* all = emu::gather(mask, x, "__reduce_min_sync");
    for (u32 lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1 && all[lane] < x) x = all[lane];
    return x;
}
template <class T>
static inline T __reduce_add_sync(u32 mask, T x) {
    const T* all = emu::gather(mask, x, "__reduce_add_sync");
    T sum = 0;
    for (u32 lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) sum += all[lane];
    return sum;
}

#include "prims_warp.cuh"

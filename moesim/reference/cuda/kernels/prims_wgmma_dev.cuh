// wgmma (sm_90a): products of a warpgroup, d [64, N] += a [64, 16] b [N, 16]^T, bf16 to fp32, both from shared memory.
//
// PTX wgmma.mma_async: a and b are 64-bit matrix descriptors; then scale-d (a predicate: 0 starts from zero),
// imm-scale-a and -b (1), imm-trans-a and -b (0: both have K contiguous). Of d a thread holds, with warp w of its
// warpgroup and lane l, rows 16 w + l / 4 and that plus 8, of every 8 columns the pair l % 4: d[4 j + 0, 1] of the
// first row, d[4 j + 2, 3] of the second, columns 8 j + 2 (l % 4) + 0, 1.
#pragma once

// Orders this thread's accesses to registers before the products that follow; needed before the first of them.
static __device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
static __device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most N groups of products are under way.
template <int N>
static __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// Keeps the compiler from moving accesses to accumulators across this point (CUTLASS: warpgroup_fence_operand).
template <int N>
static __device__ __forceinline__ void hold(f32 (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

template <int N>
struct Wgmma;

// Operands of eight registers each, and their names in the text.
#define D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define D16(i) D8(i), D8(i + 8)
#define D32(i) D16(i), D16(i + 16)
#define D64(i) D32(i), D32(i + 32)
#define D128(i) D64(i), D64(i + 64)

#define N4 "%0, %1, %2, %3"
#define N8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define N16 N8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define N32 N16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define N64 N32 \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
    ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define N128 N64 \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
    ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95" \
    ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
    ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define WGMMA(N, REGISTERS, NAMES, OPERANDS, A, B, P)                                                              \
    template <>                                                                                                    \
    struct Wgmma<N> {                                                                                              \
        static __device__ __forceinline__ void product(f32 (&d)[REGISTERS], u64 a, u64 b, i32 accumulate) {        \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " P ", 0;\n"                                            \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" NAMES "}, " A ", " B          \
                         ", p, 1, 1, 0, 0;\n}"                                                                     \
                         : OPERANDS                                                                                \
                         : "l"(a), "l"(b), "r"(accumulate));                                                       \
        }                                                                                                          \
    };
#define D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
WGMMA(8, 4, N4, D4(0), "%4", "%5", "%6")
WGMMA(16, 8, N8, D8(0), "%8", "%9", "%10")
WGMMA(32, 16, N16, D16(0), "%16", "%17", "%18")
WGMMA(64, 32, N32, D32(0), "%32", "%33", "%34")
WGMMA(128, 64, N64, D64(0), "%64", "%65", "%66")
WGMMA(256, 128, N128, D128(0), "%128", "%129", "%130")

template <int N>
static __device__ __forceinline__ void wgmma(f32 (&d)[N / 2], u64 a, u64 b, i32 accumulate) {
    Wgmma<N>::product(d, a, b, accumulate);
}
#undef D4
#undef D8
#undef D16
#undef D32
#undef D64
#undef D128
#undef N4
#undef N8
#undef N16
#undef N32
#undef N64
#undef N128
#undef WGMMA

// Tensor cores and asynchronous copies on the device. "PTX" with a name is that instruction's page of the PTX ISA.
#pragma once

static __device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
[[noreturn]] static __device__ __forceinline__ void trap() {
    asm volatile("trap;");
    __builtin_unreachable();
}

// --- sm_80: copies of 16 bytes ----------------------------------------------------------------------------------
// PTX cp.async: with a source size of 0 nothing is read and 16 zeros are written. `.cg` keeps out of the first cache.
static __device__ __forceinline__ void cp_async16(void* shared, const void* global, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(inside ? 16 : 0)
                 : "memory");
}
static __device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most N groups of this thread are under way.
template <int N>
static __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// --- sm_80: matrices of a warp ----------------------------------------------------------------------------------
// PTX ldmatrix: lanes 8i..8i+7 give the rows of matrix i; a lane gets, of each matrix, the pair lane % 4 of row
// lane / 4.
static __device__ __forceinline__ void ldmatrix4(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
// PTX mma, m16n8k16 with bf16: d += a b. Of d a lane holds, of the rows lane / 4 and that plus 8, the pair lane % 4.
static __device__ __forceinline__ void mma_16816(f32 (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// PTX movmatrix: an 8 x 8 matrix of halves, held as ldmatrix gives it, transposed.
static __device__ __forceinline__ u32 transpose_8x8(u32 x) {
    u32 y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

// --- sm_90: barriers in shared memory ---------------------------------------------------------------------------
// PTX mbarrier: a phase ends when `count` arrivals have come and as many bytes as were announced.
static __device__ __forceinline__ void mbarrier_init(u64* barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
}
// Makes fresh barriers seen by the copy engine (CUTLASS: fence_barrier_init and fence_view_async_shared; DeepGEMM
// does both too). The block still has to meet.
static __device__ __forceinline__ void mbarrier_init_done() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
static __device__ __forceinline__ void mbarrier_arrive(u64* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Announce bytes, then arrive.
static __device__ __forceinline__ void mbarrier_expect(u64* barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}
// Until the phase of this parity has ended. A fresh barrier is in phase 0: parity 1 is let through at once.
static __device__ __forceinline__ void mbarrier_wait(u64* barrier, u32 parity) {
    u32 done;
    do {
        asm volatile(
            "{\n.reg .pred p;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
            "selp.u32 %0, 1, 0, p;\n}"
            : "=r"(done)
            : "r"(shared_address(barrier)), "r"(parity)
            : "memory");
    } while (!done);
}

// --- sm_90: copies of boxes of a tensor (TMA) --------------------------------------------------------------------
// What the driver's cuTensorMapEncodeTiled writes; opaque, and passed by value as a __grid_constant__ parameter.
struct alignas(64) TensorMap {
    u64 opaque[16];
};
static __device__ __forceinline__ void prefetch_map(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
// PTX cp.async.bulk.tensor: the box whose first element is (row, column); its bytes are told to the barrier.
static __device__ __forceinline__ void tma_load(void* shared, const TensorMap* map, u64* barrier, i32 column, i32 row) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
            shared_address(shared)),
        "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row)
        : "memory");
}

// --- sm_90a: registers of a warpgroup (PTX setmaxnreg: multiples of 8 from 24 to 256) ----------------------------
template <int N>
static __device__ __forceinline__ void registers_give() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
static __device__ __forceinline__ void registers_take() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

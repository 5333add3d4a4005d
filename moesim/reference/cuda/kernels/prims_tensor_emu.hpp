// Tensor cores and asynchronous copies on the host: what the PTX ISA says of them, done late.
//
// Copies land some turns after they were asked for, and products are computed when they are waited for, so that a
// thread that does not wait reads what was there before (poison, or the stage's last content). Matrix descriptors
// and swizzles are decoded bit by bit: a wrong field reads other bytes, as on the device.
#pragma once
#include <deque>

#include "prims_emu.hpp"

using emu::shared_address;
[[noreturn]] static inline void trap() { emu::fail("trap"); }

namespace emu {

// A number of turns, different from call to call, and the same whenever a launch is repeated.
struct Chance {
    unsigned state = 1;
};
static inline unsigned some_turns(unsigned below) {
    unsigned& state = block_state<Chance>()->state;
    state = state * 1664525u + 1013904223u;
    return (state >> 16) % below;
}

// Swizzles move 16-byte pieces: XOR of address bits 4.. with bits 7.. (CuTe: Swizzle<bits, 4, 3>).
static inline unsigned swizzled(unsigned address, unsigned bits) {
    return address ^ ((address >> 7 & ((1u << bits) - 1)) << 4);
}

}  // namespace emu

// --- sm_80: copies of 16 bytes ----------------------------------------------------------------------------------
namespace emu {
struct Copy {
    void* to;
    const void* from;
    bool inside;
    void run() const {
        if (inside)
            std::memcpy(to, from, 16);
        else
            std::memset(to, 0, 16);
    }
};
// Of one thread: groups that are committed, the last one still open.
struct Copies {
    std::deque<std::vector<Copy>> groups{1};
};
}  // namespace emu

static inline void cp_async16(void* shared, const void* global, bool inside) {
    emu::aligned(shared, 16), emu::aligned(global, 16), shared_address(shared);
    const emu::Copy copy{shared, global, inside};
    // At once or at the last moment: both are allowed.
    if (emu::some_turns(2))
        copy.run();
    else
        emu::thread_state<emu::Copies>()->groups.back().push_back(copy);
}
static inline void cp_async_commit() { emu::thread_state<emu::Copies>()->groups.emplace_back(); }
template <int N>
static inline void cp_async_wait() {
    auto& groups = emu::thread_state<emu::Copies>()->groups;
    while (groups.size() > N + 1) {
        for (const auto& copy : groups.front()) copy.run();
        groups.pop_front();
    }
}

// --- sm_80: matrices of a warp ----------------------------------------------------------------------------------
static inline void ldmatrix4(u32 (&r)[4], const void* row) {
    const u32* const rows = emu::gather(0xFFFFFFFFu, shared_address(emu::aligned(row, 16)), "ldmatrix");
    const u32 lane = emu::self().lane;
    for (u32 i = 0; i < 4; ++i) std::memcpy(&r[i], emu::shared_pointer(rows[8 * i + lane / 4] + lane % 4 * 4), 4);
}

namespace emu {
struct Fragments {
    u32 a[4], b[2];
};
}  // namespace emu

static inline void mma_16816(f32 (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    const emu::Fragments* const all =
        emu::gather(0xFFFFFFFFu, emu::Fragments{{a[0], a[1], a[2], a[3]}, {b0, b1}}, "mma");
    const u32 lane = emu::self().lane, quad = lane / 4, pair = lane % 4;
    for (u32 half = 0; half < 2; ++half)        // rows quad and quad + 8
        for (u32 side = 0; side < 2; ++side) {  // columns 2 pair and 2 pair + 1
            f32 sum = 0;
            for (u32 part = 0; part < 2; ++part)  // k from 0 and from 8
                for (u32 q = 0; q < 4; ++q) {
                    const u32 x = all[4 * quad + q].a[2 * part + half], y = all[4 * (2 * pair + side) + q].b[part];
                    sum += unpack_lo(x) * unpack_lo(y) + unpack_hi(x) * unpack_hi(y);
                }
            d[2 * half + side] += sum;
        }
}
static inline u32 transpose_8x8(u32 x) {
    const u32* const all = emu::gather(0xFFFFFFFFu, x, "movmatrix");
    const u32 lane = emu::self().lane, row = lane / 4, column = lane % 4 * 2;  // of the result
    const u32 lo = all[4 * column + row / 2], hi = all[4 * (column + 1) + row / 2];
    return row % 2 ? lo >> 16 | (hi & 0xFFFF0000u) : (lo & 0xFFFF) | hi << 16;
}

// --- sm_90: barriers in shared memory ---------------------------------------------------------------------------
namespace emu {

// The eight bytes of a barrier. The mark tells one that was never made.
struct Phase {
    u64 pending : 12, expected : 12, parity : 1, mark : 15;
    i64 bytes : 24;
};
static_assert(sizeof(Phase) == 8, "a barrier is a word");
constexpr u64 phase_mark = 0x5AFE;

// Whether barriers were made that the copy engine was not yet told of.
struct Fresh {
    bool barriers = false;
};

static inline Phase* phase_at(u64* barrier) {
    shared_address(aligned(barrier, 8));
    Phase* p = reinterpret_cast<Phase*>(barrier);
    if (p->mark != phase_mark) fail("a barrier at 0x%x was not made", shared_address(barrier));
    return p;
}
static inline void settle(Phase* p) {
    if (p->pending || p->bytes) return;
    p->pending = p->expected;
    p->parity ^= 1;
}
static inline void arrive(u64* barrier) {
    Phase* p = phase_at(barrier);
    if (!p->pending) fail("barrier 0x%x: one arrival too many", shared_address(barrier));
    p->pending -= 1;
    settle(p);
}

}  // namespace emu

static inline void mbarrier_init(u64* barrier, u32 count) {
    shared_address(emu::aligned(barrier, 8));
    emu::Phase p{};
    p.pending = p.expected = count;
    p.mark = emu::phase_mark;
    std::memcpy(barrier, &p, 8);
    emu::block_state<emu::Fresh>()->barriers = true;
}
static inline void mbarrier_init_done() { emu::block_state<emu::Fresh>()->barriers = false; }
static inline void mbarrier_arrive(u64* barrier) { emu::arrive(barrier); }
static inline void mbarrier_expect(u64* barrier, u32 bytes) {
    emu::phase_at(barrier)->bytes += bytes;
    emu::arrive(barrier);
}
static inline void mbarrier_wait(u64* barrier, u32 parity) {
    const emu::Phase* p = emu::phase_at(barrier);
    emu::wait_until([p, parity] { return p->parity != (parity & 1); }, "an mbarrier");
}

// --- sm_90: copies of boxes of a tensor (TMA) --------------------------------------------------------------------
// Our own map of a tensor of two dimensions of 16-bit elements; the driver's is opaque.
struct alignas(64) TensorMap {
    u64 mark, address, size[2], pitch_bytes;
    u32 box[2], swizzle;
    u32 unused[19];
};
static_assert(sizeof(TensorMap) == 128, "as large as the driver's");

// As cuTensorMapEncodeTiled: 0 if it can be, else 1. `swizzle`: 0 none, 1, 2, 3: 32, 64, 128 bytes.
extern "C" __attribute__((visibility("default"))) int encode_tensor_map(TensorMap* map, u64 address, u64 columns,
                                                                        u64 rows, u64 pitch_bytes, u32 box_columns,
                                                                        u32 box_rows, u32 swizzle) {
    const u64 limit = (u64)1 << 32;
    const bool fits = address % 16 == 0 && columns && rows && columns <= limit && rows <= limit &&
                      pitch_bytes % 16 == 0 && pitch_bytes >= 2 * columns && pitch_bytes < (u64)1 << 40 &&
                      box_columns && box_rows && box_columns <= 256 && box_rows <= 256 && box_columns * 2 % 16 == 0 &&
                      swizzle <= 3 && (!swizzle || box_columns * 2 <= 16u << swizzle);
    if (!fits) return 1;
    *map = TensorMap{0x7E4504, address, {columns, rows}, pitch_bytes, {box_columns, box_rows}, swizzle, {}};
    return 0;
}
static inline void prefetch_map(const TensorMap*) {}
static inline void tma_load(void* shared, const TensorMap* where, u64* barrier, i32 column, i32 row) {
    const TensorMap map = *where;
    const u32 to = shared_address(emu::aligned(shared, 128));
    if (map.mark != 0x7E4504) emu::fail("a tensor map that was not encoded");
    emu::phase_at(barrier);
    if (emu::block_state<emu::Fresh>()->barriers) emu::fail("the copy engine was not told of the barriers");
    emu::defer(1 + emu::some_turns(4), [map, to, barrier, column, row] {
        const u32 line = map.box[0] * 2;
        for (u32 r = 0; r < map.box[1]; ++r)
            for (u32 piece = 0; piece < line; piece += 16) {
                unsigned char* at = emu::shared_pointer(emu::swizzled(to + r * line + piece, map.swizzle));
                for (u32 i = 0; i < 8; ++i) {
                    const i64 x = (i64)column + piece / 2 + i, y = (i64)row + r;
                    u16 value = 0;  // outside of the tensor
                    if (x >= 0 && y >= 0 && (u64)x < map.size[0] && (u64)y < map.size[1])
                        std::memcpy(&value, (const char*)map.address + (u64)y * map.pitch_bytes + 2 * x, 2);
                    std::memcpy(at + 2 * i, &value, 2);
                }
            }
        emu::Phase* p = emu::phase_at(barrier);
        p->bytes -= line * map.box[1];
        emu::settle(p);
    });
}

// --- sm_90a: registers of a warpgroup -----------------------------------------------------------------------------
// Given and taken once by every warpgroup, all of its threads together; who takes waits until others have given.
// At its start a thread has its share of the multiprocessor's 65536, in eights (one block, as launch bounds say).
namespace emu {
struct Registers {
    i32 spare = 0;
};
static inline void change_registers(i32 to) {
    const i32 start = 65536 / (i32)block().threads / 8 * 8;
    meet(self().id / 128 * 128, 128, "its warpgroup (setmaxnreg)");
    i32& spare = block_state<Registers>()->spare;
    if (self().id % 128) return;
    wait_until([&spare, to, start] { return spare >= to - start; }, "registers");
    spare -= to - start;
}
}  // namespace emu
template <int N>
static inline void registers_give() {
    static_assert(N >= 24 && N <= 256 && N % 8 == 0, "setmaxnreg");
    emu::change_registers(N);
}
template <int N>
static inline void registers_take() {
    static_assert(N >= 24 && N <= 256 && N % 8 == 0, "setmaxnreg");
    emu::change_registers(N);
}

// --- sm_90a: wgmma ----------------------------------------------------------------------------------------------
namespace emu {

struct Product {
    u64 a, b;
    int n, accumulate;
    unsigned issued;      // threads of the warpgroup that have issued it
    f32* d[128];
};
// Of one warpgroup.
struct Products {
    std::deque<Product> waiting;
    u64 first = 0;  // number of the first one waiting
};
// Of one thread.
struct Issued {
    u64 products = 0;
    bool fenced = false;
    std::deque<u64> groups;  // products before the end of each group that is under way
};
struct AllProducts {
    Products of[max_threads / 128];
};
static inline Products& products() { return block_state<AllProducts>()->of[self().id / 128]; }

// Element pairs [rows, 16] of a matrix with K contiguous, read through its descriptor (PTX: "Matrix Descriptor
// Format", "Strides" and the canonical layouts of K-major).
static inline void read_matrix(u64 descriptor, int rows, f32 (*values)[16]) {
    const u32 start = (u32)(descriptor & 0x3FFF) << 4, leading = (u32)(descriptor >> 16 & 0x3FFF) << 4;
    const u32 stride = (u32)(descriptor >> 32 & 0x3FFF) << 4, mode = (u32)(descriptor >> 62);
    if (descriptor >> 49 & 7) fail("base offsets of matrices are not emulated");
    static const u32 bits_of[4] = {0, 3, 2, 1};  // none, 128, 64, 32 bytes
    const u32 bits = bits_of[mode], line = 16u << bits;
    for (int r = 0; r < rows; ++r)
        for (int piece = 0; piece < 2; ++piece) {
            const u32 along = mode ? (u32)piece * 16 : (u32)piece * leading;
            const u32 at = start + (u32)(r / 8) * stride + (u32)(r % 8) * line + along;
            const unsigned char* p = shared_pointer(swizzled(at, bits));
            shared_pointer(swizzled(at, bits) + 15);
            for (int i = 0; i < 8; ++i) {
                u16 x;
                std::memcpy(&x, p + 2 * i, 2);
                values[r][8 * piece + i] = from_bf16(x);
            }
        }
}

static inline void compute(const Product& product) {
    static f32 a[64][16], b[256][16], across[16][256], d[64][256];
    const int n = product.n;
    read_matrix(product.a, 64, a);
    read_matrix(product.b, n, b);
    for (int k = 0; k < 16; ++k)
        for (int j = 0; j < n; ++j) across[k][j] = b[j][k];
    for (int i = 0; i < 64; ++i) {
        for (int j = 0; j < n; ++j) d[i][j] = 0;
        for (int k = 0; k < 16; ++k) {
            const f32 x = a[i][k];
            for (int j = 0; j < n; ++j) d[i][j] += x * across[k][j];
        }
    }
    for (int t = 0; t < 128; ++t)
        for (int j = 0; j < n / 8; ++j)
            for (int i = 0; i < 4; ++i) {
                f32& to = product.d[t][4 * j + i];
                to = (product.accumulate ? to : 0) + d[t / 32 * 16 + t % 32 / 4 + i / 2 * 8][8 * j + t % 4 * 2 + i % 2];
            }
}

// The warpgroup meets; then all products before number `end` are computed, by whoever comes first.
static inline void finish_products(u64 end) {
    meet(self().id / 128 * 128, 128, "its warpgroup (wgmma)");
    Products& p = products();
    for (; p.first < end; ++p.first) {
        if (p.waiting.front().issued != 128) fail("wgmma was not issued by a whole warpgroup");
        compute(p.waiting.front());
        p.waiting.pop_front();
    }
}

}  // namespace emu

static inline void wgmma_fence() { emu::thread_state<emu::Issued>()->fenced = true; }
static inline void wgmma_commit() {
    emu::Issued* own = emu::thread_state<emu::Issued>();
    own->groups.push_back(own->products);
}
template <int N>
static inline void wgmma_wait() {
    emu::Issued* own = emu::thread_state<emu::Issued>();
    u64 end = 0;
    while (own->groups.size() > N) {
        end = own->groups.front();
        own->groups.pop_front();
    }
    if (own->groups.empty()) own->fenced = false;
    emu::finish_products(end);
}
template <int N>
static inline void hold(f32 (&)[N]) {}
template <int N>
static inline void wgmma(f32 (&d)[N / 2], u64 a, u64 b, i32 accumulate) {
    static_assert(N % 8 == 0 && N <= 256, "wgmma: N");
    emu::Issued* own = emu::thread_state<emu::Issued>();
    emu::Products& all = emu::products();
    if (!own->fenced) emu::fail("wgmma without wgmma.fence before it");
    const u64 place = own->products++ - all.first;
    if (place == all.waiting.size()) all.waiting.push_back({a, b, N, accumulate != 0, 0, {}});
    emu::Product& p = all.waiting[place];
    if (p.a != a || p.b != b || p.n != N || p.accumulate != (accumulate != 0))
        emu::fail("threads of a warpgroup ask for different products");
    p.d[emu::self().id % 128] = d;
    ++p.issued;
}

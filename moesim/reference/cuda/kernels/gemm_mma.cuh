// Grouped products with mma.sync: every GPU since sm_80, also those after Hopper, which have no wgmma.
//
// Macros: BM tokens and BN weight rows of a tile, WARPS_M x WARPS_N warps over it, STAGES of the ring. Steps of 64
// along k are copied (cp.async) STAGES - 1 ahead of the products, also from one tile into the next. A row of a step
// is 128 bytes, eight pieces of 16; piece c of row r lies at place c ^ (r % 8), so that the eight rows that ldmatrix
// reads at once are in different banks.
// Limits: k and the outputs' width are multiples of 8 (16-byte rows; zeros are filled in behind k).
#pragma once
#include "gemm_tiles.cuh"

constexpr i32 STEP = 64, THREADS = WARPS_M * WARPS_N * 32;
constexpr i32 ROW_BYTES = STEP * 2, TOKEN_BYTES = BM * ROW_BYTES, STAGE_BYTES = (BM + BN) * ROW_BYTES;
constexpr int TALL = BM / WARPS_M / 16, WIDE = BN / WARPS_N / 16;  // sixteens of rows and of weight rows of a warp
constexpr int COPIES = (BM + BN) * 8 / THREADS;                      // pieces of a step that a thread copies
static_assert(TALL * WARPS_M * 16 == BM && WIDE * WARPS_N * 16 == BN, "warps cover the tile");
static_assert((BM + BN) * 8 % THREADS == 0 && THREADS % 8 == 0, "threads cover a step");

static __device__ __forceinline__ i32 place_of(i32 row, i32 piece) { return row * ROW_BYTES + ((piece ^ (row & 7)) << 4); }

// What is copied next: a step of an item.
struct Loader {
    const u16* tokens;
    const u16* weights;
    const int4* tiles;
    i32 n, k, count, columns, index, step;
    Item item;

    __device__ __forceinline__ bool more() const { return index < count * columns; }
    __device__ __forceinline__ void enter() {
        if (more()) item = item_at(tiles, count, columns, index);
    }
    // Rows behind the end of a tile or of the weights are read as the last one: nothing of theirs is stored.
    __device__ __forceinline__ void copy(unsigned char* stage) const {
        const i32 piece = threadIdx.x & 7, column = step * STEP + piece * 8;
        const bool inside = column < k;
#pragma unroll
        for (int i = 0; i < COPIES; ++i) {
            const i32 row = threadIdx.x / 8 + i * (THREADS / 8);
            const u16* from = row < BM
                                  ? tokens + (i64)min(item.first + row, item.end - 1) * k
                                  : weights + (i64)(item.slot * n + min(item.column + row - BM, n - 1)) * k;
            cp_async16(stage + place_of(row, piece), from + (inside ? column : 0), inside);
        }
    }
    __device__ __forceinline__ void next() {
        if (++step * STEP < k) return;
        step = 0;
        index += gridDim.x;
        enter();
    }
};

template <bool GATED>
static __device__ __forceinline__ void grouped(const u16* tokens, const u16* weights, u16* out, const int4* tiles,
                                               const i32* num_tiles, i32 n, i32 k) {
    DYNAMIC_SHARED(ring);
    const i32 lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    const i32 top = warp / WARPS_N * TALL * 16, side = warp % WARPS_N * WIDE * 16;  // of this warp, in the tile
    Loader loader{tokens, weights, tiles, n, k, __ldg(num_tiles), (n + BN - 1) / BN, (i32)blockIdx.x, 0, {}};
    loader.enter();
    i32 filling = 0, reading = 0;
    const auto load = [&] {
        if (loader.more()) {
            loader.copy(ring + filling * STAGE_BYTES);
            loader.next();
        }
        cp_async_commit();  // also an empty group: what is waited for is a number of groups
        filling = filling + 1 == STAGES ? 0 : filling + 1;
    };
    for (int i = 0; i < STAGES - 1; ++i) load();

    const i32 count = loader.count * loader.columns;
    for (i32 index = blockIdx.x; index < count; index += gridDim.x) {
        const Item item = item_at(tiles, loader.count, loader.columns, index);
        f32 d[TALL][8 * WIDE] = {};
        for (i32 step = 0; step * STEP < k; ++step) {
            cp_async_wait<STAGES - 2>();
            __syncthreads();  // all copies of this step are there, and the stage to be filled next has been read
            load();
            const unsigned char* const a_rows = ring + reading * STAGE_BYTES;
            const unsigned char* const b_rows = a_rows + TOKEN_BYTES;
            reading = reading + 1 == STAGES ? 0 : reading + 1;
#pragma unroll
            for (int part = 0; part < STEP / 16; ++part) {
                u32 a[TALL][4], b[WIDE][4];
                // a: rows 0-7 and 8-15 of k 0-7, then of k 8-15. b: weight rows 0-7 of k 0-7 and 8-15, then 8-15.
#pragma unroll
                for (int i = 0; i < TALL; ++i)
                    ldmatrix4(a[i], a_rows + place_of(top + 16 * i + (lane & 15), 2 * part + lane / 16));
#pragma unroll
                for (int j = 0; j < WIDE; ++j)
                    ldmatrix4(b[j], b_rows + place_of(side + 16 * j + (lane / 16) * 8 + (lane & 7), 2 * part + (lane / 8 & 1)));
#pragma unroll
                for (int i = 0; i < TALL; ++i)
#pragma unroll
                    for (int j = 0; j < 2 * WIDE; ++j)
                        mma_16816((f32(&)[4])d[i][4 * j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
            }
        }
        const i32 column = item.column + side;
#pragma unroll
        for (int i = 0; i < TALL; ++i)
            store_rows<GATED, 2 * WIDE>(out, d[i], item.first + top + 16 * i, item.end, GATED ? column / 2 : column,
                                        GATED ? n / 2 : n);
    }
}

extern "C" __global__ void __launch_bounds__(WARPS_M * WARPS_N * 32)
    experts_up(const u16* __restrict__ x, const u16* __restrict__ w13, u16* __restrict__ h, const int4* tiles,
               const i32* num_tiles, i32 n, i32 k) {
    grouped<true>(x, w13, h, tiles, num_tiles, n, k);
}

extern "C" __global__ void __launch_bounds__(WARPS_M * WARPS_N * 32)
    experts_down(const u16* __restrict__ h, const u16* __restrict__ w2, u16* __restrict__ y, const int4* tiles,
                 const i32* num_tiles, i32 n, i32 k) {
    grouped<false>(h, w2, y, tiles, num_tiles, n, k);
}

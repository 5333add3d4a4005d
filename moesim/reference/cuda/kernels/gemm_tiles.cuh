// What all grouped products share: the walk over tiles, SwiGLU, and stores of whole 16-byte pieces.
//
// A grouped product is out[rows of e] = tokens[rows of e] weights[slot of e]^T for every expert e. Weights are
// [slots, n, k] and tokens [rows, k], with k contiguous. Tiles are rows of one expert, listed on the device by
// `count_tiles`; a tile has BM tokens and, of the expert's n weight rows, BN at a time.
#pragma once
#include "prims_tensor.cuh"

// Tiles that are walked together, column by column: blocks that run at the same time then share both the weights
// of a column and the tokens of a tile through L2, and weights leave DRAM once.
#ifndef GROUP
#define GROUP 16
#endif

struct Item {
    i32 slot, first, end, column;  // of the weight pool; rows of this tile and its end; first weight row
};

// Item `index` of the walk: groups of GROUP tiles, inside of a group column by column.
static __device__ __forceinline__ Item item_at(const int4* __restrict__ tiles, i32 count, i32 columns, i32 index) {
    const i32 group = index / (GROUP * columns) * GROUP;
    const i32 size = min(GROUP, count - group);
    const i32 place = index - group * columns;
    const i32 column = place / size;
    const int4 tile = __ldg(tiles + group + (place - column * size));
    return {tile.x, tile.y, min(tile.z, tile.y + BM), column * BN};
}

// x sigmoid(x) y. Of large negative x the exponential is infinite and the quotient 0, as it should be.
static __device__ __forceinline__ f32 swiglu(f32 gate, f32 up) { return __fdividef(gate, 1.0f + fast_exp(-gate)) * up; }

// Four lanes (a quad) hold a pair each of four 16-byte pieces; after this, lane q has piece q whole.
static __device__ __forceinline__ uint4 gather_piece(const u32 (&pair)[4]) {
    const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
    const u32 all = 0xFFFFFFFFu;
    const u32 a = __shfl_xor_sync(all, odd ? pair[0] : pair[1], 1);
    const u32 b = __shfl_xor_sync(all, odd ? pair[2] : pair[3], 1);
    // Pieces 0, 2 in even lanes and 1, 3 in odd ones, two words of each.
    const u32 low0 = odd ? a : pair[0], low1 = odd ? pair[1] : a;
    const u32 high0 = odd ? b : pair[2], high1 = odd ? pair[3] : b;
    const u32 c = __shfl_xor_sync(all, high ? low0 : high0, 2);
    const u32 d = __shfl_xor_sync(all, high ? low1 : high1, 2);
    return high ? make_uint4(c, d, high0, high1) : make_uint4(low0, low1, c, d);
}

// A piece of 8 columns of one row of the output, if it lies in the tile.
static __device__ __forceinline__ void store_piece(u16* out, uint4 piece, i32 row, i32 end, i32 column, i32 width) {
    if (row < end && column < width) store16(out + (i64)row * width + column, piece);
}

// Stores what a warp holds of a product in the layout of mma and wgmma: rows row + l / 4 and that plus 8, columns
// from `column` on, 8 for each of d's fours. GATED: fours come in pairs, gate and up, and give one output each.
template <bool GATED, int FOURS>
static __device__ __forceinline__ void store_rows(u16* out, const f32 (&d)[4 * FOURS], i32 row, i32 end, i32 column,
                                                  i32 width) {
    constexpr int PIECES = GATED ? FOURS / 2 : FOURS;  // of one row
    constexpr int ACROSS = PIECES < 4 ? PIECES : 4;    // of one row in what a quad stores at once
    constexpr int DOWN = 4 / ACROSS;
    static_assert(PIECES % ACROSS == 0 && 2 % DOWN == 0, "a quad stores four pieces");
    const i32 lane = threadIdx.x & 31, mine = lane & 3;
#pragma unroll
    for (int p = 0; p < PIECES; p += ACROSS) {
#pragma unroll
        for (int half = 0; half < 2; half += DOWN) {
            u32 pair[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int piece = p + i % ACROSS, r = 2 * (half + i / ACROSS);
                if (GATED) {
                    const int gate = 8 * piece + r, up = gate + 4;
                    pair[i] = pack_bf16(swiglu(d[gate], d[up]), swiglu(d[gate + 1], d[up + 1]));
                } else {
                    pair[i] = pack_bf16(d[4 * piece + r], d[4 * piece + r + 1]);
                }
            }
            store_piece(out, gather_piece(pair), row + lane / 4 + 8 * (half + mine / ACROSS), end,
                        column + 8 * (p + mine % ACROSS), width);
        }
    }
}

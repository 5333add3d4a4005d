// Where the pairs (token, expert) go: rows sorted by expert, in the order of tokens; and the tiles over these rows.
//
// Pair p = token * k + choice. Blocks rank the pairs of their chunk among those of the same expert and count them;
// the last block to end sums the counts over chunks and experts, and lists the tiles. No order of arrival shows in
// any result: atomics decide only who is last.
#pragma once
#include "route.cuh"

struct PlanRoom {
    i32 rows[MAX_EXPERTS];               // of each expert
    i32 first_row[MAX_EXPERTS];          // of each expert, among all rows
    i32 first_tile[MAX_EXPERTS];         // of each expert, among all tiles
    i32 rows_of_group[LANE_EXPERTS];     // of 32 experts
    i32 tiles_of_group[LANE_EXPERTS];
    i32 part[1024];                      // rows of an expert in some of the chunks
    i32 last;
};

// Ranks of this block's pairs (rank), and pairs by expert (counts). by_warp: u16 [warps, E] of shared memory.
static __device__ __forceinline__ void rank_pairs(const i32* ids, i32* rank, i32* counts, u16* by_warp, i32 P, i32 E) {
    const i32 lane = threadIdx.x & 31, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    for (i32 i = threadIdx.x; i < warps * E; i += blockDim.x) by_warp[i] = 0;
    __syncthreads();
    const i32 pair = blockIdx.x * blockDim.x + threadIdx.x;
    const i32 expert = pair < P ? ids[pair] : -1;
    const u32 peers = __match_any_sync(0xFFFFFFFFu, expert);
    const i32 before = __popc(peers & ((1u << lane) - 1));
    if (expert >= 0 && before == 0) by_warp[warp * E + expert] = (u16)__popc(peers);
    __syncthreads();
    for (i32 e = threadIdx.x; e < E; e += blockDim.x) {
        i32 sum = 0;
        for (i32 w = 0; w < warps; ++w) {
            const i32 count = by_warp[w * E + e];
            by_warp[w * E + e] = (u16)sum;
            sum += count;
        }
        counts[e] = sum;
    }
    __syncthreads();
    if (expert >= 0) rank[pair] = by_warp[warp * E + expert] + before;
}

// From rows of each expert (room.rows): first rows and first tiles of each. A thread reads those rows that a loop
// over experts, a block's threads apart, wrote in it: no barrier is needed before.
static __device__ __forceinline__ void scan_experts(PlanRoom& room, const i32* slot_of_expert, i32 E, i32 BM) {
    const i32 lane = threadIdx.x & 31, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    for (i32 group = warp; group * 32 < E; group += warps) {
        const i32 e = group * 32 + lane;
        const i32 rows = e < E ? room.rows[e] : 0;
        const i32 tiles = e < E && slot_of_expert[e] >= 0 ? (rows + BM - 1) / BM : 0;
        const i32 rows_to_here = warp_scan(rows), tiles_to_here = warp_scan(tiles);
        if (e < E) {
            room.first_row[e] = rows_to_here - rows;
            room.first_tile[e] = tiles_to_here - tiles;
        }
        if (lane == 31) {
            room.rows_of_group[group] = rows_to_here;
            room.tiles_of_group[group] = tiles_to_here;
        }
    }
    __syncthreads();
    for (i32 e = threadIdx.x; e < E; e += blockDim.x)
        for (i32 group = 0; group < e / 32; ++group) {
            room.first_row[e] += room.rows_of_group[group];
            room.first_tile[e] += room.tiles_of_group[group];
        }
    __syncthreads();
}

// Tiles of BM rows: (slot, first row, end of the expert's rows, expert), expert by expert.
static __device__ __forceinline__ void write_tiles(const PlanRoom& room, const i32* slot_of_expert, int4* tiles,
                                                   i32* num_tiles, i32 E, i32 BM) {
    i32 count = 0;
    for (i32 group = 0; group * 32 < E; ++group) count += room.tiles_of_group[group];
    if (threadIdx.x == 0) *num_tiles = count;
    for (i32 i = threadIdx.x; i < count; i += blockDim.x) {
        i32 e = 0, end = E;  // the last expert whose first tile is not behind i
        while (end - e > 1) {
            const i32 middle = (e + end) / 2;
            if (room.first_tile[middle] <= i)
                e = middle;
            else
                end = middle;
        }
        const i32 row = room.first_row[e] + (i - room.first_tile[e]) * BM;
        tiles[i] = make_int4(slot_of_expert[e], row, room.first_row[e] + room.rows[e], e);
    }
}

// Counts of chunks (base [chunks, E]) become the first row of each chunk's pairs of each expert. Of a single chunk a
// thread reads the counts that it wrote itself.
static __device__ __forceinline__ void finish_plan(PlanRoom& room, const i32* slot_of_expert, i32* base, i32* counts,
                                                   i32* offsets, int4* tiles, i32* num_tiles, i32 chunks, i32 E,
                                                   i32 BM) {
    const i32 groups = max(1, min(16, min(chunks, (i32)blockDim.x / E)));  // of chunks, summed side by side
    const i32 per_group = (chunks + groups - 1) / groups;
    for (i32 i = threadIdx.x; i < groups * E; i += blockDim.x) {
        const i32 begin = i / E * per_group, end = min(chunks, begin + per_group);
        i32 sum = 0;
#pragma unroll 8
        for (i32 chunk = begin; chunk < end; ++chunk) sum += load_through(base + (i64)chunk * E + i % E);
        room.part[i] = sum;
    }
    __syncthreads();
    for (i32 e = threadIdx.x; e < E; e += blockDim.x) {
        i32 sum = 0;
        for (i32 group = 0; group < groups; ++group) {
            const i32 count = room.part[group * E + e];
            room.part[group * E + e] = sum;
            sum += count;
        }
        room.rows[e] = sum;
    }
    scan_experts(room, slot_of_expert, E, BM);
    for (i32 i = threadIdx.x; i < groups * E; i += blockDim.x) {
        const i32 e = i % E, begin = i / E * per_group, end = min(chunks, begin + per_group);
        i32 row = room.first_row[e] + room.part[i];
        for (i32 chunk = begin; chunk < end; chunk += 8) {
            i32* const at = base + (i64)chunk * E + e;
            const i32 here = min(8, end - chunk);
            i32 count[8];  // all of them on their way before the first is needed
#pragma unroll
            for (i32 j = 0; j < 8; ++j) count[j] = j < here ? load_through(at + (i64)j * E) : 0;
#pragma unroll
            for (i32 j = 0; j < 8; ++j) {
                if (j < here) at[(i64)j * E] = row;
                row += count[j];
            }
        }
    }
    for (i32 e = threadIdx.x; e < E; e += blockDim.x) {
        counts[e] = room.rows[e];
        offsets[e] = room.first_row[e];
        if (e == E - 1) offsets[E] = room.first_row[e] + room.rows[e];
    }
    write_tiles(room, slot_of_expert, tiles, num_tiles, E, BM);
}

// `ticket` is 0 before and after. A chunk is as many pairs as a block has threads.
extern "C" __global__ void __launch_bounds__(1024)
    plan(const i32* ids, const i32* slot_of_expert, i32* rank, i32* base, i32* counts, i32* offsets, int4* tiles,
         i32* num_tiles, u32* ticket, i32 P, i32 E, i32 BM) {
    __shared__ PlanRoom room;
    DYNAMIC_SHARED(by_warp);
    rank_pairs(ids, rank, base + (i64)blockIdx.x * E, (u16*)by_warp, P, E);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) room.last = atomicAdd(ticket, 1u) == gridDim.x - 1;
    __syncthreads();
    if (!room.last) return;
    __threadfence();
    if (threadIdx.x == 0) *ticket = 0;
    finish_plan(room, slot_of_expert, base, counts, offsets, tiles, num_tiles, (i32)gridDim.x, E, BM);
}

// The best experts and the plan in one block, for few tokens: at most as many pairs as it has threads.
extern "C" __global__ void __launch_bounds__(256, 1)
    route_small(const f32* logits, const i32* forced, i32* ids, f32* weights, const i32* slot_of_expert, i32* rank,
                i32* base, i32* counts, i32* offsets, int4* tiles, i32* num_tiles, i32 T, i32 E, i32 k, i32 slabs,
                i32 renormalise, i32 BM) {
    __shared__ PlanRoom room;
    DYNAMIC_SHARED(by_warp);
    for (i32 token = threadIdx.x / 32; token < T; token += blockDim.x / 32)
        choose(logits, forced, ids, weights, token, T, E, k, slabs, renormalise);
    rank_pairs(ids, rank, base, (u16*)by_warp, T * k, E);  // meets before it reads ids
    finish_plan(room, slot_of_expert, base, counts, offsets, tiles, num_tiles, 1, E, BM);
}

// The tiles anew, for other slots: of a plan that is made, those experts that have come in the meantime.
extern "C" __global__ void __launch_bounds__(512)
    list_tiles(const i32* offsets, const i32* slot_of_expert, int4* tiles, i32* num_tiles, i32 E, i32 BM) {
    __shared__ PlanRoom room;
    for (i32 e = threadIdx.x; e < E; e += blockDim.x) room.rows[e] = offsets[e + 1] - offsets[e];
    scan_experts(room, slot_of_expert, E, BM);
    write_tiles(room, slot_of_expert, tiles, num_tiles, E, BM);
}

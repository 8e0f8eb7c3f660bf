// What the matrix products share: their parameters, the order of tiles, and what is done with sums before they are stored.
#pragma once
#include "common.cuh"

// y = residual + gate·activation(x·wᵀ·x_scale·w_scale + bias); what is null is left out. Sums of bf16 and e4m3 are f32, those of int8 s32.
// x and w begin at multiples of 16 bytes, and so do their rows.
struct GemmParams {
    const void *x;        // [m, k], bf16, int8 or e4m3 by the kernel's name
    const void *w;        // [n, k], the same
    void *y;              // [m, n], bf16, or f32 with y_is_f32
    const float *x_scale; // [m] or null
    const float *w_scale; // [n] or null
    const float *bias;    // [n] or null
    const float *gate;    // [.., n] or null
    const void *residual; // [m, n] as y, with its stride; may be y; or null
    int64_t x_stride;     // elements from row to row
    int64_t w_stride;
    int64_t y_stride;
    int64_t gate_stride;
    int rows_of_gate; // rows that share a gate; at least 1
    int m;            // 1..2^31 - 128
    int n;
    int k; // multiple of 8 for bf16, of 16 for 8 bits
    int activation; // Activation: none, GELU (tanh) or SiLU
    int y_is_f32;
};

namespace gemm {

// Where a block's tile begins.
struct Tile {
    int row, column;
};

// Tile `index` of those of [m, n]: columns of GROUP tiles of rows, so that blocks that run at one time share rows of both matrices.
template <int ROWS, int COLUMNS> __device__ __forceinline__ Tile tile_at(const GemmParams &p, uint32_t index) {
    constexpr uint32_t GROUP = 8;
    const uint32_t down = (uint32_t(p.m) + ROWS - 1) / ROWS, across = (uint32_t(p.n) + COLUMNS - 1) / COLUMNS;
    const uint32_t first = index / (GROUP * across) * GROUP, rest = index % (GROUP * across);
    const uint32_t height = min(GROUP, down - first);
    return {int(first + rest % height) * ROWS, int(rest / height) * COLUMNS};
}
template <int ROWS, int COLUMNS> __device__ __forceinline__ uint32_t tile_count(const GemmParams &p) {
    return ((uint32_t(p.m) + ROWS - 1) / ROWS) * ((uint32_t(p.n) + COLUMNS - 1) / COLUMNS);
}

// Numbers `column` and the next of a row of n, `fill` where there are none.
__device__ __forceinline__ float2 pair_of(const float *row, int column, int n, float fill) {
    if (!row) {
        return make_float2(fill, fill);
    }
    return make_float2(column < n ? __ldg(row + column) : fill, column + 1 < n ? __ldg(row + column + 1) : fill);
}
__device__ __forceinline__ float2 residual_pair(const GemmParams &p, int64_t at, int column) {
    if (column + 1 < p.n && p.y_stride % 2 == 0) {
        return p.y_is_f32 ? *reinterpret_cast<const float2 *>(static_cast<const float *>(p.residual) + at)
                          : unpack_bf16(*reinterpret_cast<const uint32_t *>(static_cast<const Bf16 *>(p.residual) + at));
    }
    auto one = [&](int i) {
        if (column + i >= p.n) {
            return 0.0f;
        }
        return p.y_is_f32 ? static_cast<const float *>(p.residual)[at + i] : __bfloat162float(static_cast<const Bf16 *>(p.residual)[at + i]);
    };
    return make_float2(one(0), one(1));
}

// Lane t of each four brings word t of four chunks of 16 bytes, and gets all words of chunk t.
__device__ __forceinline__ void transpose_quad(uint32_t (&w)[4]) {
    const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? w[i] : w[i + 1], 1);
        w[i] = odd ? other : w[i], w[i + 1] = odd ? w[i + 1] : other;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t other = __shfl_xor_sync(0xffffffffu, high ? w[i] : w[i + 2], 2);
        w[i] = high ? other : w[i], w[i + 2] = high ? w[i + 2] : other;
    }
}

// Finishes and stores a warp's sums [16·ROW_TILES, 8·COLUMN_TILES], whose corner is at (row, column) of y: `sum(i, j, e)` is register e of
// tile (i, j), laid out as mma.sync's. All lanes take part. Four tiles side by side and eight rows are a piece; what is added is read
// AHEAD pieces before it is needed.
template <int ROW_TILES, int COLUMN_TILES, class Sum>
__device__ __forceinline__ void store(const GemmParams &p, int row, int column, Sum sum) {
    static_assert(COLUMN_TILES % 4 == 0);
    constexpr int PIECES_DOWN = 2 * ROW_TILES, PIECES = PIECES_DOWN * (COLUMN_TILES / 4), AHEAD = 3;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const bool wide = p.y_stride % 8 == 0;
    float2 old[AHEAD][4] = {}, w_scale[4], bias[4];
    auto load = [&](int piece) {
        const int r = row + 8 * (piece % PIECES_DOWN) + g;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int at = column + 32 * (piece / PIECES_DOWN) + 8 * j + 2 * t;
            if (r < p.m && at < p.n) {
                old[piece % AHEAD][j] = residual_pair(p, r * p.y_stride + at, at);
            }
        }
    };
    if (p.residual) {
#pragma unroll
        for (int piece = 0; piece < AHEAD - 1; piece++) {
            load(piece);
        }
    }
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
        const int down = piece % PIECES_DOWN, first = piece / PIECES_DOWN * 4;
        if (p.residual && piece + AHEAD - 1 < PIECES) {
            load(piece + AHEAD - 1);
        }
        if (down == 0) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int at = column + 8 * (first + j) + 2 * t;
                w_scale[j] = pair_of(p.w_scale, at, p.n, 1.0f);
                bias[j] = pair_of(p.bias, at, p.n, 0.0f);
            }
        }
        const int r = row + 8 * down + g;
        const bool inside = r < p.m;
        const float x_scale = p.x_scale && inside ? __ldg(p.x_scale + r) : 1.0f;
        float2 v[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int at = column + 8 * (first + j) + 2 * t, e = down % 2 * 2;
            v[j].x = activate(float(sum(down / 2, first + j, e)) * (x_scale * w_scale[j].x) + bias[j].x, p.activation);
            v[j].y = activate(float(sum(down / 2, first + j, e + 1)) * (x_scale * w_scale[j].y) + bias[j].y, p.activation);
            if (p.gate && inside) {
                float2 gate = pair_of(p.gate + r / p.rows_of_gate * p.gate_stride, at, p.n, 0.0f);
                v[j].x *= gate.x, v[j].y *= gate.y;
            }
            if (p.residual) {
                v[j].x += old[piece % AHEAD][j].x, v[j].y += old[piece % AHEAD][j].y;
            }
        }
        if (p.y_is_f32) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int at = column + 8 * (first + j) + 2 * t;
                float *y = static_cast<float *>(p.y) + r * p.y_stride + at;
                if (inside && wide && at + 1 < p.n) {
                    *reinterpret_cast<float2 *>(y) = v[j];
                } else if (inside && at < p.n) {
                    y[0] = v[j].x;
                    if (at + 1 < p.n) {
                        y[1] = v[j].y;
                    }
                }
            }
            continue;
        }
        uint32_t words[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            words[j] = pack_bf16(v[j].x, v[j].y);
        }
        transpose_quad(words);
        const int at = column + 8 * (first + t);
        Bf16 *y = static_cast<Bf16 *>(p.y) + r * p.y_stride + at;
        if (inside && wide && at + 8 <= p.n) {
            *reinterpret_cast<uint4 *>(y) = make_uint4(words[0], words[1], words[2], words[3]);
        } else if (inside) {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                if (at + i < p.n) {
                    y[i] = __ushort_as_bfloat16(static_cast<unsigned short>(words[i / 2] >> (16 * (i % 2))));
                }
            }
        }
    }
}

} // namespace gemm

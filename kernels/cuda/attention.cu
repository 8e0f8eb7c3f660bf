// Attention without a mask in bf16: softmax(scale·q·kᵀ + bias)·v, the sums in f32, for sm_80 and later.
//
// Tiles of queries go through tiles of keys with a running softmax in base 2 (FlashAttention-2, Dao 2023). A warp owns whole
// rows of scores, so that the softmax needs no other warp. Tiles of keys and values share one ring in shared memory: while one is
// multiplied, the next STAGES − 1 are on their way.
#include "attention.cuh"

namespace attention {

struct Bf16Params {
    View q;              // [B, Lq, H, dim]
    View k, v;           // [B, Lk, H, dim]
    uint16_t *out;       // [B, Lq, H, dim] bf16
    int64_t out_batch, out_row, out_head;
    const float *bias;   // added to scaled scores, [H, Lq, Lk] f32 with these strides (0: the same for all); only the _bias kernels
    int64_t bias_head;
    int32_t bias_query;  // magnitude times queries < 2^31; -1 where a bias is that of key − query
    int32_t queries, keys; // Lq, Lk >= 1
    int32_t dim;         // channels of a head, a multiple of 8, at most the kernel's D
    float scale;         // > 0
};

// D: channels in shared memory. A warp has TILES tiles of 16 queries.
template <int D_, int WARPS_, int TILES_, int KEYS_, int STAGES_> struct Shape {
    static constexpr int D = D_, WARPS = WARPS_, TILES = TILES_, KEYS = KEYS_, STAGES = STAGES_, THREADS = 32 * WARPS;
    static constexpr int QUERIES = 16 * TILES * WARPS, CHUNKS = D / 8;
    static constexpr int QUERY_BYTES = QUERIES * D * 2, TILE_BYTES = KEYS * D * 2;
    static constexpr int SHARED_BYTES = QUERY_BYTES + STAGES * TILE_BYTES;
};

// Rows 16·tile + (g, g+8) of a warp's scores, a running maximum and sum of each.
template <int TILES> struct Softmax {
    float largest[TILES][2], sum[TILES][2];
};

template <class S, bool BIAS> __device__ __forceinline__ void run(const Bf16Params &p, unsigned char *shared) {
    constexpr int TILES = S::TILES, KEYS = S::KEYS, CHUNKS = S::CHUNKS, ROWS = 16 * TILES;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int head = blockIdx.y, batch = blockIdx.z, first_query = blockIdx.x * S::QUERIES;
    const uint32_t query_tile = shared_address(shared), ring = query_tile + S::QUERY_BYTES;
    auto bytes = [&](const View &view) { return reinterpret_cast<const unsigned char *>(view.data + batch * view.batch + head * view.head); };
    const unsigned char *const k = bytes(p.k), *const v = bytes(p.v);
    const int chunks = p.dim / 8, blocks = (p.keys + KEYS - 1) / KEYS;

    // Item 2j of the ring is block j of the keys, item 2j + 1 block j of the values.
    auto load = [&](int item, int stage) {
        if (item < 2 * blocks) {
            Loader<KEYS, CHUNKS, S::THREADS>::load(ring + stage * S::TILE_BYTES, item % 2 ? v : k, 2 * (item % 2 ? p.v.row : p.k.row), item / 2 * KEYS, p.keys, chunks);
        }
        cp_async_commit();
    };
    Loader<S::QUERIES, CHUNKS, S::THREADS>::load(query_tile, bytes(p.q), 2 * p.q.row, first_query, p.queries, chunks);
#pragma unroll
    for (int i = 0; i < S::STAGES - 1; i++) {
        load(i, i);
    }
    int stage = 0, next_item = S::STAGES - 1;
    // Waits for the next item and starts another in the place of the one before it, which all warps have left behind.
    auto advance = [&]() {
        cp_async_wait<S::STAGES - 2>();
        __syncthreads();
        load(next_item++, stage == 0 ? S::STAGES - 1 : stage - 1);
        uint32_t tile = ring + stage * S::TILE_BYTES;
        stage = stage == S::STAGES - 1 ? 0 : stage + 1;
        return tile;
    };

    float o[TILES][CHUNKS][4] = {};
    Softmax<TILES> state;
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        state.largest[i][0] = state.largest[i][1] = minus_infinity();
        state.sum[i][0] = state.sum[i][1] = 0;
    }
    const float scale = p.scale * LOG2_E;
    // Where this lane reads chunks 0 and 1 of the warp's queries, of keys and of values.
    const uint32_t my_queries = query_tile + tile_offset<CHUNKS>(warp * ROWS + lane % 16, lane / 16);
    const uint32_t key_offset = tile_offset<CHUNKS>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const uint32_t value_offset = tile_offset<CHUNKS>(lane % 16, lane / 16);

    for (int block = 0; block < blocks; block++) {
        // Scores.
        const uint32_t keys = advance() + key_offset;
        float s[TILES][KEYS / 8][4] = {};
#pragma unroll
        for (int c = 0; c < CHUNKS; c += 2) {
            uint32_t a[TILES][4];
#pragma unroll
            for (int i = 0; i < TILES; i++) {
                ldmatrix_x4_at(a[i], chunk_address<CHUNKS>(my_queries, c) + 16 * i * CHUNKS * 16);
            }
#pragma unroll
            for (int n = 0; n < KEYS / 8; n += 2) {
                uint32_t b[4];
                ldmatrix_x4_at(b, chunk_address<CHUNKS>(keys, c) + 8 * n * CHUNKS * 16);
#pragma unroll
                for (int i = 0; i < TILES; i++) {
                    mma_m16n8k16_bf16(s[i][n], a[i], {b[0], b[1]});
                    mma_m16n8k16_bf16(s[i][n + 1], a[i], {b[2], b[3]});
                }
            }
        }

        // Bias, and keys that do not exist.
        const int first_key = block * KEYS;
        const float factor = BIAS ? 1.0f : scale;
        if (BIAS) {
            const float *bias = p.bias + head * p.bias_head;
#pragma unroll
            for (int i = 0; i < TILES; i++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int row = min(first_query + warp * ROWS + 16 * i + 8 * half + lane / 4, p.queries - 1) * p.bias_query;
#pragma unroll
                    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                        for (int e = 0; e < 2; e++) {
                            float &score = s[i][n][2 * half + e];
                            score = score * scale + __ldg(bias + row + min(first_key + 8 * n + lane % 4 * 2 + e, p.keys - 1)) * LOG2_E;
                        }
                    }
                }
            }
        }
        if (first_key + KEYS > p.keys) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    if (first_key + 8 * n + lane % 4 * 2 + e % 2 >= p.keys) {
#pragma unroll
                        for (int i = 0; i < TILES; i++) {
                            s[i][n][e] = minus_infinity();
                        }
                    }
                }
            }
        }

        // Weights relative to the running maximum, as fragments of the second product.
        uint32_t weights[TILES][KEYS / 8][2];
#pragma unroll
        for (int i = 0; i < TILES; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float largest = state.largest[i][half];
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) {
                    largest = fmaxf(largest, fmaxf(s[i][n][2 * half], s[i][n][2 * half + 1]));
                }
                largest = quad_max(largest);
                // Where all scores so far are −∞, any finite number does.
                float offset = largest == minus_infinity() ? 0.0f : largest * factor;
                float before = exp2_fast(state.largest[i][half] * factor - offset);
                state.largest[i][half] = largest;
                float sum = 0;
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) {
                    float x = exp2_fast(s[i][n][2 * half] * factor - offset), y = exp2_fast(s[i][n][2 * half + 1] * factor - offset);
                    sum += x + y;
                    weights[i][n][half] = pack_bf16(x, y);
                }
                state.sum[i][half] = state.sum[i][half] * before + sum;
#pragma unroll
                for (int n = 0; n < CHUNKS; n++) {
                    o[i][n][2 * half] *= before;
                    o[i][n][2 * half + 1] *= before;
                }
            }
        }

        // Values.
        const uint32_t values = advance() + value_offset;
#pragma unroll
        for (int m = 0; m < KEYS / 8; m += 2) {
#pragma unroll
            for (int n = 0; n < CHUNKS; n += 2) {
                uint32_t b[4];
                ldmatrix_x4_trans_at(b, chunk_address<CHUNKS>(values, n) + 8 * m * CHUNKS * 16);
#pragma unroll
                for (int i = 0; i < TILES; i++) {
                    const uint32_t a[4] = {weights[i][m][0], weights[i][m][1], weights[i][m + 1][0], weights[i][m + 1][1]};
                    mma_m16n8k16_bf16(o[i][n], a, {b[0], b[1]});
                    mma_m16n8k16_bf16(o[i][n + 1], a, {b[2], b[3]});
                }
            }
        }
    }

    const int first_row = first_query + warp * ROWS;
    uint16_t *const out = p.out + batch * p.out_batch + head * p.out_head + first_row * p.out_row;
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        float factor[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = quad_sum(state.sum[i][half]);
            factor[half] = sum > 0 ? 1.0f / sum : 0.0f; // all keys masked: zeros
        }
        auto at = [&](int tile, int e) { return o[i][tile][e] * factor[e / 2]; };
        store_rows<CHUNKS>(at, out + 16 * i * p.out_row, p.out_row, p.queries - first_row - 16 * i, p.dim);
    }
}

} // namespace attention

using AttentionParams = attention::Bf16Params;

namespace attention {
// Two tiles a warp halve the reads of keys and values from shared memory; with a bias there are no registers left for that.
using D64 = Shape<64, 4, 2, 64, 3>;
using D128 = Shape<128, 4, 2, 64, 3>;
using D384 = Shape<384, 4, 1, 32, 2>;
using D64Bias = Shape<64, 8, 1, 64, 3>;
using D128Bias = Shape<128, 8, 1, 64, 3>;
} // namespace attention

// Grid (⌈Lq/queries⌉, H, B):
//   name                     dim     queries  threads  dynamic shared bytes
//   sd_attention_d64         <= 64   128      128      40960
//   sd_attention_d128        <= 128  128      128      81920
//   sd_attention_d384        <= 384  64       128      98304   (the VAE's attention)
//   sd_attention_d64_bias    <= 64   128      256      40960
//   sd_attention_d128_bias   <= 128  128      256      81920
#define SD_ATTENTION(name, shape, bias, shared_bytes)                                                                    \
    static_assert(attention::shape::SHARED_BYTES == shared_bytes);                                                       \
    extern "C" __global__ void __launch_bounds__(attention::shape::THREADS) name(const __grid_constant__ AttentionParams p) { \
        SD_DYNAMIC_SHARED(unsigned char, shared);                                                                        \
        attention::run<attention::shape, bias>(p, shared);                                                               \
    }                                                                                                                    \
    SD_KERNEL(name, AttentionParams)

SD_ATTENTION(sd_attention_d64, D64, false, 40960)
SD_ATTENTION(sd_attention_d128, D128, false, 81920)
SD_ATTENTION(sd_attention_d384, D384, false, 98304)
SD_ATTENTION(sd_attention_d64_bias, D64Bias, true, 40960)
SD_ATTENTION(sd_attention_d128_bias, D128Bias, true, 81920)

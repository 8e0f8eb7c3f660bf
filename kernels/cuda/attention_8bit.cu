// Attention with int8 scores, for sm_80 and later: buffers as attention_8bit.cuh describes them, the frame that of attention.cu.
//
// sd_attention_8bit_e4m3 (sm_89 and later) multiplies weights and values in e4m3. The tensor cores add such products up with some 22 bits, so each
// block of 64 keys has a sum of its own, which is then added in f32. sd_attention_8bit_e4m3_f16 has that sum in f16 (SageAttention 2++), which GeForce
// cards do at twice the rate. sd_attention_8bit_bf16 takes bf16 weights and values as they are.
#include "attention_8bit.cuh"

namespace attention_8bit {

using attention::chunk_address, attention::Loader, attention::minus_infinity, attention::quad_max, attention::quad_sum,
    attention::tile_offset;

// The e4m3 kernel has no registers for two tiles of 16 queries a warp, which would halve what it reads from shared memory; on the cards it is for,
// that is not what limits it.
constexpr int QUERIES = 128, KEYS = 64, STAGES = 3;
template <bool E4M3> constexpr int TILES_OF = E4M3 ? 1 : 2;
constexpr int QUERY_BYTES = QUERIES * D;
template <bool E4M3> constexpr int STAGE_BYTES = E4M3 ? KEYS * D : 2 * KEYS * D;
template <bool E4M3> constexpr int SHARED_BYTES = QUERY_BYTES + STAGES * STAGE_BYTES<E4M3>;

// F16: sums of a block of keys in f16.
template <bool E4M3, bool F16> __device__ __forceinline__ void run(const Params &p, unsigned char *shared) {
    constexpr int TILES = TILES_OF<E4M3>, ROWS = 16 * TILES, THREADS = QUERIES / ROWS * 32;
    constexpr int CHUNKS = D / 16; // of a row of queries or keys
    constexpr int CHANNEL_TILES = D / 8, STAGE = STAGE_BYTES<E4M3>;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int head = blockIdx.y, batch = blockIdx.z, first_query = blockIdx.x * QUERIES;
    const int64_t heads = int64_t(batch) * gridDim.y + head;
    const uint32_t query_tile = shared_address(shared), ring = query_tile + QUERY_BYTES;
    const unsigned char *const k = reinterpret_cast<const unsigned char *>(p.k8 + heads * p.padded_keys * D);
    const unsigned char *const v = E4M3 ? p.v8 + heads * D * p.padded_keys : reinterpret_cast<const unsigned char *>(p.v.data + batch * p.v.batch + head * p.v.head);
    const float *const k_step = p.k_step + heads * (p.padded_keys / 64);
    int blocks;
    const int32_t *const list = p.blocks.mine(blocks, (p.keys + KEYS - 1) / KEYS);
    auto number = [&](int block) { return list ? __ldg(list + block) : block; };

    auto load = [&](int item, int stage) {
        if (item < 2 * blocks) {
            const uint32_t tile = ring + stage * STAGE;
            const int first = number(item / 2) * KEYS;
            if (item % 2 == 0) {
                Loader<KEYS, CHUNKS, THREADS>::load(tile, k, D, first, p.padded_keys, CHUNKS);
            } else if (E4M3) {
                Loader<D, KEYS / 16, THREADS>::load(tile, v + first, p.padded_keys, 0, D, KEYS / 16);
            } else {
                Loader<KEYS, D / 8, THREADS>::load(tile, v, 2 * p.v.row, first, p.keys, D / 8);
            }
        }
        cp_async_commit();
    };
    Loader<QUERIES, CHUNKS, THREADS>::load(query_tile, reinterpret_cast<const unsigned char *>(p.q8 + heads * p.padded_queries * D), D, first_query, p.padded_queries, CHUNKS);
    load(0, 0);
    load(1, 1);
    int stage = 0, next_item = STAGES - 1;
    auto advance = [&]() {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        load(next_item++, stage == 0 ? STAGES - 1 : stage - 1);
        uint32_t tile = ring + stage * STAGE;
        stage = stage == STAGES - 1 ? 0 : stage + 1;
        return tile;
    };

    float o[TILES][CHANNEL_TILES][4] = {}, largest[TILES][2], sum[TILES][2], q_step[TILES][2];
#pragma unroll
    for (int i = 0; i < TILES; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            largest[i][half] = minus_infinity();
            sum[i][half] = 0;
            q_step[i][half] = p.q_step[heads * p.padded_queries + first_query + warp * ROWS + 16 * i + 8 * half + lane / 4];
        }
    }
    const uint32_t my_queries = query_tile + tile_offset<CHUNKS>(warp * ROWS + lane % 16, lane / 16);
    const uint32_t key_offset = tile_offset<CHUNKS>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const uint32_t value_offset = E4M3 ? tile_offset<KEYS / 16>(lane % 8 + lane / 16 * 8, lane / 8 % 2) : tile_offset<D / 8>(lane % 16, lane / 16);

    for (int block = 0; block < blocks; block++) {
        // Scores, from SUM_START on.
        const uint32_t keys = advance() + key_offset;
        int s[TILES][KEYS / 8][4];
#pragma unroll
        for (int i = 0; i < TILES; i++) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    s[i][n][e] = SUM_START;
                }
            }
        }
#pragma unroll
        for (int c = 0; c < CHUNKS; c += 2) {
            uint32_t a[TILES][4];
#pragma unroll
            for (int i = 0; i < TILES; i++) {
                ldmatrix_x4_at(a[i], chunk_address<CHUNKS>(my_queries, c) + 16 * i * D);
            }
#pragma unroll
            for (int n = 0; n < KEYS / 8; n += 2) {
                uint32_t b[4];
                ldmatrix_x4_at(b, chunk_address<CHUNKS>(keys, c) + 8 * n * D);
#pragma unroll
                for (int i = 0; i < TILES; i++) {
                    mma_m16n8k32_s8(s[i][n], a[i], {b[0], b[1]});
                    mma_m16n8k32_s8(s[i][n + 1], a[i], {b[2], b[3]});
                }
            }
        }
        const int key_block = number(block), first_key = key_block * KEYS;
        if (first_key + KEYS > p.keys) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    if (first_key + 8 * n + lane % 4 * 2 + e % 2 >= p.keys) {
#pragma unroll
                        for (int i = 0; i < TILES; i++) {
                            s[i][n][e] = __float_as_int(minus_infinity());
                        }
                    }
                }
            }
        }

        // Weights relative to the running maximum, 2^8.8 times larger in e4m3 to use its range.
        const float step = __ldg(k_step + key_block);
        float before[TILES][2];
        uint32_t weights[TILES][KEYS / 8][2]; // bf16: two columns of a row; e4m3: the even ones of these, two and two columns of the next tile
#pragma unroll
        for (int i = 0; i < TILES; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float factor = q_step[i][half] * step;
                float now = minus_infinity();
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) {
                    now = fmaxf(now, fmaxf(__int_as_float(s[i][n][2 * half]), __int_as_float(s[i][n][2 * half + 1])));
                }
                now = fmaxf(largest[i][half], (quad_max(now) - SUM_START_VALUE) * factor);
                before[i][half] = exp2_fast(largest[i][half] - now);
                largest[i][half] = now;
                const float offset = fmaf(-SUM_START_VALUE, factor, (E4M3 ? LOG2_E4M3_LARGEST : 0.0f) - now);
                float total = 0;
#pragma unroll
                for (int n = 0; n < KEYS / 8; n += 2) {
                    float x[4];
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        x[e] = exp2_fast(fmaf(__int_as_float(s[i][n + e / 2][2 * half + e % 2]), factor, offset));
                        total += x[e];
                    }
#ifdef SD_HAS_E4M3_MMA
                    if (E4M3) {
                        weights[i][n][half] = pack_e4m3(x[0], x[1], x[2], x[3]);
                    } else
#endif
                    {
                        weights[i][n][half] = pack_bf16(x[0], x[1]);
                        weights[i][n + 1][half] = pack_bf16(x[2], x[3]);
                    }
                }
                sum[i][half] = sum[i][half] * before[i][half] + total;
            }
        }

        // Values.
        const uint32_t values = advance() + value_offset;
        if (E4M3) {
#ifdef SD_HAS_E4M3_MMA
#pragma unroll
            for (int n = 0; n < CHANNEL_TILES; n += 2) {
                float fresh[TILES][2][4] = {};
                uint32_t fresh_f16[TILES][2][2] = {};
#pragma unroll
                for (int m = 0; m < KEYS / 16; m += 2) {
                    uint32_t b[4];
                    ldmatrix_x4_at(b, chunk_address<KEYS / 16>(values, m) + 8 * n * KEYS);
#pragma unroll
                    for (int i = 0; i < TILES; i++) {
                        const uint32_t a[4] = {weights[i][2 * m][0], weights[i][2 * m][1], weights[i][2 * m + 2][0], weights[i][2 * m + 2][1]};
                        if (F16) {
                            mma_m16n8k32_e4m3_f16(fresh_f16[i][0], a, {b[0], b[1]});
                            mma_m16n8k32_e4m3_f16(fresh_f16[i][1], a, {b[2], b[3]});
                        } else {
                            mma_m16n8k32_e4m3(fresh[i][0], a, {b[0], b[1]});
                            mma_m16n8k32_e4m3(fresh[i][1], a, {b[2], b[3]});
                        }
                    }
                }
#pragma unroll
                for (int i = 0; i < TILES; i++) {
#pragma unroll
                    for (int e = 0; e < 8; e += 2) {
                        const int tile = e / 4, half = e % 4 / 2;
                        const float2 sums = F16 ? unpack_f16(fresh_f16[i][tile][half]) : make_float2(fresh[i][tile][e % 4], fresh[i][tile][e % 4 + 1]);
                        float(&to)[4] = o[i][n + tile];
                        to[e % 4] = fmaf(to[e % 4], before[i][half], sums.x);
                        to[e % 4 + 1] = fmaf(to[e % 4 + 1], before[i][half], sums.y);
                    }
                }
            }
#endif
        } else {
#pragma unroll
            for (int i = 0; i < TILES; i++) {
#pragma unroll
                for (int n = 0; n < CHANNEL_TILES; n++) {
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        o[i][n][e] *= before[i][e / 2];
                    }
                }
            }
#pragma unroll
            for (int m = 0; m < KEYS / 8; m += 2) {
#pragma unroll
                for (int n = 0; n < CHANNEL_TILES; n += 2) {
                    uint32_t b[4];
                    ldmatrix_x4_trans_at(b, chunk_address<D / 8>(values, n) + 8 * m * D * 2);
#pragma unroll
                    for (int i = 0; i < TILES; i++) {
                        const uint32_t a[4] = {weights[i][m][0], weights[i][m][1], weights[i][m + 1][0], weights[i][m + 1][1]};
                        mma_m16n8k16_bf16(o[i][n], a, {b[0], b[1]});
                        mma_m16n8k16_bf16(o[i][n + 1], a, {b[2], b[3]});
                    }
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
            float total = quad_sum(sum[i][half]);
            factor[half] = total > 0 ? 1.0f / total : 0.0f; // no key was seen: zeros
        }
        auto at = [&](int tile, int e) {
            float v_step = E4M3 ? __ldg(p.v_step + heads * D + 8 * tile + lane % 4 * 2 + e % 2) : 1.0f;
            return o[i][tile][e] * factor[e / 2] * v_step;
        };
        attention::store_rows<CHANNEL_TILES>(at, out + 16 * i * p.out_row, p.out_row, p.queries - first_row - 16 * i, D);
    }
}

} // namespace attention_8bit

using Attention8bitParams = attention_8bit::Params;

// Grid (Lq'/128, H, B), 128 threads, 65536 bytes of dynamic shared memory.
extern "C" __global__ void __launch_bounds__(128) sd_attention_8bit_bf16(const __grid_constant__ Attention8bitParams p) {
    SD_DYNAMIC_SHARED(unsigned char, shared);
    static_assert(attention_8bit::SHARED_BYTES<false> == 65536);
    attention_8bit::run<false, false>(p, shared);
}
SD_KERNEL(sd_attention_8bit_bf16, Attention8bitParams)

// Grid (Lq'/128, H, B), 256 threads, 40960 bytes of dynamic shared memory; sm_89 and later.
extern "C" __global__ void __launch_bounds__(256) sd_attention_8bit_e4m3(const __grid_constant__ Attention8bitParams p) {
#ifdef SD_HAS_E4M3_MMA
    SD_DYNAMIC_SHARED(unsigned char, shared);
    static_assert(attention_8bit::SHARED_BYTES<true> == 40960);
    attention_8bit::run<true, false>(p, shared);
#endif
}
SD_KERNEL_FROM(sd_attention_8bit_e4m3, Attention8bitParams, 89)

// The same with f16 sums: v_step has to be made with v_largest 2.25.
extern "C" __global__ void __launch_bounds__(256) sd_attention_8bit_e4m3_f16(const __grid_constant__ Attention8bitParams p) {
#ifdef SD_HAS_E4M3_MMA
    SD_DYNAMIC_SHARED(unsigned char, shared);
    attention_8bit::run<true, true>(p, shared);
#endif
}
SD_KERNEL_FROM(sd_attention_8bit_e4m3_f16, Attention8bitParams, 89)

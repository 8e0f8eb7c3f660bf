// Attention without a mask in bf16 for Hopper: softmax(scale·q·kᵀ + bias)·v with heads of up to 128 channels.
//
// One warpgroup loads tiles with TMA; two others have 64 queries each (FlashAttention-3, Shah et al. 2024). They take turns in
// issuing products, so that one's softmax runs while the other's products do; and within one, the scores of a block are computed
// while the values of the block before are added up.
#include "attention.cuh"
#include "wgmma.cuh"

namespace attention_sm90 {

struct Params {
    // [B, L, H, dim] bf16 as 4-D maps (dim, L, H, B), innermost first, dim <= 128 a multiple of 8; boxes (64, 128, 1, 1), 128-byte
    // swizzle, zeros outside.
    TensorMap q, k, v;
    uint16_t *out; // [B, Lq, H, dim] bf16; strides in elements, multiples of 8
    int64_t out_batch, out_row, out_head;
    const float *bias; // [Lk] f32, added to the scaled scores of every query; only sd_attention_sm90_bias
    int32_t queries, keys, dim;
    float scale; // > 0
};

#ifdef SD_HOPPER
constexpr int QUERIES = 128, KEYS = 128, STAGES = 2, CONSUMERS = 2;
constexpr int PANEL = 128 * 128;        // 128 rows of 64 channels
constexpr int TILE_BYTES = 2 * PANEL;   // of queries, keys or values

struct Shared {
    unsigned char q[TILE_BYTES], k[STAGES][TILE_BYTES], v[STAGES][TILE_BYTES];
    uint64_t q_full, k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
};
static_assert(sizeof(Shared) == 163912);

using attention::minus_infinity, attention::quad_max, attention::quad_sum;

__device__ __forceinline__ void load_tile(unsigned char *tile, const TensorMap &map, uint64_t *full, int row, int head, int batch) {
    mbarrier_arrive_expect(full, TILE_BYTES);
    tma_load_4d(tile, map, full, 0, row, head, batch);
    tma_load_4d(tile + PANEL, map, full, 64, row, head, batch);
}

// One thread. Keys run one block ahead of values, as they are consumed.
__device__ __forceinline__ void produce(const Params &p, Shared &shared, int blocks) {
    const int head = blockIdx.y, batch = blockIdx.z;
    load_tile(shared.q, p.q, &shared.q_full, blockIdx.x * QUERIES, head, batch);
#pragma unroll 1
    for (int i = 0; i <= blocks; i++) {
        if (i < blocks) {
            mbarrier_wait(&shared.k_empty[i % STAGES], i / STAGES % 2 ^ 1);
            load_tile(shared.k[i % STAGES], p.k, &shared.k_full[i % STAGES], i * KEYS, head, batch);
        }
        if (i > 0) {
            int j = i - 1;
            mbarrier_wait(&shared.v_empty[j % STAGES], j / STAGES % 2 ^ 1);
            load_tile(shared.v[j % STAGES], p.v, &shared.v_full[j % STAGES], j * KEYS, head, batch);
        }
    }
}

// A warpgroup, number `group` (1 or 2).
template <bool BIAS> __device__ __forceinline__ void consume(const Params &p, Shared &shared, int blocks, int group) {
    const int lane = threadIdx.x % 32;
    const float scale = p.scale * attention::LOG2_E, factor = BIAS ? 1.0f : scale;
    const uint64_t q = wgmma_matrix(shared_address(shared.q) + (group - 1) * 64 * 128, 1024, 0);
    float s[KEYS / 2], o[64] = {}, largest[2] = {minus_infinity(), minus_infinity()}, sum[2] = {}, before[2];
    uint32_t weights[KEYS / 8][2];

    auto issue_scores = [&](int block) {
        wgmma_fence();
        const uint64_t k = wgmma_matrix(shared_address(shared.k[block % STAGES]), 1024, 0);
#pragma unroll
        for (int c = 0; c < 8; c++) {
            int at = c / 4 * PANEL + c % 4 * 32;
            wgmma_m64n128k16_bf16(s, wgmma_matrix_at(q, at), wgmma_matrix_at(k, at), c > 0);
        }
        wgmma_commit();
    };
    auto issue_values = [&](int block) {
        wgmma_fence();
        const uint64_t v = wgmma_matrix(shared_address(shared.v[block % STAGES]), 1024, PANEL);
#pragma unroll
        for (int m = 0; m < KEYS / 16; m++) {
            const uint32_t a[4] = {weights[2 * m][0], weights[2 * m][1], weights[2 * m + 1][0], weights[2 * m + 1][1]};
            wgmma_m64n128k16_bf16_ra_bn(o, a, wgmma_matrix_at(v, m * 16 * 128), true);
        }
        wgmma_commit();
    };
    auto release = [&](uint64_t *empty) {
        if (lane == 0) {
            mbarrier_arrive(empty);
        }
    };
    // Scores to weights (still f32) relative to the running maximum; `before` is what earlier sums are to be multiplied with.
    auto softmax = [&](int block) {
        const int first_key = block * KEYS + lane % 4 * 2;
        if (BIAS) {
#pragma unroll
            for (int i = 0; i < KEYS / 2; i++) {
                s[i] = s[i] * scale + __ldg(p.bias + min(first_key + i / 4 * 8 + i % 2, p.keys - 1)) * attention::LOG2_E;
            }
        }
        if ((block + 1) * KEYS > p.keys) {
#pragma unroll
            for (int i = 0; i < KEYS / 2; i++) {
                s[i] = first_key + i / 4 * 8 + i % 2 < p.keys ? s[i] : minus_infinity();
            }
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float now = largest[half];
#pragma unroll
            for (int i = 2 * half; i < KEYS / 2; i += 4) {
                now = fmaxf(now, fmaxf(s[i], s[i + 1]));
            }
            now = quad_max(now);
            const float offset = now == minus_infinity() ? 0.0f : now * factor;
            before[half] = exp2_fast(largest[half] * factor - offset);
            largest[half] = now;
            float total = 0;
#pragma unroll
            for (int i = 2 * half; i < KEYS / 2; i += 4) {
                s[i] = exp2_fast(s[i] * factor - offset);
                s[i + 1] = exp2_fast(s[i + 1] * factor - offset);
                total += s[i] + s[i + 1];
            }
            sum[half] = sum[half] * before[half] + total;
        }
    };
    auto pack = [&]() {
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
            weights[n][0] = pack_bf16(s[4 * n], s[4 * n + 1]);
            weights[n][1] = pack_bf16(s[4 * n + 2], s[4 * n + 3]);
        }
    };
    auto wait_for_keys = [&](int block) {
        if (block < blocks) {
            mbarrier_wait(&shared.k_full[block % STAGES], block / STAGES % 2);
        }
    };
    // Barrier `group` opens when this warpgroup waits and the other one has passed the turn on.
    auto take_turn = [&]() { named_barrier_sync(group, 128 * CONSUMERS); };
    auto pass_turn = [&](int block) {
        if (group == 1 || block + 1 < blocks) {
            named_barrier_arrive(3 - group, 128 * CONSUMERS);
        }
    };

    if (group == 2) {
        named_barrier_arrive(1, 128 * CONSUMERS);
    }
    mbarrier_wait(&shared.q_full, 0);
    wait_for_keys(0);
    take_turn();
    issue_scores(0);
    pass_turn(0);
    wgmma_wait<0>();
    wgmma_hold(s);
    release(&shared.k_empty[0]);
    softmax(0);
    pack();

    wait_for_keys(1);
    for (int block = 1; block < blocks; block++) {
        const int stage = block % STAGES, last = (block - 1) % STAGES;
        take_turn();
        wgmma_hold(s);
        wgmma_hold(o);
        issue_scores(block);
        mbarrier_wait(&shared.v_full[last], (block - 1) / STAGES % 2);
        issue_values(block - 1);
        pass_turn(block);
        wgmma_wait<1>();
        wgmma_hold(s);
        release(&shared.k_empty[stage]);
        softmax(block);
        // The wait keeps the compiler from moving the softmax, which is to run beside the second product, behind the end of that.
        wgmma_hold(s);
        wait_for_keys(block + 1);
        wgmma_wait<0>();
        wgmma_hold(o);
        release(&shared.v_empty[last]);
#pragma unroll
        for (int i = 0; i < 64; i++) {
            o[i] *= before[i / 2 % 2];
        }
        pack();
    }

    mbarrier_wait(&shared.v_full[(blocks - 1) % STAGES], (blocks - 1) / STAGES % 2);
    wgmma_hold(o);
    issue_values(blocks - 1);
    wgmma_wait<0>();
    wgmma_hold(o);

    const int first_row = blockIdx.x * QUERIES + (group - 1) * 64 + threadIdx.x % 128 / 32 * 16;
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float total = quad_sum(sum[half]);
        inverse[half] = total > 0 ? 1.0f / total : 0.0f; // all keys masked: zeros
    }
    auto at = [&](int tile, int e) { return o[4 * tile + e] * inverse[e / 2]; };
    uint16_t *out = p.out + blockIdx.z * p.out_batch + blockIdx.y * p.out_head + first_row * p.out_row;
    attention::store_rows<16>(at, out, p.out_row, p.queries - first_row, p.dim);
}

template <bool BIAS> __device__ __forceinline__ void run(const Params &p, Shared &shared) {
    // The shuffle shows the compiler that all lanes go the same way.
    const int group = __shfl_sync(~0u, int(threadIdx.x) / 128, 0), blocks = (p.keys + KEYS - 1) / KEYS;
    if (threadIdx.x == 0) {
        mbarrier_init(&shared.q_full, 1);
        for (int i = 0; i < STAGES; i++) {
            mbarrier_init(&shared.k_full[i], 1);
            mbarrier_init(&shared.v_full[i], 1);
            mbarrier_init(&shared.k_empty[i], 4 * CONSUMERS);
            mbarrier_init(&shared.v_empty[i], 4 * CONSUMERS);
        }
        mbarrier_init_fence();
    }
    __syncthreads();
    if (group == 0) {
        registers_give_back<24>();
        if (threadIdx.x == 0) {
            produce(p, shared, blocks);
        }
    } else {
        registers_take<240>();
        consume<BIAS>(p, shared, blocks, group);
    }
}
#endif

} // namespace attention_sm90

using AttentionSm90Params = attention_sm90::Params;

// Grid (⌈Lq/128⌉, H, B), 384 threads, 163912 bytes of dynamic shared memory; sm_90a.
extern "C" __global__ void __launch_bounds__(384, 1) sd_attention_sm90(const __grid_constant__ AttentionSm90Params p) {
#ifdef SD_HOPPER
    SD_DYNAMIC_SHARED(attention_sm90::Shared, shared);
    attention_sm90::run<false>(p, *shared);
#endif
}
SD_KERNEL_ONLY(sd_attention_sm90, AttentionSm90Params, 90)

// The same with a bias.
extern "C" __global__ void __launch_bounds__(384, 1) sd_attention_sm90_bias(const __grid_constant__ AttentionSm90Params p) {
#ifdef SD_HOPPER
    SD_DYNAMIC_SHARED(attention_sm90::Shared, shared);
    attention_sm90::run<true>(p, *shared);
#endif
}
SD_KERNEL_ONLY(sd_attention_sm90_bias, AttentionSm90Params, 90)

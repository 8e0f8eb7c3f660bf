// Attention with int8 scores and e4m3 values for Hopper: buffers as attention_8bit.cuh describes them, the frame that of attention_sm90.cu.
//
// wgmma adds e4m3 products up with some 22 bits, so each block of 128 keys has a sum of its own, which is then added in f32 together with
// the correction for the running maximum.
#include "attention_8bit.cuh"
#include "wgmma.cuh"

namespace attention_8bit_sm90 {

struct Params {
    // 2-D maps of bytes, innermost first, boxes (128, 128), 128-byte swizzle:
    TensorMap q8; // (128, B·H·Lq')
    TensorMap k8; // (128, B·H·Lk')
    TensorMap v8; // (Lk', B·H·128)
    const float *q_step, *k_step, *v_step;
    uint16_t *out; // [B, Lq, H, 128] bf16; strides in elements, multiples of 8
    int64_t out_batch, out_row, out_head;
    attention_8bit::Blocks blocks; // of 128 keys
    int32_t queries, keys;
    int32_t padded_queries, padded_keys; // Lq', Lk'
};

#ifdef SD_HOPPER
constexpr int QUERIES = 128, KEYS = 128, D = 128, STAGES = 4, CONSUMERS = 2;
constexpr int TILE_BYTES = 128 * 128;

struct Shared {
    unsigned char q[TILE_BYTES], k[STAGES][TILE_BYTES], v[STAGES][TILE_BYTES];
    uint64_t q_full, k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
};
static_assert(sizeof(Shared) == 147592);

using attention::minus_infinity, attention::quad_max, attention::quad_sum;
using attention_8bit::SUM_START, attention_8bit::SUM_START_VALUE;

__device__ __forceinline__ void load_tile(unsigned char *tile, const TensorMap &map, uint64_t *full, int x, int y) {
    mbarrier_arrive_expect(full, TILE_BYTES);
    tma_load_2d(tile, map, full, x, y);
}

// One thread. Keys run one block ahead of values, as they are consumed.
__device__ __forceinline__ void produce(const Params &p, Shared &shared, const int32_t *list, int blocks) {
    const int heads = blockIdx.z * gridDim.y + blockIdx.y;
    auto first_key = [&](int block) { return (list ? __ldg(list + block) : block) * KEYS; };
    load_tile(shared.q, p.q8, &shared.q_full, 0, heads * p.padded_queries + blockIdx.x * QUERIES);
#pragma unroll 1
    for (int i = 0; i <= blocks; i++) {
        if (i < blocks) {
            mbarrier_wait(&shared.k_empty[i % STAGES], i / STAGES % 2 ^ 1);
            load_tile(shared.k[i % STAGES], p.k8, &shared.k_full[i % STAGES], 0, heads * p.padded_keys + first_key(i));
        }
        if (i > 0) {
            int j = i - 1;
            mbarrier_wait(&shared.v_empty[j % STAGES], j / STAGES % 2 ^ 1);
            load_tile(shared.v[j % STAGES], p.v8, &shared.v_full[j % STAGES], first_key(j), heads * D);
        }
    }
}

// A warpgroup, number `group` (1 or 2); at least one block.
__device__ __forceinline__ void consume(const Params &p, Shared &shared, const int32_t *list, int blocks, int group) {
    const int lane = threadIdx.x % 32, first_row = blockIdx.x * QUERIES + (group - 1) * 64 + threadIdx.x % 128 / 32 * 16;
    const int64_t heads = int64_t(blockIdx.z) * gridDim.y + blockIdx.y;
    const float *const k_step = p.k_step + heads * (p.padded_keys / 64);
    const float *const q_steps = p.q_step + heads * p.padded_queries + first_row + lane / 4;
    const float q_step[2] = {q_steps[0], q_steps[8]};
    const uint64_t q = wgmma_matrix(shared_address(shared.q) + (group - 1) * 64 * 128, 1024, 0);
    int s[KEYS / 2]; // sums from SUM_START on, which are floats; then weights, as floats
    float o[64] = {}, fresh[64], largest[2] = {minus_infinity(), minus_infinity()}, sum[2] = {}, before[2] = {}, held[2];
    uint32_t weights[KEYS / 32][4];

    auto start_scores = [&]() {
#pragma unroll
        for (int i = 0; i < KEYS / 2; i++) {
            s[i] = SUM_START;
        }
        wgmma_hold(s);
    };
    auto issue_scores = [&](int block) {
        wgmma_fence();
        const uint64_t k = wgmma_matrix(shared_address(shared.k[block % STAGES]), 1024, 0);
#pragma unroll
        for (int c = 0; c < D / 32; c++) {
            wgmma_m64n128k32_s8(s, wgmma_matrix_at(q, c * 32), wgmma_matrix_at(k, c * 32), true);
        }
        wgmma_commit();
    };
    auto issue_values = [&](int block) {
        wgmma_fence();
        const uint64_t v = wgmma_matrix(shared_address(shared.v[block % STAGES]), 1024, 0);
#pragma unroll
        for (int m = 0; m < KEYS / 32; m++) {
            wgmma_m64n128k32_e4m3_ra(fresh, weights[m], wgmma_matrix_at(v, m * 32), m > 0);
        }
        wgmma_commit();
    };
    auto release = [&](uint64_t *empty) {
        if (lane == 0) {
            mbarrier_arrive(empty);
        }
    };
    // Sums to weights (still f32, times 448) relative to the running maximum; `before` is what earlier sums are to be multiplied with.
    auto softmax = [&](int block) {
        const int number = list ? __ldg(list + block) : block, first_key = number * KEYS + lane % 4 * 2;
        if ((number + 1) * KEYS > p.keys) {
#pragma unroll
            for (int i = 0; i < KEYS / 2; i++) {
                s[i] = first_key + i / 4 * 8 + i % 2 < p.keys ? s[i] : __float_as_int(minus_infinity());
            }
        }
        const float steps[2] = {__ldg(k_step + 2 * number), __ldg(k_step + 2 * number + 1)};
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float now = largest[half];
#pragma unroll
            for (int part = 0; part < 2; part++) {
                float highest = minus_infinity();
#pragma unroll
                for (int i = part * 32 + 2 * half; i < part * 32 + 32; i += 4) {
                    highest = fmaxf(highest, fmaxf(__int_as_float(s[i]), __int_as_float(s[i + 1])));
                }
                now = fmaxf(now, (highest - SUM_START_VALUE) * (q_step[half] * steps[part]));
            }
            now = quad_max(now);
            before[half] = exp2_fast(largest[half] - now);
            largest[half] = now;
            float total = 0;
#pragma unroll
            for (int part = 0; part < 2; part++) {
                const float factor = q_step[half] * steps[part], offset = fmaf(-SUM_START_VALUE, factor, attention_8bit::LOG2_E4M3_LARGEST - now);
#pragma unroll
                for (int i = part * 32 + 2 * half; i < part * 32 + 32; i += 4) {
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        float x = exp2_fast(fmaf(__int_as_float(s[i + e]), factor, offset));
                        total += x;
                        s[i + e] = __float_as_int(x);
                    }
                }
            }
            sum[half] = sum[half] * before[half] + total;
        }
    };
    auto pack = [&]() {
#pragma unroll
        for (int m = 0; m < KEYS / 32; m++) {
#pragma unroll
            for (int r = 0; r < 4; r++) {
                // Rows g or g+8 of tiles 4m + 2·(r/2) and the next.
                const int i = 16 * m + r / 2 * 8 + r % 2 * 2;
                weights[m][r] = pack_e4m3(__int_as_float(s[i]), __int_as_float(s[i + 1]), __int_as_float(s[i + 4]), __int_as_float(s[i + 5]));
            }
        }
    };
    // `fresh` is relative to the maximum of its block: `held` takes earlier sums there.
    auto add_values = [&]() {
#pragma unroll
        for (int i = 0; i < 64; i++) {
            o[i] = fmaf(o[i], held[i / 2 % 2], fresh[i]);
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
    start_scores();
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
        held[0] = before[0];
        held[1] = before[1];
        start_scores();
        take_turn();
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
        wgmma_hold(fresh);
        release(&shared.v_empty[last]);
        add_values();
        pack();
    }

    held[0] = before[0];
    held[1] = before[1];
    mbarrier_wait(&shared.v_full[(blocks - 1) % STAGES], (blocks - 1) / STAGES % 2);
    issue_values(blocks - 1);
    wgmma_wait<0>();
    wgmma_hold(fresh);
    add_values();

    const float inverse[2] = {1.0f / quad_sum(sum[0]), 1.0f / quad_sum(sum[1])};
    auto at = [&](int tile, int e) { return o[4 * tile + e] * inverse[e / 2] * __ldg(p.v_step + heads * D + 8 * tile + lane % 4 * 2 + e % 2); };
    uint16_t *out = p.out + blockIdx.z * p.out_batch + blockIdx.y * p.out_head + first_row * p.out_row;
    attention::store_rows<16>(at, out, p.out_row, p.queries - first_row, D);
}

__device__ __forceinline__ void run(const Params &p, Shared &shared) {
    int blocks;
    const int32_t *const list = p.blocks.mine(blocks, (p.keys + KEYS - 1) / KEYS);
    // The shuffle shows the compiler that all lanes go the same way.
    const int group = __shfl_sync(~0u, int(threadIdx.x) / 128, 0);
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
        if (threadIdx.x == 0 && blocks > 0) {
            produce(p, shared, list, blocks);
        }
    } else {
        registers_take<240>();
        if (blocks > 0) {
            consume(p, shared, list, blocks, group);
        } else {
            // No key is seen: zeros.
            const int first_row = blockIdx.x * QUERIES + (group - 1) * 64 + threadIdx.x % 128 / 32 * 16;
            uint16_t *out = p.out + blockIdx.z * p.out_batch + blockIdx.y * p.out_head + first_row * p.out_row;
            attention::store_rows<16>([](int, int) { return 0.0f; }, out, p.out_row, p.queries - first_row, D);
        }
    }
}
#endif

} // namespace attention_8bit_sm90

using Attention8bitSm90Params = attention_8bit_sm90::Params;

// Grid (Lq'/128, H, B), 384 threads, 147592 bytes of dynamic shared memory; sm_90a.
extern "C" __global__ void __launch_bounds__(384, 1) sd_attention_8bit_sm90(const __grid_constant__ Attention8bitSm90Params p) {
#ifdef SD_HOPPER
    SD_DYNAMIC_SHARED(attention_8bit_sm90::Shared, shared);
    attention_8bit_sm90::run(p, *shared);
#endif
}
SD_KERNEL_ONLY(sd_attention_8bit_sm90, Attention8bitSm90Params, 90)

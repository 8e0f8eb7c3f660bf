// Queries, keys and values for the 8-bit attention kernels; buffers as attention_8bit.cuh describes them.
// Order of launches: sums, means, then queries, keys and values in any order.
#include "attention_8bit.cuh"

namespace attention_8bit {

constexpr int THREADS = 256;

// Eight channels of a row.
__device__ __forceinline__ void read(const uint16_t *p, float (&x)[8]) { load8(reinterpret_cast<const Bf16 *>(p), x); }

__device__ __forceinline__ uint2 to_int8(const float (&x)[8], float inverse) {
    return make_uint2(pack_int8(x[0] * inverse, x[1] * inverse, x[2] * inverse, x[3] * inverse), pack_int8(x[4] * inverse, x[5] * inverse, x[6] * inverse, x[7] * inverse));
}

struct SumsParams {
    attention::View k, v; // [B, Lk, H, 128] bf16
    float *partial;       // [B, H, chunks, 2, 128]: sums of k, largest magnitudes of v
    int32_t keys, chunks;
};

// Thread t has channels 8·(t % 16).. of every 16th row.
__device__ __forceinline__ void sums(const SumsParams &p) {
    SD_SHARED(float, shared, 2 * 16 * D);
    const int chunk = blockIdx.x, head = blockIdx.y, batch = blockIdx.z, channel = threadIdx.x % 16 * 8, group = threadIdx.x / 16;
    const int rows = (p.keys + p.chunks - 1) / p.chunks, end = min((chunk + 1) * rows, p.keys);
    const uint16_t *k = p.k.data + batch * p.k.batch + head * p.k.head + channel, *v = p.v.data + batch * p.v.batch + head * p.v.head + channel;
    float sum[8] = {}, largest[8] = {};
    for (int row = chunk * rows + group; row < end; row += 16) {
        float x[8], y[8];
        read(k + row * p.k.row, x);
        read(v + row * p.v.row, y);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            sum[i] += x[i];
            largest[i] = fmaxf(largest[i], fabsf(y[i]));
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        shared[group * D + channel + i] = sum[i];
        shared[(16 + group) * D + channel + i] = largest[i];
    }
    __syncthreads();
    const int which = threadIdx.x / D, c = threadIdx.x % D;
    float total = 0;
    for (int i = 0; i < 16; i++) {
        float x = shared[(16 * which + i) * D + c];
        total = which ? fmaxf(total, x) : total + x;
    }
    p.partial[(((int64_t(batch) * gridDim.y + head) * p.chunks + chunk) * 2 + which) * D + c] = total;
}

struct MeansParams {
    const float *partial; // of the sums
    float *k_mean;
    float *v_step;
    int32_t keys, chunks;
    // What the largest value of a channel becomes: 448, and 2.25 for sd_attention_8bit_e4m3_f16, whose sums of 64 products with weights up to
    // 448 have to stay below 65504.
    float v_largest;
};

__device__ __forceinline__ void means(const MeansParams &p) {
    const int64_t head = int64_t(blockIdx.y) * gridDim.x + blockIdx.x;
    const int c = threadIdx.x;
    float sum = 0, largest = 0;
    for (int i = 0; i < p.chunks; i++) {
        const float *partial = p.partial + (head * p.chunks + i) * 2 * D + c;
        sum += partial[0];
        largest = fmaxf(largest, partial[D]);
    }
    p.k_mean[head * D + c] = sum / float(p.keys);
    p.v_step[head * D + c] = fmaxf(largest / p.v_largest, SMALLEST_STEP);
}

struct QueriesParams {
    attention::View q; // [B, Lq, H, 128] bf16
    int8_t *q8;
    float *q_step;
    int32_t queries, padded_queries;
    float scale;       // of scores, > 0
};

// Half a warp has a row.
__device__ __forceinline__ void queries(const QueriesParams &p) {
    const int head = blockIdx.y, batch = blockIdx.z, channel = threadIdx.x % 16 * 8;
    const int64_t out = (int64_t(batch) * gridDim.y + head) * p.padded_queries;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int row = blockIdx.x * 64 + i * 16 + threadIdx.x / 16;
        float x[8] = {};
        if (row < p.queries) {
            read(p.q.data + batch * p.q.batch + head * p.q.head + row * p.q.row + channel, x);
        }
        float largest = 0;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            largest = fmaxf(largest, fabsf(x[j]));
        }
#pragma unroll
        for (int other = 1; other < 16; other *= 2) {
            largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, other));
        }
        const float step = fmaxf(largest / 127.0f, SMALLEST_STEP);
        *reinterpret_cast<uint2 *>(p.q8 + (out + row) * D + channel) = to_int8(x, 1.0f / step);
        if (channel == 0) {
            p.q_step[out + row] = fmaxf(step * p.scale * attention::LOG2_E, SMALLEST_STEP);
        }
    }
}

struct KeysParams {
    attention::View k; // [B, Lk, H, 128] bf16
    const float *k_mean;
    int8_t *k8;
    float *k_step;
    int32_t keys, padded_keys;
};

// 64 keys, of which a thread has channels 8·(t % 16).. of four.
__device__ __forceinline__ void keys(const KeysParams &p) {
    SD_SHARED(float, of_warp, THREADS / 32);
    const int head = blockIdx.y, batch = blockIdx.z, channel = threadIdx.x % 16 * 8, first = blockIdx.x * 64 + threadIdx.x / 16;
    const int64_t heads = int64_t(batch) * gridDim.y + head;
    float mean[8], x[4][8] = {}, largest = 0;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        mean[j] = p.k_mean[heads * D + channel + j];
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int row = first + 16 * i;
        if (row < p.keys) {
            read(p.k.data + batch * p.k.batch + head * p.k.head + row * p.k.row + channel, x[i]);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                x[i][j] -= mean[j];
                largest = fmaxf(largest, fabsf(x[i][j]));
            }
        }
    }
#pragma unroll
    for (int other = 1; other < 32; other *= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, other));
    }
    if (threadIdx.x % 32 == 0) {
        of_warp[threadIdx.x / 32] = largest;
    }
    __syncthreads();
    for (int i = 0; i < THREADS / 32; i++) {
        largest = fmaxf(largest, of_warp[i]);
    }
    const float step = fmaxf(largest / 127.0f, SMALLEST_STEP);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        *reinterpret_cast<uint2 *>(p.k8 + (heads * p.padded_keys + first + 16 * i) * D + channel) = to_int8(x[i], 1.0f / step);
    }
    if (threadIdx.x == 0) {
        p.k_step[heads * (p.padded_keys / 64) + blockIdx.x] = step;
    }
}

struct ValuesParams {
    attention::View v; // [B, Lk, H, 128] bf16
    const float *v_step;
    uint8_t *v8;
    int32_t keys, padded_keys;
};

// 128 keys, of which a thread has one channel of 64.
__device__ __forceinline__ void values(const ValuesParams &p) {
#if defined(SD_EMULATED) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890)
    const int head = blockIdx.y, batch = blockIdx.z, channel = threadIdx.x % D, first = blockIdx.x * 128 + threadIdx.x / D * 64;
    const int64_t heads = int64_t(batch) * gridDim.y + head;
    const uint16_t *v = p.v.data + batch * p.v.batch + head * p.v.head + channel;
    const float inverse = 1.0f / p.v_step[heads * D + channel];
    uint8_t *out = p.v8 + (heads * D + channel) * p.padded_keys + first;
    for (int group = 0; group < 64; group += 16) {
        uint32_t w[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float x[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int key = first + group + key_at(4 * i + j);
                x[j] = key < p.keys ? unpack_bf16(v[key * p.v.row]).x * inverse : 0.0f;
            }
            w[i] = pack_e4m3(x[0], x[1], x[2], x[3]);
        }
        *reinterpret_cast<uint4 *>(out + group) = make_uint4(w[0], w[1], w[2], w[3]);
    }
#endif
}

} // namespace attention_8bit

using AttentionSumsParams = attention_8bit::SumsParams;
using AttentionMeansParams = attention_8bit::MeansParams;
using AttentionQueriesParams = attention_8bit::QueriesParams;
using AttentionKeysParams = attention_8bit::KeysParams;
using AttentionValuesParams = attention_8bit::ValuesParams;

// Grid (chunks, H, B), 256 threads. Some 32 chunks are enough; each has at least one key.
extern "C" __global__ void __launch_bounds__(256) sd_attention_8bit_sums(const __grid_constant__ AttentionSumsParams p) { attention_8bit::sums(p); }
SD_KERNEL(sd_attention_8bit_sums, AttentionSumsParams)

// Grid (H, B), 128 threads.
extern "C" __global__ void __launch_bounds__(128) sd_attention_8bit_means(const __grid_constant__ AttentionMeansParams p) { attention_8bit::means(p); }
SD_KERNEL(sd_attention_8bit_means, AttentionMeansParams)

// Grid (Lq'/64, H, B), 256 threads.
extern "C" __global__ void __launch_bounds__(256) sd_attention_8bit_queries(const __grid_constant__ AttentionQueriesParams p) { attention_8bit::queries(p); }
SD_KERNEL(sd_attention_8bit_queries, AttentionQueriesParams)

// Grid (Lk'/64, H, B), 256 threads.
extern "C" __global__ void __launch_bounds__(256) sd_attention_8bit_keys(const __grid_constant__ AttentionKeysParams p) { attention_8bit::keys(p); }
SD_KERNEL(sd_attention_8bit_keys, AttentionKeysParams)

// Grid (Lk'/128, H, B), 256 threads; sm_89 and later.
extern "C" __global__ void __launch_bounds__(256) sd_attention_8bit_values(const __grid_constant__ AttentionValuesParams p) { attention_8bit::values(p); }
SD_KERNEL_FROM(sd_attention_8bit_values, AttentionValuesParams, 89)

// What the 8-bit attention kernels share (SageAttention 2, Zhang et al. 2024): int8 scores, values in e4m3 or bf16, 128 channels a head.
//
// Buffers, with Lq' and Lk' the numbers of queries and keys rounded up to multiples of 128; rows behind the last are zeros:
//   q8        int8  [B, H, Lq', 128]   round(q / step)
//   q_step    f32   [B, H, Lq']        a step for each query, times softmax scale · log2 e
//   k8        int8  [B, H, Lk', 128]   round((k − mean) / step)
//   k_step    f32   [B, H, Lk'/64]     a step for each 64 keys
//   k_mean    f32   [B, H, 128]        over all keys: leaving it out adds the same to all scores of a query
//   v8        e4m3  [B, H, 128, Lk']   v / step, keys in the order of `key_at` within each 16
//   v_step    f32   [B, H, 128]        a step for each channel
#pragma once
#include "attention.cuh"

namespace attention_8bit {

constexpr int D = 128;
// Steps are at least this, so that zeros need no care and products of two are normal numbers.
constexpr float SMALLEST_STEP = 1e-15f;
constexpr float LOG2_E4M3_LARGEST = 8.807354922f; // of 448, which the largest weight becomes

// Scores are summed on top of this integer: read as a float it is 1.5·2^23, and adding n to it as an integer adds n as a number (|n| < 2^22;
// 128·127² is half of that). So int32 sums are floats, less 1.5·2^23, without conversion.
constexpr int SUM_START = 0x4b400000;
constexpr float SUM_START_VALUE = 12582912.0f;

// The key that lies at place p of each 16 of v8. A lane's scores are columns 2t, 2t+1 of tiles of 8; as operand of the second product it
// has to bring places 4t..4t+3.
__device__ __forceinline__ int key_at(int p) { return p / 4 * 2 + p % 2 + p % 4 / 2 * 8; }

// Which blocks of keys a block of 128 queries sees, the same for all queries of it; all if `list` is null.
struct Blocks {
    const int32_t *list;  // [B, H, Lq'/128, stride]: numbers of blocks of keys, ascending
    const int32_t *count; // [B, H, Lq'/128]
    int32_t stride;

    // Of the running block of threads; `all` blocks exist.
    __device__ __forceinline__ const int32_t *mine(int &blocks, int all) const {
        if (!list) {
            blocks = all;
            return nullptr;
        }
        int64_t i = (int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        blocks = count[i];
        return list + i * stride;
    }
};

struct Params {
    const int8_t *q8;
    const float *q_step;
    const int8_t *k8;
    const float *k_step;
    const uint8_t *v8;    // the e4m3 kernels
    const float *v_step;
    attention::View v;    // [B, Lk, H, 128] bf16, the bf16 kernel
    uint16_t *out;        // [B, Lq, H, 128] bf16; strides in elements, multiples of 8
    int64_t out_batch, out_row, out_head;
    Blocks blocks;        // of 64 keys
    int32_t queries, keys;
    int32_t padded_queries, padded_keys; // Lq', Lk'
};

} // namespace attention_8bit

// Kernels that see a whole row: LayerNorm with modulation, RMSNorm with rotary embedding, rounding to 8 bits with a scale a row.
//
// A block has a row in registers: it is read once and written once.
#include "common.cuh"

namespace {

constexpr int THREADS = 128;

} // namespace

enum RowOutput : int { ROW_F32 = 0, ROW_BF16 = 1, ROW_INT8 = 2, ROW_E4M3 = 3 };

// y = round(rotate(rope(norm(x)·(scale_offset + scale) + shift))). What is null or 0 is left out.
// grid (rows), block 128, no dynamic shared memory. Kernels end in the most columns that they take: _2k 2048, _5k 5120, _14k 14336.
struct RowParams {
    const void *x;      // [rows, columns], f32 or bf16 by the kernel's name; may be y where both have 16 or both 32 bits
    void *y;            // [rows, columns], see output
    float *y_scale;     // [rows], of 8-bit outputs: x = q·y_scale
    Bf16 *plain;        // [rows, columns] or null: what is quantised, before the rotation
    const float *scale; // [.., columns] or null
    const float *shift; // [.., columns] or null
    const float *cos;   // [rope_rows, head_width / 2] or null; row r of x has the angles of r % rope_rows
    const float *sin;
    int64_t x_stride;          // numbers from row to row, a multiple of 8; pointers are multiples of 16 bytes
    int64_t y_stride;          // of y and plain
    int64_t modulation_stride; // of scale and shift, a multiple of 4
    int rows_of_modulation;    // rows that share a scale and shift
    int rope_rows;
    int head_width; // multiple of 8
    int rows;
    int columns; // multiple of 8, of 256 with rotate
    float eps;
    float scale_offset; // 1 for modulation, 0 for weights
    int rotate;         // 1: Hadamard rotation in groups of 256, as kernels::quant::decode::reference::rotate
    int output;         // RowOutput
};

namespace {

enum class Norm { NONE, LAYER, RMS };

// One stage of the rotation between lanes: four numbers at `distance` lanes become (a+b+c-d, a+b-c+d, a-b+c+d, -a+b+c+d).
// The second and third trade places: the caller swaps these two bits of the lane when it stores.
__device__ __forceinline__ void rotate_lanes(float (&v)[8], int distance) {
    int place = threadIdx.x / distance % 4;
    float mine = place == 1 ? -1.0f : 1.0f, others = place == 2 ? -1.0f : 1.0f;
    float mine_then = place == 2 ? -1.0f : 1.0f, others_then = place == 3 ? -1.0f : 1.0f;
#pragma unroll
    for (int e = 0; e < 8; e++) {
        // (a+b, a-b, c-d, c+d)
        float x = mine * v[e] + others * __shfl_xor_sync(0xffffffffu, v[e], distance);
        v[e] = mine_then * x + others_then * __shfl_xor_sync(0xffffffffu, x, 2 * distance);
    }
}

// H·x/16 for the 256 numbers of a warp, eight a lane in order. Afterwards lane l has those of lane `rotated_lane(l)`.
__device__ __forceinline__ void rotate_warp(float (&v)[8]) {
    // Neighbours of a lane.
#pragma unroll
    for (int e = 0; e < 8; e += 4) {
        float sum = v[e] + v[e + 1], difference = v[e] - v[e + 1], other_sum = v[e + 2] + v[e + 3], other = v[e + 2] - v[e + 3];
        v[e] = sum + other, v[e + 1] = sum - other, v[e + 2] = difference + other_sum, v[e + 3] = other_sum - difference;
    }
    // Distance 4: two of the four in this lane, two in the next.
#pragma unroll
    for (int e = 0; e < 4; e++) {
        float sum = v[e] + v[e + 4], other = __shfl_xor_sync(0xffffffffu, v[e] - v[e + 4], 1);
        v[e] = sum + other, v[e + 4] = sum - other;
    }
    rotate_lanes(v, 2);
    rotate_lanes(v, 8);
#pragma unroll
    for (int e = 0; e < 8; e++) {
        v[e] *= 0.0625f;
    }
}

// Bits 1 and 2, and bits 3 and 4, traded.
__device__ __forceinline__ int rotated_lane(int lane) { return (lane & 1) | (lane & 2) << 1 | (lane & 4) >> 1 | (lane & 8) << 1 | (lane & 16) >> 1; }

template <typename T, int CHUNKS, Norm NORM> __device__ __forceinline__ void rows_kernel(const RowParams &p) {
    SD_SHARED(float, sums, 2 * THREADS / 32);
    SD_SHARED(uint32_t, largest, THREADS / 32);
    const int row = blockIdx.x, lane = threadIdx.x % 32;
    const T *x = static_cast<const T *>(p.x) + row * p.x_stride;
    float v[CHUNKS][8];
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        int column = (i * THREADS + int(threadIdx.x)) * 8;
        if (column < p.columns) {
            load8(x + column, v[i]);
        } else {
#pragma unroll
            for (int e = 0; e < 8; e++) {
                v[i][e] = 0.0f;
            }
        }
    }

    if (NORM != Norm::NONE) {
        float mean = 0.0f;
        if (NORM == Norm::LAYER) {
            float sum = 0.0f;
#pragma unroll
            for (int i = 0; i < CHUNKS; i++) {
#pragma unroll
                for (int e = 0; e < 8; e++) {
                    sum += v[i][e];
                }
            }
            mean = block_sum<THREADS>(sum, sums) / p.columns;
        }
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < CHUNKS; i++) {
            if ((i * THREADS + int(threadIdx.x)) * 8 < p.columns) {
#pragma unroll
                for (int e = 0; e < 8; e++) {
                    v[i][e] -= mean;
                    squares += v[i][e] * v[i][e];
                }
            }
        }
        float factor = rsqrtf(block_sum<THREADS>(squares, sums + THREADS / 32) / p.columns + p.eps);
#pragma unroll
        for (int i = 0; i < CHUNKS; i++) {
#pragma unroll
            for (int e = 0; e < 8; e++) {
                v[i][e] *= factor;
            }
        }
    }

    const int place = p.rotate ? rotated_lane(lane) : lane; // of this lane's results in the warp's chunks
    const int64_t modulation = row / p.rows_of_modulation * p.modulation_stride;
    uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        int column = (i * THREADS + int(threadIdx.x)) * 8;
        if (column >= p.columns) {
            continue; // with a rotation whole warps do
        }
        if (p.scale) {
            float scale[8];
            load8(p.scale + modulation + column, scale);
#pragma unroll
            for (int e = 0; e < 8; e++) {
                v[i][e] *= p.scale_offset + scale[e];
            }
        }
        if (p.shift) {
            float shift[8];
            load8(p.shift + modulation + column, shift);
#pragma unroll
            for (int e = 0; e < 8; e++) {
                v[i][e] += shift[e];
            }
        }
        if (p.cos) {
            int64_t angle = int64_t(row % p.rope_rows) * (p.head_width / 2) + column % p.head_width / 2;
            float4 cos = *reinterpret_cast<const float4 *>(p.cos + angle), sin = *reinterpret_cast<const float4 *>(p.sin + angle);
            const float c[4] = {cos.x, cos.y, cos.z, cos.w}, s[4] = {sin.x, sin.y, sin.z, sin.w};
#pragma unroll
            for (int pair = 0; pair < 4; pair++) {
                float re = v[i][2 * pair], im = v[i][2 * pair + 1];
                v[i][2 * pair] = re * c[pair] - im * s[pair];
                v[i][2 * pair + 1] = re * s[pair] + im * c[pair];
            }
        }
        if (p.plain) {
            store8(p.plain + row * p.y_stride + column, v[i]);
        }
        if (p.rotate) {
            rotate_warp(v[i]);
            column += (place - lane) * 8;
        }
        if (p.output == ROW_F32) {
            store8(static_cast<float *>(p.y) + row * p.y_stride + column, v[i]);
        } else if (p.output == ROW_BF16) {
            store8(static_cast<Bf16 *>(p.y) + row * p.y_stride + column, v[i]);
        }
#pragma unroll
        for (int e = 0; e < 8; e++) {
            most = max(most, magnitude(v[i][e]));
        }
    }
    if (p.output < ROW_INT8) {
        return;
    }

    RowScale rounding = row_scale(block_max<THREADS>(most, largest), p.output == ROW_INT8 ? 127.0f : 448.0f);
    if (threadIdx.x == 0) {
        p.y_scale[row] = rounding.scale;
    }
    uint8_t *y = static_cast<uint8_t *>(p.y) + row * p.y_stride;
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        int column = (i * THREADS + int(threadIdx.x) - lane + place) * 8;
        if (column < p.columns) {
            float q[8];
#pragma unroll
            for (int e = 0; e < 8; e++) {
                q[e] = rounding.factor == 0.0f ? 0.0f : v[i][e] * rounding.factor;
            }
            *reinterpret_cast<uint2 *>(y + column) = p.output == ROW_INT8 ? make_uint2(pack_int8(q[0], q[1], q[2], q[3]), pack_int8(q[4], q[5], q[6], q[7]))
                                                                         : make_uint2(pack_e4m3(q[0], q[1], q[2], q[3]), pack_e4m3(q[4], q[5], q[6], q[7]));
        }
    }
}

} // namespace

#define SD_ROWS(name, T, CHUNKS, NORM)                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS) name(const __grid_constant__ RowParams p) {                    \
        rows_kernel<T, CHUNKS, Norm::NORM>(p);                                                                           \
    }                                                                                                                    \
    SD_KERNEL(name, RowParams)

// norm(x) is (x - mean)/√(variance + eps)
SD_ROWS(sd_layer_norm_f32_2k, float, 2, LAYER)
SD_ROWS(sd_layer_norm_f32_5k, float, 5, LAYER)
SD_ROWS(sd_layer_norm_f32_14k, float, 14, LAYER)
SD_ROWS(sd_layer_norm_bf16_2k, Bf16, 2, LAYER)
SD_ROWS(sd_layer_norm_bf16_5k, Bf16, 5, LAYER)
SD_ROWS(sd_layer_norm_bf16_14k, Bf16, 14, LAYER)
// x/√(mean(x²) + eps)
SD_ROWS(sd_rms_norm_f32_2k, float, 2, RMS)
SD_ROWS(sd_rms_norm_f32_5k, float, 5, RMS)
SD_ROWS(sd_rms_norm_f32_14k, float, 14, RMS)
SD_ROWS(sd_rms_norm_bf16_2k, Bf16, 2, RMS)
SD_ROWS(sd_rms_norm_bf16_5k, Bf16, 5, RMS)
SD_ROWS(sd_rms_norm_bf16_14k, Bf16, 14, RMS)
// x
SD_ROWS(sd_rows_f32_2k, float, 2, NONE)
SD_ROWS(sd_rows_f32_5k, float, 5, NONE)
SD_ROWS(sd_rows_f32_14k, float, 14, NONE)
SD_ROWS(sd_rows_bf16_2k, Bf16, 2, NONE)
SD_ROWS(sd_rows_bf16_5k, Bf16, 5, NONE)
SD_ROWS(sd_rows_bf16_14k, Bf16, 14, NONE)

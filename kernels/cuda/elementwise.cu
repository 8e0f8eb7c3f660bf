// Kernels that see one number at a time: gated residuals, activations, conversions. A thread has a chunk of eight.
// grid (ceil(numbers / 8 / 256)), block 256, no dynamic shared memory; fewer than 2^34 numbers.
#include "common.cuh"

// x += gate·y, in place.
struct GatedAddParams {
    void *x;           // [rows, columns], f32 or bf16 by the kernel's name
    const void *y;     // [rows, columns] bf16, or f32 with y_is_f32
    const float *gate; // [.., columns], or null: 1
    int64_t gate_stride; // a multiple of 4
    int rows_of_gate;    // rows that share a gate
    int rows;
    int columns; // multiple of 8
    int y_is_f32;
};

// y = f(x); may be in place where both have the same type.
struct MapParams {
    const void *x; // [n], type by the kernel's name: sd_map_<x>_<y>
    void *y;
    int64_t n; // any; chunks begin at multiples of 16 bytes
    int operation; // Activation
};

// y = f(x)·gated: the gated linear units of text encoders. bf16.
struct GluParams {
    const Bf16 *x;     // [rows, columns]
    const Bf16 *gated; // [rows, columns]
    Bf16 *y;           // [rows, columns]; may be x or gated, with its stride
    int64_t x_stride;  // numbers from row to row, multiples of 8: x and gated may be halves of one product
    int64_t gated_stride;
    int64_t y_stride;
    int rows;
    int columns;   // multiple of 8
    int operation; // Activation
};

// y[c, i] = x[index[i], c]: rows of a table, standing. Grid (ceil(columns · n / 256)), block 256.
struct LookUpParams {
    const float *x;        // [.., columns]
    const uint32_t *index; // [n], rows of x
    float *y;              // [columns, n]
    int columns;
    int n; // columns · n < 2^31
};

namespace {

constexpr int THREADS = 256;

template <typename T> __device__ __forceinline__ void gated_add(const GatedAddParams &p) {
    const uint32_t chunks = p.columns / 8, index = blockIdx.x * THREADS + threadIdx.x;
    const uint32_t row = index / chunks, column = index % chunks * 8;
    if (row >= uint32_t(p.rows)) {
        return;
    }
    const int64_t at = int64_t(row) * p.columns + column;
    T *x = static_cast<T *>(p.x) + at;
    float v[8], y[8], gate[8];
    load8(x, v);
    if (p.y_is_f32) {
        load8(static_cast<const float *>(p.y) + at, y);
    } else {
        load8(static_cast<const Bf16 *>(p.y) + at, y);
    }
    if (p.gate) {
        load8(p.gate + row / p.rows_of_gate * p.gate_stride + column, gate);
    }
#pragma unroll
    for (int e = 0; e < 8; e++) {
        v[e] = p.gate ? v[e] + gate[e] * y[e] : v[e] + y[e];
    }
    store8(x, v);
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(Bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void from_float(float x, float &to) { to = x; }
__device__ __forceinline__ void from_float(float x, Bf16 &to) { to = __float2bfloat16(x); }

template <typename X, typename Y> __device__ __forceinline__ void map(const MapParams &p) {
    const int64_t first = (int64_t(blockIdx.x) * THREADS + threadIdx.x) * 8;
    const X *x = static_cast<const X *>(p.x);
    Y *y = static_cast<Y *>(p.y);
    if (first + 8 <= p.n) {
        float v[8];
        load8(x + first, v);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            v[e] = activate_any(v[e], p.operation);
        }
        store8(y + first, v);
    } else {
        for (int64_t i = first; i < p.n; i++) {
            from_float(activate_any(to_float(x[i]), p.operation), y[i]);
        }
    }
}

__device__ __forceinline__ void glu(const GluParams &p) {
    const uint32_t chunks = p.columns / 8, index = blockIdx.x * THREADS + threadIdx.x;
    const int row = index / chunks, column = index % chunks * 8;
    if (row >= p.rows) {
        return;
    }
    float v[8], gated[8];
    load8(p.x + row * p.x_stride + column, v);
    load8(p.gated + row * p.gated_stride + column, gated);
#pragma unroll
    for (int e = 0; e < 8; e++) {
        v[e] = activate_any(v[e], p.operation) * gated[e];
    }
    store8(p.y + row * p.y_stride + column, v);
}

__device__ __forceinline__ void look_up(const LookUpParams &p) {
    const uint32_t at = blockIdx.x * THREADS + threadIdx.x, column = at / p.n, i = at % p.n;
    if (column < uint32_t(p.columns)) {
        p.y[at] = __ldg(p.x + int64_t(p.index[i]) * p.columns + column);
    }
}

} // namespace

#define SD_ELEMENTWISE(name, Params, body)                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS) name(const __grid_constant__ Params p) { body(p); }            \
    SD_KERNEL(name, Params)

SD_ELEMENTWISE(sd_gated_add_f32, GatedAddParams, gated_add<float>)
SD_ELEMENTWISE(sd_gated_add_bf16, GatedAddParams, gated_add<Bf16>)
SD_ELEMENTWISE(sd_map_f32_f32, MapParams, (map<float, float>))
SD_ELEMENTWISE(sd_map_f32_bf16, MapParams, (map<float, Bf16>))
SD_ELEMENTWISE(sd_map_bf16_f32, MapParams, (map<Bf16, float>))
SD_ELEMENTWISE(sd_map_bf16_bf16, MapParams, (map<Bf16, Bf16>))
SD_ELEMENTWISE(sd_glu_bf16, GluParams, glu)
SD_ELEMENTWISE(sd_look_up, LookUpParams, look_up)

// What elementwise, row and matrix kernels share: chunks of eight numbers, sums over warps and blocks, activations, 8-bit numbers.
#pragma once
#include "ptx.cuh"

using Bf16 = __nv_bfloat16;

// ---- Chunks: eight numbers that lie side by side, at a multiple of 16 bytes ----------------------------------------------

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, 4);
    return bits;
}
__device__ __forceinline__ float2 unpack_bf16(uint32_t pair) { return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)); }

__device__ __forceinline__ void load8(const float *p, float (&v)[8]) {
    float4 a = *reinterpret_cast<const float4 *>(p), b = *reinterpret_cast<const float4 *>(p + 4);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
__device__ __forceinline__ void load8(const Bf16 *p, float (&v)[8]) {
    uint4 w = *reinterpret_cast<const uint4 *>(p);
    float2 a = unpack_bf16(w.x), b = unpack_bf16(w.y), c = unpack_bf16(w.z), d = unpack_bf16(w.w);
    v[0] = a.x, v[1] = a.y, v[2] = b.x, v[3] = b.y, v[4] = c.x, v[5] = c.y, v[6] = d.x, v[7] = d.y;
}
__device__ __forceinline__ void store8(float *p, const float (&v)[8]) {
    *reinterpret_cast<float4 *>(p) = make_float4(v[0], v[1], v[2], v[3]);
    *reinterpret_cast<float4 *>(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
}
__device__ __forceinline__ void store8(Bf16 *p, const float (&v)[8]) {
    *reinterpret_cast<uint4 *>(p) = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}

// ---- Sums --------------------------------------------------------------------------------------------------------------------

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        v += __shfl_xor_sync(0xffffffffu, v, distance);
    }
    return v;
}
__device__ __forceinline__ uint32_t warp_max(uint32_t v) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        v = max(v, __shfl_xor_sync(0xffffffffu, v, distance));
    }
    return v;
}

// Over a block of THREADS; every thread has the result. `scratch` has THREADS / 32 places, which nobody uses for anything else.
template <int THREADS> __device__ __forceinline__ float block_sum(float v, float *scratch) {
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) {
        scratch[threadIdx.x / 32] = v;
    }
    __syncthreads();
    float sum = 0;
#pragma unroll
    for (int i = 0; i < THREADS / 32; i++) {
        sum += scratch[i];
    }
    return sum;
}
template <int THREADS> __device__ __forceinline__ uint32_t block_max(uint32_t v, uint32_t *scratch) {
    v = warp_max(v);
    if (threadIdx.x % 32 == 0) {
        scratch[threadIdx.x / 32] = v;
    }
    __syncthreads();
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < THREADS / 32; i++) {
        largest = max(largest, scratch[i]);
    }
    return largest;
}

// ---- Activations -------------------------------------------------------------------------------------------------------------

enum Activation : int {
    ACTIVATION_NONE = 0,
    ACTIVATION_GELU_TANH = 1,
    ACTIVATION_SILU = 2,
    ACTIVATION_GELU_ERF = 3,   // these two in sd_map_* and sd_glu_* only
    ACTIVATION_GELU_QUICK = 4,
};

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }
__device__ __forceinline__ float silu(float x) { return x * sigmoid(x); }
// x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2, and (1 + tanh(z))/2 is sigmoid(2z).
__device__ __forceinline__ float gelu_tanh(float x) { return x * sigmoid(1.5957691216057308f * x * (1.0f + 0.044715f * x * x)); }
// What follows products; few, since it stands there many times.
__device__ __forceinline__ float activate(float x, int activation) {
    return activation == ACTIVATION_GELU_TANH ? gelu_tanh(x) : activation == ACTIVATION_SILU ? silu(x) : x;
}
__device__ __forceinline__ float activate_any(float x, int activation) {
    switch (activation) {
    case ACTIVATION_GELU_ERF:
        return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
    case ACTIVATION_GELU_QUICK:
        return x * sigmoid(1.702f * x);
    default:
        return activate(x, activation);
    }
}

// ---- 8-bit numbers with one scale a row ------------------------------------------------------------------------------------------

// x is about q·scale, q = round(x·factor).
struct RowScale {
    float scale, factor;
};

// For a row whose largest magnitude has these bits; `most` is the largest number of the format (127 or 448). A row of zeros, or of
// numbers too small for a factor, counts as zeros; one with NaN or infinity has the scale NaN.
__device__ __forceinline__ RowScale row_scale(uint32_t largest_bits, float most) {
    float largest = __uint_as_float(largest_bits), factor = most / largest;
    if (largest_bits >= 0x7f800000u) {
        return {__uint_as_float(0x7fffffffu), 0.0f};
    }
    return isfinite(factor) ? RowScale{largest / most, factor} : RowScale{0.0f, 0.0f};
}

// Bits of |x|, which order as the magnitudes do, NaN above all.
__device__ __forceinline__ uint32_t magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }

__device__ __forceinline__ uint32_t pack_int8(float a, float b, float c, float d) {
    return (__float2int_rn(a) & 255) | (__float2int_rn(b) & 255) << 8 | (__float2int_rn(c) & 255) << 16 | uint32_t(__float2int_rn(d)) << 24;
}

// Four e4m3 numbers, the first in the lowest byte: nearest, ties to even, saturating.
__device__ __forceinline__ uint32_t pack_e4m3(float a, float b, float c, float d) {
#ifdef SD_EMULATED
    return emulated::e4m3_of(a) | emulated::e4m3_of(b) << 8 | emulated::e4m3_of(c) << 16 | uint32_t(emulated::e4m3_of(d)) << 24;
#else
    return __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3) |
           uint32_t(__nv_cvt_float2_to_fp8x2(make_float2(c, d), __NV_SATFINITE, __NV_E4M3)) << 16;
#endif
}

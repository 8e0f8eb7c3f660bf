// bf16, f16 and e4m3 with the names of cuda_bf16.h, cuda_fp16.h and cuda_fp8.h: what the kernels use of them.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulated {

inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

// Nearest, ties to even; NaN stays NaN.
inline uint16_t bf16_of(float x) {
    uint32_t bits = bits_of(x);
    if ((bits & 0x7fffffff) > 0x7f800000) {
        return 0x7fff;
    }
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

inline float of_bf16(uint16_t bits) { return float_of(uint32_t(bits) << 16); }

// Nearest, ties to even, in a format of `mantissa` bits with exponent bias `bias`: the magnitude in units of the smallest number.
// Works for any x whose rounded magnitude fits the format; infinity and NaN are the caller's.
inline uint32_t round_small(float magnitude, int mantissa, int bias) {
    int exponent;
    std::frexp(magnitude, &exponent); // magnitude = m·2^exponent, 0.5 <= m < 1
    int unit = exponent - 1 - mantissa;
    int smallest = 1 - bias - mantissa;
    if (unit < smallest) {
        unit = smallest;
    }
    auto steps = uint32_t(std::nearbyint(std::ldexp(magnitude, -unit))); // exact scaling, ties to even
    return (uint32_t(unit - smallest) << mantissa) + steps;
}

inline uint16_t f16_of(float x) {
    uint16_t sign = bits_of(x) >> 16 & 0x8000;
    float magnitude = std::fabs(x);
    if (std::isnan(x)) {
        return 0x7fff;
    }
    if (magnitude >= 65520.0f) {
        return sign | 0x7c00;
    }
    return magnitude == 0 ? sign : sign | round_small(magnitude, 10, 15);
}

inline float of_f16(uint16_t bits) {
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float sign = bits & 0x8000 ? -1.0f : 1.0f;
    if (exponent == 31) {
        return mantissa ? NAN : sign * INFINITY;
    }
    return sign * (exponent ? std::ldexp(float(1024 + mantissa), exponent - 25) : std::ldexp(float(mantissa), -24));
}

// Saturating, as all conversions of the kernels: beyond 448 is 448; NaN is 0x7F.
inline uint8_t e4m3_of(float x) {
    uint8_t sign = bits_of(x) >> 24 & 0x80;
    float magnitude = std::fabs(x);
    if (std::isnan(x)) {
        return 0x7f;
    }
    if (magnitude >= 448.0f) {
        return sign | 0x7e;
    }
    return magnitude == 0 ? sign : sign | round_small(magnitude, 3, 7);
}

inline float of_e4m3_slowly(uint8_t bits) {
    int exponent = bits >> 3 & 15, mantissa = bits & 7;
    float sign = bits & 0x80 ? -1.0f : 1.0f;
    if ((bits & 0x7f) == 0x7f) {
        return NAN;
    }
    return sign * (exponent ? std::ldexp(float(8 + mantissa), exponent - 10) : std::ldexp(float(mantissa), -9));
}

inline float of_e4m3(uint8_t bits) {
    struct Table {
        float of[256];
        Table() {
            for (int i = 0; i < 256; i++) {
                of[i] = of_e4m3_slowly(uint8_t(i));
            }
        }
    };
    static const Table table;
    return table.of[bits];
}

} // namespace emulated

// The same size and alignment as NVIDIA's; every conversion is explicit.
struct __nv_bfloat16 {
    uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
struct __half {
    uint16_t bits;
};
struct alignas(4) __half2 {
    __half x, y;
};
using half = __half;
using half2 = __half2;

inline __nv_bfloat16 __float2bfloat16(float x) { return {emulated::bf16_of(x)}; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {emulated::bf16_of(x)}; }
inline float __bfloat162float(__nv_bfloat16 x) { return emulated::of_bf16(x.bits); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }
inline __half __float2half(float x) { return {emulated::f16_of(x)}; }
inline __half __float2half_rn(float x) { return {emulated::f16_of(x)}; }
inline float __half2float(__half x) { return emulated::of_f16(x.bits); }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }

#include "vectors.h"

inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__float2bfloat16(x), __float2bfloat16(y)}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 v) { return __floats2bfloat162_rn(v.x, v.y); }
inline __nv_bfloat162 __float2bfloat162_rn(float x) { return __floats2bfloat162_rn(x, x); }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {__bfloat162float(v.x), __bfloat162float(v.y)}; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x) { return {x, x}; }
inline float __low2float(__nv_bfloat162 v) { return __bfloat162float(v.x); }
inline float __high2float(__nv_bfloat162 v) { return __bfloat162float(v.y); }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half(x), __float2half(y)}; }
inline __half2 __float22half2_rn(float2 v) { return __floats2half2_rn(v.x, v.y); }
inline __half2 __float2half2_rn(float x) { return __floats2half2_rn(x, x); }
inline float2 __half22float2(__half2 v) { return {__half2float(v.x), __half2float(v.y)}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 __half2half2(__half x) { return {x, x}; }
inline float __low2float(__half2 v) { return __half2float(v.x); }
inline float __high2float(__half2 v) { return __half2float(v.y); }

// Arithmetic in two 16-bit halves: each result is rounded once.
#define EMULATED_PAIR(T, TO, FROM)                                                                                       \
    inline T __hadd2(T a, T b) { return {TO(FROM(a.x) + FROM(b.x)), TO(FROM(a.y) + FROM(b.y))}; }                        \
    inline T __hsub2(T a, T b) { return {TO(FROM(a.x) - FROM(b.x)), TO(FROM(a.y) - FROM(b.y))}; }                        \
    inline T __hmul2(T a, T b) { return {TO(FROM(a.x) * FROM(b.x)), TO(FROM(a.y) * FROM(b.y))}; }                        \
    inline T __hmax2(T a, T b) { return {TO(std::fmax(FROM(a.x), FROM(b.x))), TO(std::fmax(FROM(a.y), FROM(b.y)))}; }    \
    inline T __hfma2(T a, T b, T c) {                                                                                    \
        return {TO(std::fma(FROM(a.x), FROM(b.x), FROM(c.x))), TO(std::fma(FROM(a.y), FROM(b.y), FROM(c.y)))};           \
    }
EMULATED_PAIR(__nv_bfloat162, __float2bfloat16, __bfloat162float)
EMULATED_PAIR(__half2, __float2half, __half2float)
#undef EMULATED_PAIR

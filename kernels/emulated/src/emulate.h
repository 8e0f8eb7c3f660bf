// CUDA's language and device functions for g++: the .cu files of kernels/cuda compile against this instead of nvcc's headers.
// Only what those kernels use is here; a name that is missing fails to compile.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include "fibers.h"
#include "numbers.h"
#include "vectors.h"

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) alignas(n)
#define __constant__ static const

// `type name[count]` in shared memory, static or dynamic (one a kernel).
#define SD_SHARED(type, name, count)                                                                                     \
    static const char name##_key = 0;                                                                                    \
    type *const name = static_cast<type *>(emulated::static_shared(&name##_key, sizeof(type) * (count), std::max<size_t>(alignof(type), 16)))
#define SD_DYNAMIC_SHARED(type, name) type *const name = static_cast<type *>(emulated::dynamic_shared())

// After each kernel: makes it known to cuModuleGetFunction.
#define SD_KERNEL(name, Params) EMULATED_KERNEL(name, Params, 0, false)
// The same for one that exists from this compute capability (times ten) on, or for this one alone.
#define SD_KERNEL_FROM(name, Params, capability) EMULATED_KERNEL(name, Params, capability, false)
#define SD_KERNEL_ONLY(name, Params, capability) EMULATED_KERNEL(name, Params, capability, true)
#define EMULATED_KERNEL(name, Params, capability, only)                                                                  \
    static_assert(std::is_trivially_copyable_v<Params>);                                                                 \
    static const emulated::Registration name##_registration({                                                            \
        #name, sizeof(Params), [](const void *params) { name(*static_cast<const Params *>(params)); }, capability, only});

// ---- Threads of a block and of a warp ---------------------------------------------------------------------------------

inline void __syncthreads() { emulated::barrier(0, 0, true); }
inline void __syncwarp(unsigned mask = ~0u) { emulated::meet(mask, "__syncwarp", nullptr, nullptr); }
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace emulated {

template <typename T> struct Exchange {
    T value, result;
    int source; // lane, or -1 for its own
};

template <typename T> T exchange(unsigned mask, const char *operation, T value, int source) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    Exchange<T> mine = {value, value, source};
    meet(mask, operation, &mine, [](void **all) {
        for (int i = 0; i < 32; i++) {
            auto *one = static_cast<Exchange<T> *>(all[i]);
            if (one && one->source >= 0) {
                auto *other = static_cast<Exchange<T> *>(all[one->source]);
                if (!other) {
                    fail("a shuffle of lane %d from lane %d, which takes no part", i, one->source);
                }
                one->result = other->value;
            }
        }
    });
    return mine.result;
}

struct Vote {
    bool value;
    uint32_t result;
};

inline uint32_t vote(unsigned mask, bool value) {
    Vote mine = {value, 0};
    meet(mask, "vote", &mine, [](void **all) {
        uint32_t result = 0;
        for (int i = 0; i < 32; i++) {
            result |= all[i] && static_cast<Vote *>(all[i])->value ? 1u << i : 0;
        }
        for (int i = 0; i < 32; i++) {
            if (all[i]) {
                static_cast<Vote *>(all[i])->result = result;
            }
        }
    });
    return mine.result;
}

} // namespace emulated

template <typename T> T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    int lane = emulated::lane();
    return emulated::exchange(mask, "__shfl_sync", value, lane / width * width + (source & (width - 1)));
}
template <typename T> T __shfl_xor_sync(unsigned mask, T value, int other, int width = 32) {
    int lane = emulated::lane(), source = lane ^ other;
    return emulated::exchange(mask, "__shfl_xor_sync", value, source / width > lane / width ? -1 : source);
}
template <typename T> T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    int lane = emulated::lane(), source = lane + int(by);
    return emulated::exchange(mask, "__shfl_down_sync", value, source / width == lane / width ? source : -1);
}
template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    int lane = emulated::lane(), source = lane - int(by);
    return emulated::exchange(mask, "__shfl_up_sync", value, source >= lane / width * width ? source : -1);
}
inline unsigned __ballot_sync(unsigned mask, int value) { return emulated::vote(mask, value); }
inline int __any_sync(unsigned mask, int value) { return emulated::vote(mask, value) != 0; }
inline int __all_sync(unsigned mask, int value) { return emulated::vote(mask, !value) == 0; }

// ---- Memory -------------------------------------------------------------------------------------------------------------

template <typename T> T __ldg(const T *p) { return *p; }
template <typename T> T __ldcs(const T *p) { return *p; }
template <typename T> T __ldcg(const T *p) { return *p; }
template <typename T> void __stcs(T *p, std::type_identity_t<T> value) { *p = value; }
template <typename T> void __stcg(T *p, std::type_identity_t<T> value) { *p = value; }

// One host thread runs all fibers, so that nothing else comes between.
template <typename T> T atomicAdd(T *p, std::type_identity_t<T> value) {
    T old = *p;
    *p = old + value;
    return old;
}
template <typename T> T atomicMax(T *p, std::type_identity_t<T> value) {
    T old = *p;
    *p = std::max(old, value);
    return old;
}
template <typename T> T atomicMin(T *p, std::type_identity_t<T> value) {
    T old = *p;
    *p = std::min(old, value);
    return old;
}
template <typename T> T atomicExch(T *p, std::type_identity_t<T> value) {
    T old = *p;
    *p = value;
    return old;
}
template <typename T> T atomicCAS(T *p, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
    T old = *p;
    if (old == expected) {
        *p = value;
    }
    return old;
}

// ---- Arithmetic -----------------------------------------------------------------------------------------------------------

using std::isfinite;
using std::max;
using std::min;
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __sinf(float x) { return std::sin(x); }
inline float __cosf(float x) { return std::cos(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frsqrt_rn(float x) { return 1.0f / std::sqrt(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __saturatef(float x) { return x > 0 ? std::min(x, 1.0f) : 0.0f; }
inline int __float2int_rn(float x) {
    // As the device: saturating, NaN is 0.
    if (std::isnan(x)) {
        return 0;
    }
    return x >= 2147483648.0f ? INT32_MAX : x < -2147483648.0f ? INT32_MIN : int(std::nearbyint(x));
}
inline float __int2float_rn(int x) { return float(x); }
inline unsigned __float_as_uint(float x) { return emulated::bits_of(x); }
inline float __uint_as_float(unsigned x) { return emulated::float_of(x); }
inline int __float_as_int(float x) { return int(emulated::bits_of(x)); }
inline float __int_as_float(int x) { return emulated::float_of(unsigned(x)); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned x, unsigned y) { return unsigned(uint64_t(x) * y >> 32); }

// Byte i of the result is byte (selector nibble i) of y:x.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    uint64_t both = uint64_t(y) << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        unsigned nibble = selector >> (4 * i) & 15;
        unsigned byte = both >> (8 * (nibble & 7)) & 255;
        result |= (nibble & 8 ? (byte & 128 ? 255u : 0u) : byte) << (8 * i);
    }
    return result;
}

inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) {
        c += int(int8_t(unsigned(a) >> (8 * i))) * int(int8_t(unsigned(b) >> (8 * i)));
    }
    return c;
}

#include "instructions.h"

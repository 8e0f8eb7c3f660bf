// wgmma: products of a warpgroup, for sm_90a alone. hopper.cuh has the rules around them, kernels/emulated/src/hopper.h their twins.
#pragma once
#include "hopper.cuh"

#ifdef SD_HOPPER

// D[64, N] (+)= A[64, K]·B[K, N] with K of 32 bytes. Warp w of the warpgroup has rows 16w..16w+15 as in mma.sync: d[4j + e] is what d[e]
// of column tile j is there, and A in registers is laid out as there.

// Descriptor of a matrix in shared memory with the 128-byte swizzle, at a multiple of 1024 bytes (plus steps along K).
// K-major (rows of 128 bytes along K): `stride` is the distance of 8-row groups, 1024 where rows follow each other; `leading` is not used.
// MN-major (rows of 64 elements along M or N, one for each k): `stride` is the distance of groups of 8 k, `leading` that of groups of 64 m or n.
__device__ __forceinline__ uint64_t wgmma_matrix(uint32_t address, int stride, int leading) {
    return uint64_t(1) << 62 | uint64_t(stride >> 4) << 32 | uint64_t(leading >> 4) << 16 | (address >> 4 & 0x3fff);
}

// The same matrix `bytes` further.
__device__ __forceinline__ uint64_t wgmma_matrix_at(uint64_t matrix, int bytes) { return matrix + (bytes >> 4); }

__device__ __forceinline__ void wgmma_fence() {
#ifndef SD_EMULATED
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void wgmma_commit() {
#ifdef SD_EMULATED
    emulated::wgmma_commit();
#else
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int IN_FLIGHT> __device__ __forceinline__ void wgmma_wait() {
#ifdef SD_EMULATED
    emulated::wgmma_wait(IN_FLIGHT);
#else
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(IN_FLIGHT) : "memory");
#endif
}

// Keeps the compiler from moving reads or writes of these registers across this place.
template <int N> __device__ __forceinline__ void wgmma_hold(float (&registers)[N]) {
#ifndef SD_EMULATED
#pragma unroll
    for (int i = 0; i < N; i++) {
        asm volatile("" : "+f"(registers[i])::"memory");
    }
#else
    (void)registers;
#endif
}
template <int N> __device__ __forceinline__ void wgmma_hold(int (&registers)[N]) {
#ifndef SD_EMULATED
#pragma unroll
    for (int i = 0; i < N; i++) {
        asm volatile("" : "+r"(registers[i])::"memory");
    }
#else
    (void)registers;
#endif
}

// Registers of an accumulator as operands: their numbers in the text, and the registers, floats and whole numbers.
#define SD_WGMMA_D64 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SD_WGMMA_D128 \
    SD_WGMMA_D64 ", " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define SD_WGMMA_8(kind, i) \
    kind(d[i]), kind(d[i + 1]), kind(d[i + 2]), kind(d[i + 3]), kind(d[i + 4]), kind(d[i + 5]), kind(d[i + 6]), kind(d[i + 7])
#define SD_WGMMA_64(kind, i) \
    SD_WGMMA_8(kind, i), SD_WGMMA_8(kind, i + 8), SD_WGMMA_8(kind, i + 16), SD_WGMMA_8(kind, i + 24), \
        SD_WGMMA_8(kind, i + 32), SD_WGMMA_8(kind, i + 40), SD_WGMMA_8(kind, i + 48), SD_WGMMA_8(kind, i + 56)
#define SD_WGMMA_F64 SD_WGMMA_64("+f", 0)
#define SD_WGMMA_F128 SD_WGMMA_64("+f", 0), SD_WGMMA_64("+f", 64)
#define SD_WGMMA_R64 SD_WGMMA_64("+r", 0)
#define SD_WGMMA_R128 SD_WGMMA_64("+r", 0), SD_WGMMA_64("+r", 64)

// A and B bf16 in shared memory, both K-major. `add`: onto d; otherwise d is overwritten.
__device__ __forceinline__ void wgmma_m64n128k16_bf16(float (&d)[64], uint64_t a, uint64_t b, bool add) {
#ifdef SD_EMULATED
    emulated::wgmma<emulated::Bf16, 128, false>(d, a, b, add);
#else
    asm volatile("{\n.reg .pred onto;\nsetp.ne.b32 onto, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" SD_WGMMA_D64 "}, %64, %65, onto, 1, 1, 0, 0;\n}"
                 : SD_WGMMA_F64
                 : "l"(a), "l"(b), "r"(int(add)));
#endif
}

// A bf16 in registers, B bf16 in shared memory, N-major.
__device__ __forceinline__ void wgmma_m64n128k16_bf16_ra_bn(float (&d)[64], const uint32_t (&a)[4], uint64_t b, bool add) {
#ifdef SD_EMULATED
    emulated::wgmma<emulated::Bf16, 128, true>(d, a, b, add);
#else
    asm volatile("{\n.reg .pred onto;\nsetp.ne.b32 onto, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" SD_WGMMA_D64 "}, {%64, %65, %66, %67}, %68, onto, 1, 1, 1;\n}"
                 : SD_WGMMA_F64
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)));
#endif
}

// A and B int8 in shared memory, both K-major.
__device__ __forceinline__ void wgmma_m64n128k32_s8(int (&d)[64], uint64_t a, uint64_t b, bool add) {
#ifdef SD_EMULATED
    emulated::wgmma<emulated::S8, 128, false>(d, a, b, add);
#else
    asm volatile("{\n.reg .pred onto;\nsetp.ne.b32 onto, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {" SD_WGMMA_D64 "}, %64, %65, onto;\n}"
                 : SD_WGMMA_R64
                 : "l"(a), "l"(b), "r"(int(add)));
#endif
}

// A e4m3 in registers, B e4m3 in shared memory, K-major.
__device__ __forceinline__ void wgmma_m64n128k32_e4m3_ra(float (&d)[64], const uint32_t (&a)[4], uint64_t b, bool add) {
#ifdef SD_EMULATED
    emulated::wgmma<emulated::E4m3, 128, false>(d, a, b, add);
#else
    asm volatile("{\n.reg .pred onto;\nsetp.ne.b32 onto, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {" SD_WGMMA_D64 "}, {%64, %65, %66, %67}, %68, onto, 1, 1;\n}"
                 : SD_WGMMA_F64
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)));
#endif
}

// N of 256: A and B in shared memory, both K-major.
__device__ __forceinline__ void wgmma_m64n256k16_bf16(float (&d)[128], uint64_t a, uint64_t b, bool add) {
#ifdef SD_EMULATED
    emulated::wgmma<emulated::Bf16, 256, false>(d, a, b, add);
#else
    asm volatile("{\n.reg .pred onto;\nsetp.ne.b32 onto, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" SD_WGMMA_D128 "}, %128, %129, onto, 1, 1, 0, 0;\n}"
                 : SD_WGMMA_F128
                 : "l"(a), "l"(b), "r"(int(add)));
#endif
}

__device__ __forceinline__ void wgmma_m64n256k32_s8(int (&d)[128], uint64_t a, uint64_t b, bool add) {
#ifdef SD_EMULATED
    emulated::wgmma<emulated::S8, 256, false>(d, a, b, add);
#else
    asm volatile("{\n.reg .pred onto;\nsetp.ne.b32 onto, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 {" SD_WGMMA_D128 "}, %128, %129, onto;\n}"
                 : SD_WGMMA_R128
                 : "l"(a), "l"(b), "r"(int(add)));
#endif
}

// A and B e4m3 in shared memory, both K-major.
__device__ __forceinline__ void wgmma_m64n128k32_e4m3(float (&d)[64], uint64_t a, uint64_t b, bool add) {
#ifdef SD_EMULATED
    emulated::wgmma<emulated::E4m3, 128, false>(d, a, b, add);
#else
    asm volatile("{\n.reg .pred onto;\nsetp.ne.b32 onto, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {" SD_WGMMA_D64 "}, %64, %65, onto, 1, 1;\n}"
                 : SD_WGMMA_F64
                 : "l"(a), "l"(b), "r"(int(add)));
#endif
}

#endif // SD_HOPPER

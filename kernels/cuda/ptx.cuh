// PTX instructions as functions, the only inline assembly of these kernels. Under the emulator (SD_EMULATED) each is what its
// twin in kernels/emulated/src/instructions.h computes. Pointers are generic; shared addresses are made here.
#pragma once
#include "language.cuh"

#ifndef SD_EMULATED
__device__ __forceinline__ uint32_t shared_address(const void *p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
#endif

// ---- Asynchronous copies, sm_80 -----------------------------------------------------------------------------------------

// 16 bytes from global to shared memory past the first-level cache: `bytes` (0..16) of `source`, zeros for the rest. `source` must be a
// valid address even where `bytes` is 0. Both are aligned to 16 bytes. The target holds nothing sensible until the group has been waited for.
__device__ __forceinline__ void cp_async_16(void *target, const void *source, int bytes = 16) {
#ifdef SD_EMULATED
    emulated::copy_async(target, source, 16, bytes);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(target)), "l"(source), "r"(bytes));
#endif
}

// As above for 4 bytes.
__device__ __forceinline__ void cp_async_4(void *target, const void *source, int bytes = 4) {
#ifdef SD_EMULATED
    emulated::copy_async(target, source, 4, bytes);
#else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(target)), "l"(source), "r"(bytes));
#endif
}

// Ends a group of copies of this thread.
__device__ __forceinline__ void cp_async_commit() {
#ifdef SD_EMULATED
    emulated::copy_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most `IN_FLIGHT` of this thread's latest groups are under way. Other threads see the copies after a barrier.
template <int IN_FLIGHT> __device__ __forceinline__ void cp_async_wait() {
#ifdef SD_EMULATED
    emulated::copy_wait(IN_FLIGHT);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(IN_FLIGHT) : "memory");
#endif
}

// ---- Fragments, sm_80 ----------------------------------------------------------------------------------------------------

// Four 8x8 matrices of 16-bit elements: lane 8i+r gives the address of row r of matrix i (16 bytes, aligned); out[i] of a lane
// is row lane/4, elements 2·(lane%4) and the next.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&out)[4], const void *row) {
#ifdef SD_EMULATED
    emulated::ldmatrix<4, false>(out, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
#endif
}

// As above, each matrix transposed: out[i] of a lane is column lane/4, rows 2·(lane%4) and the next.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&out)[4], const void *row) {
#ifdef SD_EMULATED
    emulated::ldmatrix<4, true>(out, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
#endif
}

// ---- Products of a warp: D[16,8] += A[16,K]·B[K,8] ------------------------------------------------------------------------
// With g = lane/4 and t = lane%4, and n elements in a register (2 of 16 bits, 4 of 8 bits; K = 8n):
// a[0] is row g, elements n·t..; a[1] row g+8; a[2] row g, elements 4n + n·t..; a[3] row g+8 of those;
// b[0] is column g, elements n·t..; b[1] elements 4n + n·t..; d[0], d[1] are row g, columns 2t, 2t+1; d[2], d[3] row g+8.

__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef SD_EMULATED
    emulated::mma<emulated::Bf16>(d, a, b);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

__device__ __forceinline__ void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef SD_EMULATED
    emulated::mma<emulated::F16>(d, a, b);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

__device__ __forceinline__ void mma_m16n8k32_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef SD_EMULATED
    emulated::mma<emulated::S8>(d, a, b);
#else
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

#if defined(SD_EMULATED) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890)
#define SD_HAS_E4M3_MMA 1
__device__ __forceinline__ void mma_m16n8k32_e4m3(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef SD_EMULATED
    emulated::mma<emulated::E4m3>(d, a, b);
#else
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
#endif

// ---- Barriers -------------------------------------------------------------------------------------------------------------

// Barrier `id` (1..15; 0 is __syncthreads) for `threads` threads, a multiple of 32.
__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
#ifdef SD_EMULATED
    emulated::barrier(id, threads, true);
#else
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

// Arrives without waiting.
__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
#ifdef SD_EMULATED
    emulated::barrier(id, threads, false);
#else
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

// ---- Attention's and convolution's instructions ---------------------------------------------------------------------------

#ifdef SD_EMULATED
inline uint32_t shared_address(const void *p) { return emulated::shared_offset(p, 1); }
#endif

// As ldmatrix_x4 and ldmatrix_x4_trans, from shared addresses: one register each, and swizzles are an xor with them.
__device__ __forceinline__ void ldmatrix_x4_at(uint32_t (&out)[4], uint32_t row) {
#ifdef SD_EMULATED
    emulated::ldmatrix<4, false>(out, emulated::shared_pointer(row, 16));
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(row)
                 : "memory");
#endif
}
__device__ __forceinline__ void ldmatrix_x4_trans_at(uint32_t (&out)[4], uint32_t row) {
#ifdef SD_EMULATED
    emulated::ldmatrix<4, true>(out, emulated::shared_pointer(row, 16));
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(row)
                 : "memory");
#endif
}

// As cp_async_16, to a shared address.
__device__ __forceinline__ void cp_async_16_at(uint32_t target, const void *source, int bytes) {
#ifdef SD_EMULATED
    emulated::copy_async(emulated::shared_pointer(target, 16), source, 16, bytes);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(bytes));
#endif
}

#ifdef SD_HAS_E4M3_MMA
// As mma_m16n8k32_e4m3 with sums in f16, two in a register: d[0] is row g, columns 2t, 2t+1, d[1] row g+8. Twice as fast on GeForce.
__device__ __forceinline__ void mma_m16n8k32_e4m3_f16(uint32_t (&d)[2], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef SD_EMULATED
    float sum[4];
    for (int i = 0; i < 4; i++) {
        sum[i] = emulated::of_f16(uint16_t(d[i / 2] >> (i % 2 * 16)));
    }
    emulated::mma<emulated::E4m3>(sum, a, b);
    for (int i = 0; i < 2; i++) {
        d[i] = emulated::f16_of(sum[2 * i]) | uint32_t(emulated::f16_of(sum[2 * i + 1])) << 16;
    }
#else
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f16.e4m3.e4m3.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
                 : "+r"(d[0]), "+r"(d[1])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
#endif

// Two f16 numbers as floats.
__device__ __forceinline__ float2 unpack_f16(uint32_t pair) {
#ifdef SD_EMULATED
    return make_float2(emulated::of_f16(uint16_t(pair)), emulated::of_f16(uint16_t(pair >> 16)));
#else
    return __half22float2(*reinterpret_cast<const __half2 *>(&pair));
#endif
}

// 2^x with the special-function unit; 0 for −∞.
__device__ __forceinline__ float exp2_fast(float x) {
#ifdef SD_EMULATED
    return std::exp2(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// x, in a way that the compiler computes what follows from it where it is used.
__device__ __forceinline__ int not_hoisted(int x) {
#ifndef SD_EMULATED
    asm volatile("" : "+r"(x));
#endif
    return x;
}

// mbarrier, TMA and setmaxnreg are in hopper.cuh, wgmma in wgmma.cuh, their twins in kernels/emulated/src/hopper.h.

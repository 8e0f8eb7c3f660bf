// Hopper's asynchronous instructions: mbarrier, TMA, wgmma, setmaxnreg. They exist in code for sm_90a alone; kernels that use them
// are empty elsewhere. The emulator's twins are in kernels/emulated/src/hopper.h.
//
// Rules that the code around them keeps (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions" and "mbarrier"):
// - registers of an accumulator or of A may not be touched between wgmma and the wait for its group;
// - wgmma_fence() before the first wgmma of a sequence, when registers were written before;
// - shared memory that ordinary stores wrote and wgmma or TMA reads next needs fence_async_proxy() in each writing thread, then a barrier;
// - setmaxnreg is executed by all warps of a warpgroup; the kernel has __launch_bounds__(threads, 1).
#pragma once
#include "ptx.cuh"

#if defined(SD_EMULATED) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SD_HOPPER 1
#endif

// What cuTensorMapEncodeTiled makes.
struct alignas(64) TensorMap {
    uint64_t opaque[16];
};

#ifdef SD_HOPPER
#ifdef SD_EMULATED
#include "hopper.h"
#endif

// ---- mbarrier -------------------------------------------------------------------------------------------------------------
// A barrier in shared memory (8 bytes): a phase is complete when `count` threads have arrived and all bytes announced have come.

__device__ __forceinline__ void mbarrier_init(uint64_t *barrier, int count) {
#ifdef SD_EMULATED
    emulated::mbarrier_init(barrier, count);
#else
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
#endif
}

// After the initialisations, in the thread that made them, and before a barrier of the block.
__device__ __forceinline__ void mbarrier_init_fence() {
#ifndef SD_EMULATED
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

__device__ __forceinline__ void mbarrier_arrive(uint64_t *barrier) {
#ifdef SD_EMULATED
    emulated::mbarrier_arrive(barrier, 0);
#else
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}

// Arrives, and announces `bytes` that copies will bring in this phase.
__device__ __forceinline__ void mbarrier_arrive_expect(uint64_t *barrier, int bytes) {
#ifdef SD_EMULATED
    emulated::mbarrier_arrive(barrier, bytes);
#else
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
#endif
}

// Waits until the phase with this parity (0 for the first, 1 for the second, 0 …) is complete. Parity 1 of a fresh barrier counts as complete.
__device__ __forceinline__ void mbarrier_wait(uint64_t *barrier, int parity) {
#ifdef SD_EMULATED
    emulated::mbarrier_wait(barrier, parity);
#else
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
#endif
}

// Makes this thread's ordinary stores to shared memory visible to wgmma and TMA (after a barrier).
__device__ __forceinline__ void fence_async_proxy() {
#ifndef SD_EMULATED
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// ---- TMA ------------------------------------------------------------------------------------------------------------------

// Copies the map's box at these coordinates (innermost first) to shared memory and reports its bytes to `barrier`; zeros where the
// box leaves the tensor. One thread calls it. Boxes with the 128-byte swizzle start at multiples of 1024 bytes.
__device__ __forceinline__ void tma_load_4d(void *target, const TensorMap &map, uint64_t *barrier, int x0, int x1, int x2, int x3) {
#ifdef SD_EMULATED
    emulated::tma_load(target, map, barrier, {x0, x1, x2, x3});
#else
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(target)),
                 "l"(reinterpret_cast<uint64_t>(&map)), "r"(shared_address(barrier)), "r"(x0), "r"(x1), "r"(x2), "r"(x3)
                 : "memory");
#endif
}

__device__ __forceinline__ void tma_load_2d(void *target, const TensorMap &map, uint64_t *barrier, int x0, int x1) {
#ifdef SD_EMULATED
    emulated::tma_load(target, map, barrier, {x0, x1});
#else
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(target)),
                 "l"(reinterpret_cast<uint64_t>(&map)), "r"(shared_address(barrier)), "r"(x0), "r"(x1)
                 : "memory");
#endif
}

// ---- Registers of a warpgroup ---------------------------------------------------------------------------------------------

template <int COUNT> __device__ __forceinline__ void registers_give_back() {
    static_assert(COUNT >= 24 && COUNT <= 256 && COUNT % 8 == 0);
#ifndef SD_EMULATED
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
#endif
}
template <int COUNT> __device__ __forceinline__ void registers_take() {
    static_assert(COUNT >= 24 && COUNT <= 256 && COUNT % 8 == 0);
#ifndef SD_EMULATED
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
#endif
}

// ---- wgmma: products of a warpgroup ------------------------------------------------------------------------------------------
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

#define SD_WGMMA_D64                                                                                                     \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SD_WGMMA_F64                                                                                                     \
    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
    "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
    "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), \
    "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), \
    "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), \
    "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), \
    "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), \
    "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define SD_WGMMA_R64                                                                                                     \
    "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7]), \
    "+r"(d[8]), "+r"(d[9]), "+r"(d[10]), "+r"(d[11]), "+r"(d[12]), "+r"(d[13]), "+r"(d[14]), "+r"(d[15]), \
    "+r"(d[16]), "+r"(d[17]), "+r"(d[18]), "+r"(d[19]), "+r"(d[20]), "+r"(d[21]), "+r"(d[22]), "+r"(d[23]), \
    "+r"(d[24]), "+r"(d[25]), "+r"(d[26]), "+r"(d[27]), "+r"(d[28]), "+r"(d[29]), "+r"(d[30]), "+r"(d[31]), \
    "+r"(d[32]), "+r"(d[33]), "+r"(d[34]), "+r"(d[35]), "+r"(d[36]), "+r"(d[37]), "+r"(d[38]), "+r"(d[39]), \
    "+r"(d[40]), "+r"(d[41]), "+r"(d[42]), "+r"(d[43]), "+r"(d[44]), "+r"(d[45]), "+r"(d[46]), "+r"(d[47]), \
    "+r"(d[48]), "+r"(d[49]), "+r"(d[50]), "+r"(d[51]), "+r"(d[52]), "+r"(d[53]), "+r"(d[54]), "+r"(d[55]), \
    "+r"(d[56]), "+r"(d[57]), "+r"(d[58]), "+r"(d[59]), "+r"(d[60]), "+r"(d[61]), "+r"(d[62]), "+r"(d[63])

// A and B bf16 in shared memory, both K-major. `add`: onto d; otherwise d is overwritten. N is 128 here and below.
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

#endif // SD_HOPPER

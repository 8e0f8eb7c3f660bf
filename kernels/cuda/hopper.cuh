// Hopper's asynchronous instructions: mbarrier, TMA, setmaxnreg; products are in wgmma.cuh. They exist in code for sm_90a alone; kernels that use them
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

#endif // SD_HOPPER

// What nvcc and the emulator (g++ with kernels/emulated/src/emulate.h; SD_EMULATED is defined) have to agree on.
#pragma once

#ifdef SD_EMULATED
#include "emulate.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <stdint.h>

// `type name[count]` in shared memory.
#define SD_SHARED(type, name, count) __shared__ __align__(16) type name[count]
// The dynamic shared memory of a block, aligned to 1024 bytes; one a kernel.
#define SD_DYNAMIC_SHARED(type, name)                                                                                    \
    extern __shared__ __align__(1024) unsigned char sd_dynamic_shared[];                                                 \
    type *const name = reinterpret_cast<type *>(sd_dynamic_shared)
// After each kernel: the emulator's list of kernels. The second and third say that it exists from this compute capability (times
// ten) on, or for this one alone.
#define SD_KERNEL(name, Params)
#define SD_KERNEL_FROM(name, Params, capability)
#define SD_KERNEL_ONLY(name, Params, capability)
#endif

// Kernels whose answers are known, and kernels that are wrong on purpose: the tests of the emulator itself.
#include "ptx.cuh"

struct SelfTestParams {
    const float *x; // [n]
    float *y;       // [n]
    int n;
    int mode;
};

// y = x reversed within each block, through shared memory. mode 1 leaves the barrier out.
extern "C" __global__ void sd_emulated_reverse(const __grid_constant__ SelfTestParams p) {
    SD_DYNAMIC_SHARED(float, all);
    SD_SHARED(float, first, 1);
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    all[threadIdx.x] = p.x[i];
    if (threadIdx.x == 0) {
        first[0] = 0.0f;
    }
    if (p.mode != 1) {
        __syncthreads();
    }
    p.y[i] = all[blockDim.x - 1 - threadIdx.x] + first[0];
}
SD_KERNEL(sd_emulated_reverse, SelfTestParams)

// Each warp's sum, by shuffles, in all of its lanes. mode 1: half of the lanes stay away; mode 2: lanes are at different collectives.
extern "C" __global__ void sd_emulated_sum(const __grid_constant__ SelfTestParams p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float sum = p.x[i];
    if (p.mode == 1 && threadIdx.x % 32 >= 16) {
        return;
    }
    if (p.mode == 2 && threadIdx.x % 32 >= 16) {
        __syncwarp();
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    }
    unsigned odd = __ballot_sync(0xffffffffu, threadIdx.x & 1);
    p.y[i] = odd == 0xaaaaaaaau ? sum : -1.0f;
}
SD_KERNEL(sd_emulated_sum, SelfTestParams)

// Never ends: a warp waits for a barrier of more threads than come.
extern "C" __global__ void sd_emulated_deadlock(const __grid_constant__ SelfTestParams p) {
    if (threadIdx.x < 32) {
        named_barrier_sync(1, 64);
    } else {
        __syncthreads();
    }
    p.y[threadIdx.x] = 1.0f;
}
SD_KERNEL(sd_emulated_deadlock, SelfTestParams)

// y = x through cp.async. mode 1 does not wait for the copies; mode 2 asks for an address outside of shared memory.
extern "C" __global__ void sd_emulated_copy(const __grid_constant__ SelfTestParams p) {
    SD_DYNAMIC_SHARED(float, all);
    int at = 4 * threadIdx.x;
    cp_async_16(all + at + (p.mode == 2 ? 4 * blockDim.x : 0), p.x + at, at < p.n ? 16 : 0);
    cp_async_commit();
    if (p.mode != 1) {
        cp_async_wait<0>();
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 4 * int(blockDim.x); i += blockDim.x) {
        p.y[i] = all[i];
    }
}
SD_KERNEL(sd_emulated_copy, SelfTestParams)

// Accesses that hardware refuses: mode 0 a misaligned vector, mode 1 an address past the end, mode 2 a write into padding.
extern "C" __global__ void sd_emulated_access(const __grid_constant__ SelfTestParams p) {
    if (p.mode == 0) {
        *reinterpret_cast<float4 *>(p.y + 1) = make_float4(0, 0, 0, 0);
    } else if (p.mode == 1) {
        p.y[0] = p.x[p.n + 4096];
    } else {
        p.y[p.n] = 0.0f;
    }
}
SD_KERNEL(sd_emulated_access, SelfTestParams)

struct SelfTestMmaParams {
    const uint8_t *a; // [16, 32 bytes], row-major
    const uint8_t *b; // [8, 32 bytes]: B's columns
    void *d;          // [16, 8] f32, or s32 of format 2
    int format;       // 0 bf16, 1 f16, 2 s8, 3 e4m3
};

// One mma.sync of a warp with fragments by ldmatrix (b through the transposing kind of the transposed, for formats of 16 bits).
extern "C" __global__ void sd_emulated_mma(const __grid_constant__ SelfTestMmaParams p) {
    SD_SHARED(uint8_t, a, 16 * 32);
    SD_SHARED(uint8_t, b, 16 * 32);
    int lane = threadIdx.x;
    for (int i = lane; i < 16 * 32; i += 32) {
        a[i] = p.a[i];
        // Rows of B stored one after the other, and for 16 bits also its transpose [16, 8] in the second half.
        int k = i % 256 / 16, n = i % 16 / 2;
        b[i] = i < 256 ? p.b[i] : p.b[n * 32 + 2 * k + i % 2];
    }
    __syncwarp();
    uint32_t fa[4], fb[4], ft[4];
    ldmatrix_x4(fa, a + (lane % 16) * 32 + lane / 16 * 16);
    ldmatrix_x4(fb, b + (lane % 8) * 32 + lane / 8 % 2 * 16);
    ldmatrix_x4_trans(ft, b + 256 + lane % 16 * 16);
    uint32_t f[2] = {fb[0], fb[1]};
    if (p.format < 2 && (ft[0] != fb[0] || ft[1] != fb[1])) {
        f[0] = 0; // the two ways differ: a wrong answer
    }
    float d[4] = {};
    int e[4] = {};
    switch (p.format) {
    case 0:
        mma_m16n8k16_bf16(d, fa, f);
        break;
    case 1:
        mma_m16n8k16_f16(d, fa, f);
        break;
    case 2:
        mma_m16n8k32_s8(e, fa, f);
        break;
    default:
        mma_m16n8k32_e4m3(d, fa, f);
    }
    for (int i = 0; i < 4; i++) {
        int at = (lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2;
        static_cast<uint32_t *>(p.d)[at] = p.format == 2 ? uint32_t(e[i]) : __float_as_uint(d[i]);
    }
}
SD_KERNEL(sd_emulated_mma, SelfTestMmaParams)

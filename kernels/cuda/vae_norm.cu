// What stands between and before the VAE's convolutions, channels last in bf16: RMS norm over channels with SiLU, and the way from planes of f32.
#include "common.cuh"

namespace vae {

// ---- Norm -----------------------------------------------------------------------------------------------------------------

struct NormParams {
    const Bf16 *x; // [positions, C] bf16
    Bf16 *y;       // the same; may be x
    const float *gain; // [C]
    int64_t positions;
    int32_t channels;  // C: a multiple of 8, at most 1024
    int32_t silu;
};

constexpr int MOST_CHUNKS = 4; // of 8 channels in a lane

// y = gain·√C·x / max(‖x‖₂, 1e-12), then SiLU if asked for. As many lanes as a row has chunks (rounded up to a power of 2) have one position.
__device__ __forceinline__ void norm(const NormParams &p) {
    const int chunks = p.channels / 8;
    int lanes = 1;
    while (lanes < chunks && lanes < 32) {
        lanes *= 2;
    }
    const int lane = threadIdx.x % lanes;
    const int64_t position = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / lanes;
    float x[MOST_CHUNKS][8] = {}, sum = 0;
#pragma unroll
    for (int i = 0; i < MOST_CHUNKS; i++) {
        const int chunk = lane + i * lanes;
        if (position < p.positions && chunk < chunks) {
            load8(p.x + position * p.channels + chunk * 8, x[i]);
        }
#pragma unroll
        for (int j = 0; j < 8; j++) {
            sum += x[i][j] * x[i][j];
        }
    }
    for (int other = lanes / 2; other > 0; other /= 2) {
        sum += __shfl_xor_sync(~0u, sum, other);
    }
    const float factor = sqrtf(float(p.channels)) / fmaxf(sqrtf(sum), 1e-12f);
#pragma unroll
    for (int i = 0; i < MOST_CHUNKS; i++) {
        const int chunk = lane + i * lanes;
        if (position < p.positions && chunk < chunks) {
            float gain[8];
            load8(p.gain + chunk * 8, gain);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const float y = x[i][j] * factor * gain[j];
                x[i][j] = p.silu ? silu(y) : y;
            }
            store8(p.y + position * p.channels + chunk * 8, x[i]);
        }
    }
}

// ---- Planes -------------------------------------------------------------------------------------------------------------------

struct PlanesParams {
    const float *planes; // [B, C, area] f32
    Bf16 *pixels;        // [B, area, width] bf16
    int64_t area;
    int32_t channels; // C <= width
    int32_t width;    // a multiple of 8; further channels of pixels are zeros
};

// Pixels of a picture, and also weights of a convolution: its outputs are B, the elements of its kernel the area. A thread has one pixel, a block's y is
// the batch.
__device__ __forceinline__ void to_pixels(const PlanesParams &p) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= p.area) {
        return;
    }
    const float *from = p.planes + int64_t(blockIdx.y) * p.channels * p.area + i;
    Bf16 *to = p.pixels + (int64_t(blockIdx.y) * p.area + i) * p.width;
    for (int first = 0; first < p.width; first += 8) {
        float x[8];
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const int c = first + j;
            x[j] = c < p.channels ? from[c * p.area] : 0.0f;
        }
        store8(to + first, x);
    }
}

} // namespace vae

using VaeNormParams = vae::NormParams;
using VaePlanesParams = vae::PlanesParams;

// All with 256 threads a block. Grid: one thread for each
//   sd_vae_norm          position and lane: positions · min(32, C/8 rounded up to a power of 2)
//   sd_vae_to_pixels     pixel, times B in y
extern "C" __global__ void __launch_bounds__(256) sd_vae_norm(const __grid_constant__ VaeNormParams p) { vae::norm(p); }
SD_KERNEL(sd_vae_norm, VaeNormParams)
extern "C" __global__ void __launch_bounds__(256) sd_vae_to_pixels(const __grid_constant__ VaePlanesParams p) { vae::to_pixels(p); }
SD_KERNEL(sd_vae_to_pixels, VaePlanesParams)

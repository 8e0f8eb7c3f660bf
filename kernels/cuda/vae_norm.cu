// What stands between the VAE's convolutions, channels last in bf16: RMS norm over channels with SiLU, doubling of pictures, and the ways to and
// from planes of f32.
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

// ---- Doubling ---------------------------------------------------------------------------------------------------------------

struct DoubleParams {
    const Bf16 *x; // [images, H, W, C] bf16, C a multiple of 8
    Bf16 *y;       // [images, 2H, 2W, C]: every pixel four times
    int64_t images;
    int32_t height, width, channels;
};

// A thread has 16 bytes of the input.
__device__ __forceinline__ void doubled(const DoubleParams &p) {
    const int chunks = p.channels / 8;
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= p.images * p.height * p.width * chunks) {
        return;
    }
    const int chunk = int(i % chunks);
    const int64_t pixel = i / chunks, row = pixel / p.width; // of all images
    const int column = int(pixel - row * p.width);
    const uint4 x = *reinterpret_cast<const uint4 *>(p.x + i * 8);
#pragma unroll
    for (int dy = 0; dy < 2; dy++) {
#pragma unroll
        for (int dx = 0; dx < 2; dx++) {
            *reinterpret_cast<uint4 *>(p.y + (((2 * row + dy) * 2 * p.width + 2 * column + dx) * chunks + chunk) * 8) = x;
        }
    }
}

// ---- Planes -------------------------------------------------------------------------------------------------------------------

struct PlanesParams {
    float *planes;      // [B, C, area] f32, area = T·H·W
    Bf16 *pixels;   // [B, area, width] bf16
    const float *scale; // [C], or null for 1
    const float *shift; // [C], or null for 0
    int64_t area;
    int32_t channels;   // C <= width
    int32_t width;      // a multiple of 8; further channels of pixels are zeros
    float limit;        // from_pixels: results are brought into [−limit, limit]; infinite for all
};

// pixels = planes·scale + shift. A thread has one pixel, a block's y is the batch.
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
            x[j] = c < p.channels ? from[c * p.area] * (p.scale ? p.scale[c] : 1.0f) + (p.shift ? p.shift[c] : 0.0f) : 0.0f;
        }
        store8(to + first, x);
    }
}

// planes = clamp(pixels·scale + shift); here width may be any number of channels.
__device__ __forceinline__ void from_pixels(const PlanesParams &p) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= p.area) {
        return;
    }
    const Bf16 *from = p.pixels + (int64_t(blockIdx.y) * p.area + i) * p.width;
    float *to = p.planes + int64_t(blockIdx.y) * p.channels * p.area + i;
    for (int c = 0; c < p.channels; c++) {
        const float x = __bfloat162float(from[c]) * (p.scale ? p.scale[c] : 1.0f) + (p.shift ? p.shift[c] : 0.0f);
        to[c * p.area] = fminf(fmaxf(x, -p.limit), p.limit);
    }
}

} // namespace vae

using VaeNormParams = vae::NormParams;
using VaeDoubleParams = vae::DoubleParams;
using VaePlanesParams = vae::PlanesParams;

// All with 256 threads a block. Grid: one thread for each
//   sd_vae_norm          position and lane: positions · min(32, C/8 rounded up to a power of 2)
//   sd_vae_double        16 bytes of x
//   sd_vae_to_pixels     pixel, times B in y
//   sd_vae_from_pixels   likewise
extern "C" __global__ void __launch_bounds__(256) sd_vae_norm(const __grid_constant__ VaeNormParams p) { vae::norm(p); }
SD_KERNEL(sd_vae_norm, VaeNormParams)
extern "C" __global__ void __launch_bounds__(256) sd_vae_double(const __grid_constant__ VaeDoubleParams p) { vae::doubled(p); }
SD_KERNEL(sd_vae_double, VaeDoubleParams)
extern "C" __global__ void __launch_bounds__(256) sd_vae_to_pixels(const __grid_constant__ VaePlanesParams p) { vae::to_pixels(p); }
SD_KERNEL(sd_vae_to_pixels, VaePlanesParams)
extern "C" __global__ void __launch_bounds__(256) sd_vae_from_pixels(const __grid_constant__ VaePlanesParams p) { vae::from_pixels(p); }
SD_KERNEL(sd_vae_from_pixels, VaePlanesParams)

// The two ends of a step: latents to patches, tokens back to latents, and what samplers do with f32 latents.
#include "common.cuh"

// Latents [channels, frames, height, width] and tokens [frames · height/s · width/s, s²·channels], patches of 1 x s x s.
// sd_patchify: f32 latents → tokens, columns (channel, y, x) as the patch embedding's weight has them; bf16.
// sd_unpatchify: f32 or bf16 tokens, columns (y, x, channel) as the head makes them → f32 latents.
// With s = 1 tokens are pixels.
// grid (ceil(numbers of latents / 256)), block 256.
struct PatchParams {
    const void *x;
    void *y;
    int channels;
    int frames;
    int height; // a multiple of side
    int width;  // likewise
    int64_t token_stride; // numbers from token to token, at least s²·channels: several latents may be patched into parts of one row
    int x_is_f32;         // of sd_unpatchify
    int side;             // s
};

constexpr int MOST_TERMS = 8;

// y = Σ factor[i]·x[i], summed in order: guidance (Σ coefficient · branch), and linear sampler steps (a·x + b·v). y may be one of x.
// grid (ceil(n / 256)), block 256.
struct CombineParams {
    const float *x[MOST_TERMS]; // [n]
    float *y;                   // [n]
    Bf16 *rounded;              // [n] or null: y as bf16
    int64_t n;
    float factor[MOST_TERMS];
    int terms;
};

namespace {

constexpr int THREADS = 256;

struct Place {
    int64_t latent, token;
    int y, x; // in the patch
    int channel;
};

__device__ __forceinline__ bool place_of(const PatchParams &p, Place &place) {
    // One thread a number of the latents, so that these are read and written side by side.
    int64_t i = int64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= int64_t(p.channels) * p.frames * p.height * p.width) {
        return false;
    }
    int64_t rows = i / p.width, planes = rows / p.height;
    int x = i % p.width, y = rows % p.height, frame = planes % p.frames;
    const int s = p.side;
    place = {i, (int64_t(frame) * (p.height / s) + y / s) * (p.width / s) + x / s, y % s, x % s, int(planes / p.frames)};
    return true;
}

} // namespace

extern "C" __global__ void __launch_bounds__(THREADS) sd_patchify(const __grid_constant__ PatchParams p) {
    Place at;
    if (place_of(p, at)) {
        int64_t to = at.token * p.token_stride + (at.channel * p.side + at.y) * p.side + at.x;
        static_cast<Bf16 *>(p.y)[to] = __float2bfloat16(static_cast<const float *>(p.x)[at.latent]);
    }
}
SD_KERNEL(sd_patchify, PatchParams)

extern "C" __global__ void __launch_bounds__(THREADS) sd_unpatchify(const __grid_constant__ PatchParams p) {
    Place at;
    if (place_of(p, at)) {
        int64_t from = at.token * p.token_stride + (at.y * p.side + at.x) * p.channels + at.channel;
        static_cast<float *>(p.y)[at.latent] = p.x_is_f32 ? static_cast<const float *>(p.x)[from] : __bfloat162float(static_cast<const Bf16 *>(p.x)[from]);
    }
}
SD_KERNEL(sd_unpatchify, PatchParams)

extern "C" __global__ void __launch_bounds__(THREADS) sd_combine(const __grid_constant__ CombineParams p) {
    const int64_t i = int64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= p.n) {
        return;
    }
    float sum = 0.0f;
#pragma unroll
    for (int term = 0; term < MOST_TERMS; term++) {
        if (term < p.terms) {
            sum += p.factor[term] * p.x[term][i];
        }
    }
    p.y[i] = sum;
    if (p.rounded) {
        p.rounded[i] = __float2bfloat16(sum);
    }
}
SD_KERNEL(sd_combine, CombineParams)

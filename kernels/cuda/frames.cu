// Attention of every pixel to the same pixel of all frames: few keys, many small problems, which tiles of the other kernels would leave empty.
#include "common.cuh"

// out[f] = Σ softmax_g(scale · q[f]·k[g]) · v[g], for each of `columns` columns of 16 channels. q, k, v, out: [frames, columns, 16] bf16, without gaps.
// A column is a head of a pixel. grid (ceil(frames · columns / 128)), block 128.
struct FramesParams {
    const Bf16 *q, *k, *v;
    Bf16 *out;
    int64_t columns;
    int frames;
    float scale; // > 0
};

namespace {

constexpr int THREADS = 128, D = 16;

__device__ __forceinline__ void load(const Bf16 *p, float (&x)[2][8]) {
    load8(p, x[0]);
    load8(p + 8, x[1]);
}

} // namespace

extern "C" __global__ void __launch_bounds__(THREADS) sd_attention_frames(const __grid_constant__ FramesParams p) {
    // Neighbours have neighbouring columns, so what they read lies side by side.
    const int64_t i = int64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= p.frames * p.columns) {
        return;
    }
    const int64_t column = i % p.columns;
    const float scale = p.scale * 1.4426950408889634f; // log2 e
    float q[2][8], o[2][8] = {}, largest = __uint_as_float(0xff800000u), sum = 0;
    load(p.q + i * D, q);
    for (int g = 0; g < p.frames; g++) {
        const int64_t at = (g * p.columns + column) * D;
        float k[2][8], v[2][8], score = 0;
        load(p.k + at, k);
        load(p.v + at, v);
#pragma unroll
        for (int e = 0; e < D; e++) {
            score += q[e / 8][e % 8] * k[e / 8][e % 8];
        }
        score *= scale;
        const float now = fmaxf(largest, score), before = exp2_fast(largest - now), weight = exp2_fast(score - now);
        largest = now;
        sum = sum * before + weight;
#pragma unroll
        for (int e = 0; e < D; e++) {
            o[e / 8][e % 8] = o[e / 8][e % 8] * before + weight * v[e / 8][e % 8];
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int e = 0; e < 8; e++) {
            o[half][e] /= sum;
        }
        store8(p.out + i * D + 8 * half, o[half]);
    }
}
SD_KERNEL(sd_attention_frames, FramesParams)

// What the convolution kernels share: how outputs see inputs.
#pragma once
#include "ptx.cuh"

namespace conv3d {

enum Spatial : int32_t {
    SAME = 0,   // stride 1, k/2 zeros on all four sides
    HALVE = 1,  // stride 2, one zero column to the right and one zero row below
    DOUBLE = 2, // every pixel is repeated 2×2, then as SAME
};

// Channels last, all bf16; I is a multiple of 8.
struct Params {
    const uint16_t *x;          // [B, T, H, W, I]
    const uint16_t *history[2]; // frames before x, each [B, H, W, I]: the second is the one before x, the first the one before that
    const uint16_t *weight;     // [O, kT, k, k, I]
    const float *bias;          // [O], or null
    const uint16_t *residual;   // added to the result, in its shape; or null
    // [B, T', H', W', O]. With `split` 2, [B, 2T', H', W', O/2]: the first half of the channels are even frames, the second odd ones (O/2 a multiple of 8).
    uint16_t *out;
    // [B, O, T', H', W'], the result in f32 instead of `out`, without residual and split; or null. Of sd_conv3d_n16 only: for the few channels at the ends.
    float *planes;
    int32_t batch, frames, height, width, in_channels, out_channels;
    int32_t out_frames, out_height, out_width;
    int32_t kernel_frames, kernel_size; // kT <= 3
    int32_t frames_before;    // as kernels/src/conv3d: history, and zero frames before it as far as it is shorter
    int32_t history_frames;   // <= frames_before <= 2
    int32_t temporal_stride, spatial, split;
};

// An output position: the input frame, row and column (of the doubled picture for DOUBLE) at which its kernel begins.
struct Place {
    int batch, frame, row, column;
};

__device__ __forceinline__ Place place(const Params &p, int64_t position) {
    const int area = p.out_height * p.out_width;
    const int64_t image = position / area;
    const int in_area = int(position - image * area), y = in_area / p.out_width, x = in_area - y * p.out_width;
    const int batch = int(image / p.out_frames), t = int(image - int64_t(batch) * p.out_frames);
    const int step = p.spatial == HALVE ? 2 : 1, before = p.spatial == HALVE ? 0 : p.kernel_size / 2;
    return {batch, t * p.temporal_stride - p.frames_before, y * step - before, x * step - before};
}

// The channels of the pixel that kernel element (dt, dy, dx) sees; null for zeros.
__device__ __forceinline__ const uint16_t *pixel(const Params &p, const Place &at, int dt, int dy, int dx) {
    const int doubled = p.spatial == DOUBLE ? 1 : 0;
    const int frame = at.frame + dt, y = at.row + dy, x = at.column + dx;
    if (unsigned(y) >= unsigned(p.height << doubled) || unsigned(x) >= unsigned(p.width << doubled)) {
        return nullptr;
    }
    const uint16_t *images = p.x;
    int64_t image = int64_t(at.batch) * p.frames + frame;
    if (frame < 0) {
        if (frame + p.history_frames < 0) {
            return nullptr;
        }
        images = frame == -1 ? p.history[1] : p.history[0];
        image = at.batch;
    }
    return images + ((image * p.height + (y >> doubled)) * p.width + (x >> doubled)) * p.in_channels;
}

} // namespace conv3d

// What surrounds the matrix products of convolutional networks over pictures: windows of pixels as rows, channels side by side, largest values, means,
// and every channel alone. Channels last, bf16, a multiple of 8 of them: those that fill up are zeros. A thread has a chunk of eight.
// Grid (ceil(chunks / 256)), block 256, no dynamic shared memory, unless said otherwise; fewer than 2^31 chunks.
#include "common.cuh"

// y[b, row, column] = x[b, row, column], or with `focus` the four pixels of a square side by side, columns before rows; then zeros.
struct PictureParams {
    const float *x; // [batch, height, width, 3]
    Bf16 *y;        // [batch, height, width, 8], with focus [batch, height / 2, width / 2, 16]
    int batch, height, width;
    int focus;
};

// y[b, row, column, dy, dx] = x[b, row·stride + dy − k/2, column·stride + dx − k/2], zeros outside.
struct WindowsParams {
    const Bf16 *x; // [batch, height, width, 8·chunks]
    Bf16 *y;       // [batch, out_height, out_width, kernel, kernel, 8·chunks]
    int batch, height, width, chunks;
    int out_height, out_width;
    int kernel, stride;
};

// Channels from `y` on = those of x, times clamp((gate + 3)/6, 0, 1).
struct JoinParams {
    const Bf16 *x;     // [batch, height, width, 8·chunks], with doubled half of height and width
    Bf16 *y;           // [batch, height, width, ..]
    const float *gate; // [batch, ..], or null
    int64_t y_stride;  // numbers from pixel to pixel
    int64_t gate_stride;
    int batch, height, width, chunks;
    int doubled;
};

// Of every channel alone: the largest value in windows, which end at the edges; or a convolution, and then an activation.
struct AloneParams {
    const Bf16 *x;       // [batch, height, width, 8·chunks]
    Bf16 *y;             // likewise
    const float *weight; // [kernel, kernel, 8·chunks], of sd_depthwise
    const float *bias;   // [8·chunks], likewise
    int batch, height, width, chunks;
    int kernel;
    int activation; // Activation
};

// y[b] = mean of x[b] over pixels. Grid (chunks, batch), block 128.
struct MeanParams {
    const Bf16 *x; // [batch, pixels, 8·chunks]
    Bf16 *y;       // [batch, ..]
    int64_t y_stride;
    int pixels, chunks;
};

namespace {

constexpr int THREADS = 256, MEAN_THREADS = 128;

// A chunk's place in [batch, height, width, chunks].
struct Pixel {
    int batch, row, column, chunk;
};

__device__ __forceinline__ bool pixel_of(int batch, int height, int width, int chunks, Pixel &at) {
    const uint32_t index = blockIdx.x * THREADS + threadIdx.x, pixel = index / chunks, line = pixel / width;
    at = {int(line / height), int(line % height), int(pixel % width), int(index % chunks)};
    return at.batch < batch;
}

template <typename Params> __device__ __forceinline__ const Bf16 *pixel_at(const Params &p, int batch, int row, int column, int chunk) {
    return p.x + (((int64_t(batch) * p.height + row) * p.width + column) * p.chunks + chunk) * 8;
}

__device__ __forceinline__ void copy8(const Bf16 *from, Bf16 *to) { *reinterpret_cast<uint4 *>(to) = *reinterpret_cast<const uint4 *>(from); }

__device__ __forceinline__ void picture(const PictureParams &p) {
    const int side = p.focus ? 2 : 1, height = p.height / side, width = p.width / side;
    Pixel at;
    if (!pixel_of(p.batch, height, width, side, at)) {
        return;
    }
    float v[8];
#pragma unroll
    for (int e = 0; e < 8; e++) {
        const int channel = 8 * at.chunk + e, square = channel / 3;
        const int row = at.row * side + square % side, column = at.column * side + square / side;
        v[e] = square < side * side ? p.x[((int64_t(at.batch) * p.height + row) * p.width + column) * 3 + channel % 3] : 0.0f;
    }
    store8(p.y + (((int64_t(at.batch) * height + at.row) * width + at.column) * side + at.chunk) * 8, v);
}

__device__ __forceinline__ void windows(const WindowsParams &p) {
    const int elements = p.kernel * p.kernel;
    Pixel at;
    if (!pixel_of(p.batch, p.out_height, p.out_width, elements * p.chunks, at)) {
        return;
    }
    const int element = at.chunk / p.chunks, chunk = at.chunk % p.chunks;
    const int row = at.row * p.stride + element / p.kernel - p.kernel / 2, column = at.column * p.stride + element % p.kernel - p.kernel / 2;
    const bool inside = unsigned(row) < unsigned(p.height) && unsigned(column) < unsigned(p.width);
    Bf16 *to = p.y + (((int64_t(at.batch) * p.out_height + at.row) * p.out_width + at.column) * elements * p.chunks + at.chunk) * 8;
    if (inside) {
        copy8(pixel_at(p, at.batch, row, column, chunk), to);
    } else {
        *reinterpret_cast<uint4 *>(to) = make_uint4(0, 0, 0, 0);
    }
}

__device__ __forceinline__ void join(const JoinParams &p) {
    Pixel at;
    if (!pixel_of(p.batch, p.height, p.width, p.chunks, at)) {
        return;
    }
    const int half = p.doubled ? 2 : 1;
    const Bf16 *from = p.x + (((int64_t(at.batch) * (p.height / half) + at.row / half) * (p.width / half) + at.column / half) * p.chunks + at.chunk) * 8;
    Bf16 *to = p.y + ((int64_t(at.batch) * p.height + at.row) * p.width + at.column) * p.y_stride + at.chunk * 8;
    if (!p.gate) {
        copy8(from, to);
        return;
    }
    float v[8], gate[8];
    load8(from, v);
    load8(p.gate + at.batch * p.gate_stride + at.chunk * 8, gate);
#pragma unroll
    for (int e = 0; e < 8; e++) {
        v[e] *= fminf(fmaxf((gate[e] + 3.0f) / 6.0f, 0.0f), 1.0f);
    }
    store8(to, v);
}

// `element(v, i)` takes the numbers of kernel element i, for those inside.
template <class Element> __device__ __forceinline__ void each_element(const AloneParams &p, const Pixel &at, Element element) {
    for (int i = 0; i < p.kernel * p.kernel; i++) {
        const int row = at.row + i / p.kernel - p.kernel / 2, column = at.column + i % p.kernel - p.kernel / 2;
        if (unsigned(row) < unsigned(p.height) && unsigned(column) < unsigned(p.width)) {
            float v[8];
            load8(pixel_at(p, at.batch, row, column, at.chunk), v);
            element(v, i);
        }
    }
}

__device__ __forceinline__ void max_pool(const AloneParams &p) {
    Pixel at;
    if (!pixel_of(p.batch, p.height, p.width, p.chunks, at)) {
        return;
    }
    float largest[8];
    load8(pixel_at(p, at.batch, at.row, at.column, at.chunk), largest);
    each_element(p, at, [&](const float(&v)[8], int) {
#pragma unroll
        for (int e = 0; e < 8; e++) {
            // A window with NaN gives NaN, as on the host.
            largest[e] = v[e] > largest[e] || v[e] != v[e] ? v[e] : largest[e];
        }
    });
    store8(p.y + (pixel_at(p, at.batch, at.row, at.column, at.chunk) - p.x), largest);
}

__device__ __forceinline__ void depthwise(const AloneParams &p) {
    Pixel at;
    if (!pixel_of(p.batch, p.height, p.width, p.chunks, at)) {
        return;
    }
    float sum[8];
    load8(p.bias + at.chunk * 8, sum);
    each_element(p, at, [&](const float(&v)[8], int i) {
        float weight[8];
        load8(p.weight + (int64_t(i) * p.chunks + at.chunk) * 8, weight);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            sum[e] += v[e] * weight[e];
        }
    });
#pragma unroll
    for (int e = 0; e < 8; e++) {
        sum[e] = activate(sum[e], p.activation);
    }
    store8(p.y + (pixel_at(p, at.batch, at.row, at.column, at.chunk) - p.x), sum);
}

} // namespace

#define SD_PICTURES(name, Params, body)                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) name(const __grid_constant__ Params p) { body(p); }            \
    SD_KERNEL(name, Params)

SD_PICTURES(sd_picture, PictureParams, picture)
SD_PICTURES(sd_windows, WindowsParams, windows)
SD_PICTURES(sd_join, JoinParams, join)
SD_PICTURES(sd_max_pool, AloneParams, max_pool)
SD_PICTURES(sd_depthwise, AloneParams, depthwise)

extern "C" __global__ void __launch_bounds__(MEAN_THREADS) sd_mean(const __grid_constant__ MeanParams p) {
    SD_SHARED(float, sums, 8 * (MEAN_THREADS / 32));
    const int chunk = blockIdx.x, batch = blockIdx.y, warp = threadIdx.x / 32;
    float sum[8] = {};
    for (int pixel = threadIdx.x; pixel < p.pixels; pixel += MEAN_THREADS) {
        float v[8];
        load8(p.x + ((int64_t(batch) * p.pixels + pixel) * p.chunks + chunk) * 8, v);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            sum[e] += v[e];
        }
    }
#pragma unroll
    for (int e = 0; e < 8; e++) {
        sum[e] = warp_sum(sum[e]);
        if (threadIdx.x % 32 == 0) {
            sums[8 * warp + e] = sum[e];
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
#pragma unroll
        for (int e = 0; e < 8; e++) {
            sum[e] = 0;
#pragma unroll
            for (int w = 0; w < MEAN_THREADS / 32; w++) {
                sum[e] += sums[8 * w + e];
            }
            sum[e] /= p.pixels;
        }
        store8(p.y + batch * p.y_stride + chunk * 8, sum);
    }
}
SD_KERNEL(sd_mean, MeanParams)

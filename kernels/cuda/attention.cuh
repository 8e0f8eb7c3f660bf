// What the attention kernels share: swizzled tiles in shared memory, fragments, the running softmax, how results are stored.
#pragma once
#include "common.cuh"

namespace attention {

// A matrix [batch, rows, heads, channels] of bf16 whose channels are neighbours; strides count elements. All strides and the
// pointer are multiples of 16 bytes.
struct View {
    const uint16_t *data;
    int64_t batch, row, head;
};

constexpr float LOG2_E = 1.4426950408889634f;

__device__ __forceinline__ float minus_infinity() { return __int_as_float(int(0xff800000)); }

// ---- Tiles ---------------------------------------------------------------------------------------------------------------
//
// A tile has rows of `CHUNKS` chunks of 16 bytes. Within each 128 bytes the chunk is swizzled, so that the eight rows that one
// ldmatrix reads lie in different banks. Tiles start at multiples of 1024 bytes.

// Byte offset of a chunk of a row.
template <int CHUNKS> __device__ __forceinline__ uint32_t tile_offset(int row, int chunk) {
    static_assert(CHUNKS == 4 || CHUNKS % 8 == 0);
    // With four chunks, two rows share 128 bytes: rows 2i and 2i+1 differ in their half, and i moves the chunk.
    return CHUNKS == 4 ? row * 64 + ((chunk ^ (row >> 1)) & 3) * 16 : (row * CHUNKS + ((chunk & ~7) | ((chunk ^ row) & 7))) * 16;
}

// From the address of chunk c of a row, c even, the one `chunk` (even) behind it: the swizzle is an exclusive or.
template <int CHUNKS> __device__ __forceinline__ uint32_t chunk_address(uint32_t address, int chunk) {
    constexpr int MASK = CHUNKS == 4 ? 3 : 7;
    return (address ^ ((chunk & MASK) * 16)) + (chunk & ~MASK) * 16;
}

// One thread's part of a tile: every thread has one chunk of every STEP-th row.
template <int ROWS, int CHUNKS, int THREADS> struct Loader {
    static constexpr int STEP = THREADS / CHUNKS > 0 ? THREADS / CHUNKS : 1;

    // Starts copies of rows `first..first + ROWS` of `source` (row stride in bytes) to a tile: zeros where the row is `rows` or
    // more, or where the chunk is `chunks` or more.
    static __device__ __forceinline__ void load(uint32_t tile, const unsigned char *source, int64_t row_bytes, int first, int rows, int chunks) {
        static_assert(ROWS * CHUNKS % THREADS == 0);
        // What follows from the thread is computed anew in each round: the registers are needed for sums.
        const int thread = not_hoisted(threadIdx.x);
        if (THREADS % CHUNKS == 0 && STEP % 8 == 0) {
            // The swizzle is the same in all rows of a thread.
            int row = thread / CHUNKS, chunk = thread % CHUNKS;
            uint32_t target = tile + tile_offset<CHUNKS>(row, chunk);
            const unsigned char *from = source + (first + row) * row_bytes + chunk * 16;
            int left = chunk < chunks ? rows - first - row : 0;
#pragma unroll
            for (int i = 0; i < ROWS / STEP; i++) {
                bool inside = i * STEP < left;
                cp_async_16_at(target + i * STEP * CHUNKS * 16, inside ? from : source, inside ? 16 : 0);
                from += STEP * row_bytes;
            }
        } else {
#pragma unroll 4
            for (int i = 0; i < ROWS * CHUNKS / THREADS; i++) {
                int index = i * THREADS + thread, row = index / CHUNKS, chunk = index % CHUNKS;
                bool inside = first + row < rows && chunk < chunks;
                cp_async_16_at(tile + tile_offset<CHUNKS>(row, chunk), inside ? source + (first + row) * row_bytes + chunk * 16 : source, inside ? 16 : 0);
            }
        }
    }
};

// ---- Softmax --------------------------------------------------------------------------------------------------------------

// Largest of, or sum over, the four lanes that hold one row of an accumulator.
__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

// ---- Results ---------------------------------------------------------------------------------------------------------------

// Lane t of each quad brings word t of four chunks (of 16 bytes) and gets all words of chunk t.
__device__ __forceinline__ void transpose_quad(uint32_t (&w)[4]) {
    bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        uint32_t other = __shfl_xor_sync(~0u, odd ? w[i] : w[i + 1], 1);
        (odd ? w[i] : w[i + 1]) = other;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t other = __shfl_xor_sync(~0u, high ? w[i] : w[i + 2], 2);
        (high ? w[i] : w[i + 2]) = other;
    }
}

// Stores rows g and g+8 (g = lane/4) of an accumulator [16, 8·TILES] as bf16: `at(tile, i)` is register i of a column tile times what it
// takes. Row r goes to out + r·stride, r < rows and channels below `channels` (a multiple of 8) only. All lanes of the warp take part.
template <int TILES, class At> __device__ __forceinline__ void store_rows(At at, uint16_t *out, int64_t stride, int rows, int channels) {
    static_assert(TILES % 4 == 0);
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = g + 8 * half;
#pragma unroll
        for (int j = 0; j < TILES; j += 4) {
            uint32_t w[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                w[i] = pack_bf16(at(j + i, 2 * half), at(j + i, 2 * half + 1));
            }
            transpose_quad(w);
            int channel = 8 * (j + t);
            if (row < rows && channel < channels) {
                *reinterpret_cast<uint4 *>(out + row * stride + channel) = make_uint4(w[0], w[1], w[2], w[3]);
            }
        }
    }
}

} // namespace attention

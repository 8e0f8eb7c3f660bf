// Convolutions over video, causal in time with explicit history, for sm_80 and later: kernels/src/conv3d in bf16 with sums in f32.
//
// As one matrix product: rows are output positions, columns output channels, and the sum runs over kernel elements and input channels. Tiles of
// the left matrix, which is never made, are gathered from the pixels (16 bytes, 8 channels, at a time); zeros stand for what is outside.
#include "attention.cuh"
#include "conv3d.cuh"

namespace conv3d {

using attention::chunk_address, attention::tile_offset;

// A block has 128 positions and N channels, its four warps ROWS × COLUMNS parts of them.
template <int N_, int ROWS_, int COLUMNS_> struct Shape {
    static constexpr int N = N_, M = 128, ROWS = ROWS_, COLUMNS = COLUMNS_, THREADS = 32 * ROWS * COLUMNS;
    static constexpr int TILES_M = M / ROWS / 16, TILES_N = N / COLUMNS / 8;
    static constexpr int CHUNKS = 4, STAGES = 3; // 32 elements of the sum at a time
    static constexpr int POSITION_BYTES = M * CHUNKS * 16, STAGE_BYTES = POSITION_BYTES + N * CHUNKS * 16;
    static constexpr int OUT_ROW = N * 2 + 16; // padded: rows begin in different banks
    static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES > M * OUT_ROW ? STAGES * STAGE_BYTES : M * OUT_ROW;
    static_assert(THREADS == 128 && TILES_N % 2 == 0);
};

// Bias in f32, and straight to planes: lanes of a column have neighbouring positions.
template <class S>
__device__ __forceinline__ void to_planes(const Params &p, const float (&sum)[S::TILES_M][S::TILES_N][4], int64_t first_position, int first_channel) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t volume = int64_t(p.out_frames) * p.out_height * p.out_width, positions = p.batch * volume;
#pragma unroll
    for (int i = 0; i < S::TILES_M; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int64_t position = first_position + warp / S::COLUMNS * (S::M / S::ROWS) + 16 * i + 8 * half + lane / 4;
            const int64_t batch = position / volume, in_plane = position - batch * volume;
#pragma unroll
            for (int n = 0; n < S::TILES_N; n++) {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const int c = first_channel + warp % S::COLUMNS * (S::N / S::COLUMNS) + 8 * n + lane % 4 * 2 + e;
                    if (position < positions && c < p.out_channels) {
                        p.planes[(batch * p.out_channels + c) * volume + in_plane] = sum[i][n][2 * half + e] + (p.bias ? __ldg(p.bias + c) : 0.0f);
                    }
                }
            }
        }
    }
}

template <class S> __device__ __forceinline__ void run(const Params &p, unsigned char *shared) {
    constexpr int CHUNKS = S::CHUNKS, EACH = S::M * CHUNKS / S::THREADS, STEP = S::THREADS / CHUNKS;
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int64_t positions = int64_t(p.batch) * p.out_frames * p.out_height * p.out_width, first_position = int64_t(blockIdx.x) * S::M;
    const int first_channel = blockIdx.y * S::N;
    const uint32_t ring = shared_address(shared);
    const int channel_chunks = p.in_channels / 8, chunks = channel_chunks * p.kernel_frames * p.kernel_size * p.kernel_size;

    // Every thread gathers chunk `column` of the running 32 elements for EACH positions. Its place in the sum: kernel element (dt, dy, dx), channels
    // from 8·channel on.
    const int column = thread % CHUNKS, first_row = thread / CHUNKS;
    Place at[EACH];
    const uint16_t *from[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int64_t position = first_position + first_row + i * STEP;
        at[i] = place(p, position < positions ? position : 0);
        if (position >= positions) {
            at[i].row = -(1 << 20); // outside, always
        }
    }
    int dt = 0, dy = 0, dx = 0, channel = column, chunk = column;
    auto look_up = [&]() {
        while (channel >= channel_chunks) {
            channel -= channel_chunks;
            if (++dx == p.kernel_size) {
                dx = 0;
                if (++dy == p.kernel_size) {
                    dy = 0;
                    dt++;
                }
            }
        }
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            from[i] = pixel(p, at[i], dt, dy, dx);
        }
    };
    look_up();

    auto load = [&](int stage) {
        const uint32_t tile = ring + stage * S::STAGE_BYTES, target = tile + tile_offset<CHUNKS>(first_row, column);
        const bool inside = chunk < chunks;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const bool some = inside && from[i] != nullptr;
            cp_async_16_at(target + i * STEP * CHUNKS * 16, some ? from[i] + 8 * channel : p.x, some ? 16 : 0);
        }
        const uint32_t weights = tile + S::POSITION_BYTES;
#pragma unroll
        for (int i = 0; i < (S::N + STEP - 1) / STEP; i++) {
            const int row = first_row + i * STEP;
            const bool some = inside && first_channel + row < p.out_channels;
            if (S::N % STEP == 0 || row < S::N) {
                const uint16_t *weight = p.weight + int64_t(first_channel + row) * chunks * 8 + chunk * 8;
                cp_async_16_at(weights + tile_offset<CHUNKS>(row, column), some ? weight : p.weight, some ? 16 : 0);
            }
        }
        cp_async_commit();
        chunk += CHUNKS;
        channel += CHUNKS;
        if (channel >= channel_chunks && chunk < chunks) {
            look_up();
        }
    };
#pragma unroll
    for (int i = 0; i < S::STAGES - 1; i++) {
        load(i);
    }

    float sum[S::TILES_M][S::TILES_N][4] = {};
    const int row_of_warp = warp / S::COLUMNS * (S::M / S::ROWS), column_of_warp = warp % S::COLUMNS * (S::N / S::COLUMNS);
    const uint32_t a_offset = tile_offset<CHUNKS>(row_of_warp + lane % 16, lane / 16);
    const uint32_t b_offset = S::POSITION_BYTES + tile_offset<CHUNKS>(column_of_warp + lane % 8 + lane / 16 * 8, lane / 8 % 2);
    int stage = 0;
    for (int done = 0; done < chunks; done += CHUNKS) {
        cp_async_wait<S::STAGES - 2>();
        __syncthreads();
        load(stage == 0 ? S::STAGES - 1 : stage - 1);
        const uint32_t tile = ring + stage * S::STAGE_BYTES;
        stage = stage == S::STAGES - 1 ? 0 : stage + 1;
#pragma unroll
        for (int c = 0; c < CHUNKS; c += 2) {
            uint32_t a[S::TILES_M][4];
#pragma unroll
            for (int i = 0; i < S::TILES_M; i++) {
                ldmatrix_x4_at(a[i], chunk_address<CHUNKS>(tile + a_offset, c) + 16 * i * CHUNKS * 16);
            }
#pragma unroll
            for (int n = 0; n < S::TILES_N; n += 2) {
                uint32_t b[4];
                ldmatrix_x4_at(b, chunk_address<CHUNKS>(tile + b_offset, c) + 8 * n * CHUNKS * 16);
#pragma unroll
                for (int i = 0; i < S::TILES_M; i++) {
                    mma_m16n8k16_bf16(sum[i][n], a[i], {b[0], b[1]});
                    mma_m16n8k16_bf16(sum[i][n + 1], a[i], {b[2], b[3]});
                }
            }
        }
    }
    cp_async_wait<0>();
    __syncthreads();
    if constexpr (S::N == 16) {
        if (p.planes) {
            to_planes<S>(p, sum, first_position, first_channel);
            return;
        }
    }

    // Where channel 0 of a position of the block lies in the result; channels of the second half of a split are `half_step` further.
    const int out_channels = p.out_channels / p.split;
    const int64_t area = int64_t(p.out_height) * p.out_width, half_step = p.split == 2 ? (area - 1) * out_channels : 0;
    auto offset = [&](int row) {
        const int64_t position = first_position + row;
        return (position / area * (p.split - 1) * area + position) * out_channels;
    };

    // Bias and residual in f32, then through shared memory to whole rows.
#pragma unroll
    for (int i = 0; i < S::TILES_M; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = row_of_warp + 16 * i + 8 * half + lane / 4;
            const bool inside = first_position + row < positions;
            const int64_t start = offset(row);
#pragma unroll
            for (int n = 0; n < S::TILES_N; n++) {
                const int in_tile = column_of_warp + 8 * n + lane % 4 * 2;
                float x[2] = {sum[i][n][2 * half], sum[i][n][2 * half + 1]};
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const int c = first_channel + in_tile + e;
                    if (c < p.out_channels) {
                        x[e] += p.bias ? __ldg(p.bias + c) : 0.0f;
                        if (p.residual && inside) {
                            x[e] += __uint_as_float(uint32_t(p.residual[start + c + (c >= out_channels ? half_step : 0)]) << 16);
                        }
                    }
                }
                *reinterpret_cast<uint32_t *>(shared + row * S::OUT_ROW + in_tile * 2) = pack_bf16(x[0], x[1]);
            }
        }
    }
    __syncthreads();
    for (int i = thread; i < S::M * (S::N / 8); i += S::THREADS) {
        const int row = i / (S::N / 8), c = first_channel + i % (S::N / 8) * 8, left = p.out_channels - c;
        if (first_position + row < positions && left > 0) {
            const unsigned char *found = shared + row * S::OUT_ROW + i % (S::N / 8) * 16;
            uint16_t *to = p.out + offset(row) + c + (c >= out_channels ? half_step : 0);
            if (out_channels % 8 == 0) {
                *reinterpret_cast<uint4 *>(to) = *reinterpret_cast<const uint4 *>(found);
            } else {
                for (int e = 0; e < min(left, 8); e++) {
                    to[e] = reinterpret_cast<const uint16_t *>(found)[e];
                }
            }
        }
    }
}

using N16 = Shape<16, 4, 1>;
using N64 = Shape<64, 2, 2>;
using N96 = Shape<96, 2, 2>;

} // namespace conv3d

using Conv3dParams = conv3d::Params;

// Grid (⌈positions/128⌉, ⌈O/N⌉), 128 threads. `positions` is B·T'·H'·W'.
//   name            N   dynamic shared bytes
//   sd_conv3d_n16   16  27648
//   sd_conv3d_n64   64  36864
//   sd_conv3d_n96   96  43008
#define SD_CONV3D(name, shape, shared_bytes)                                                                             \
    static_assert(conv3d::shape::SHARED_BYTES == shared_bytes);                                                          \
    extern "C" __global__ void __launch_bounds__(128) name(const __grid_constant__ Conv3dParams p) {                     \
        SD_DYNAMIC_SHARED(unsigned char, shared);                                                                        \
        conv3d::run<conv3d::shape>(p, shared);                                                                           \
    }                                                                                                                    \
    SD_KERNEL(name, Conv3dParams)

SD_CONV3D(sd_conv3d_n16, N16, 27648)
SD_CONV3D(sd_conv3d_n64, N64, 36864)
SD_CONV3D(sd_conv3d_n96, N96, 43008)

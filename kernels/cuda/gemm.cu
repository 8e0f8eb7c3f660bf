// Matrix products with mma.sync, for compute capability 8.0 and later (8.9 for e4m3): y = epilogue(x·wᵀ).
//
// A block of four warps has a tile of 128 x 128, a warp 64 x 64 of it in registers. Three stages of 64 bytes along k go through shared memory by
// cp.async; that is the same for 8 and 16 bits, as are fragments by ldmatrix. Two blocks fit a multiprocessor.
//
// grid (ceil(m / 128) · ceil(n / 128)), block 128, 49152 bytes of dynamic shared memory. Any m and n; Params in gemm.cuh.
#include "gemm.cuh"

namespace {

constexpr int ROWS = 128, COLUMNS = 128, THREADS = 128, STAGES = 3;
constexpr int STEP_BYTES = 64;                      // of k
constexpr int TILE_BYTES = ROWS * STEP_BYTES;       // of x, and of w
constexpr int STAGE_BYTES = 2 * TILE_BYTES;
static_assert(ROWS == COLUMNS && STAGES * STAGE_BYTES == 49152);

struct FromBf16 {
    using Sum = float;
    static constexpr int BYTES = 2;
    static constexpr bool SHORT_SUMS = false;
    static __device__ __forceinline__ void multiply(Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_m16n8k16_bf16(d, a, b); }
};
struct FromInt8 {
    using Sum = int;
    static constexpr int BYTES = 1;
    static constexpr bool SHORT_SUMS = false;
    static __device__ __forceinline__ void multiply(Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_m16n8k32_s8(d, a, b); }
};
#ifdef SD_HAS_E4M3_MMA
struct FromE4m3 {
    using Sum = float;
    static constexpr int BYTES = 1;
    static constexpr bool SHORT_SUMS = true; // the tensor cores keep some 14 bits of such sums: 64 products, then an addition in f32
    static __device__ __forceinline__ void multiply(Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_m16n8k32_e4m3(d, a, b); }
};
#endif

// Offset of 16 bytes in a tile of rows of 64: the eight rows that an ldmatrix reads lie in different banks.
__device__ __forceinline__ int tile_offset(int row, int chunk) { return row * STEP_BYTES + ((chunk ^ (row >> 1)) & 3) * 16; }

// A thread's part of copying a matrix: one chunk of every 32nd row.
struct Loader {
    static constexpr int PARTS = ROWS * 4 / THREADS;
    const uint8_t *source; // of the first part at k = 0
    int64_t step;          // bytes to the next part's row
    int parts;             // that are inside of the matrix
    int first_byte;        // along k
    int offset;            // in the tile

    __device__ __forceinline__ Loader(const void *matrix, int64_t row_bytes, int first_row, int rows) {
        const int row = threadIdx.x / 4, chunk = threadIdx.x % 4;
        parts = min(max((rows - first_row - row + 31) / 32, 0), PARTS);
        first_byte = chunk * 16;
        // Where nothing is read the address has to be one all the same.
        source = static_cast<const uint8_t *>(matrix) + (parts > 0 ? (first_row + row) * row_bytes : 0);
        step = 32 * row_bytes;
        offset = tile_offset(row, chunk); // 32 rows further the swizzle is the same
    }
    __device__ __forceinline__ void copy(uint8_t *tile, int k_step, int k_bytes) const {
        const int at = k_step * STEP_BYTES + first_byte;
        const bool inside = at < k_bytes;
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const bool there = inside && i < parts;
            cp_async_16(tile + offset + i * 32 * STEP_BYTES, there ? source + i * step + at : source, there ? 16 : 0);
        }
    }
};

template <class Format> __device__ __forceinline__ void product(const GemmParams &p) {
    SD_DYNAMIC_SHARED(uint8_t, shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const gemm::Tile tile = gemm::tile_at<ROWS, COLUMNS>(p, blockIdx.x);
    const int k_bytes = p.k * Format::BYTES, steps = (k_bytes + STEP_BYTES - 1) / STEP_BYTES;
    const Loader x(p.x, p.x_stride * Format::BYTES, tile.row, p.m), w(p.w, p.w_stride * Format::BYTES, tile.column, p.n);
    auto load = [&](int step) {
        if (step < steps) {
            uint8_t *stage = shared + step % STAGES * STAGE_BYTES;
            x.copy(stage, step, k_bytes);
            w.copy(stage + TILE_BYTES, step, k_bytes);
        }
        cp_async_commit();
    };

    // Of fragments in a tile: rows of x by two chunks; rows of w two tiles at a time.
    const int warp_row = warp / 2 * 64, warp_column = warp % 2 * 64;
    int x_at[2], w_at[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        x_at[half] = tile_offset(warp_row + lane % 16, 2 * half + lane / 16);
        w_at[half] = TILE_BYTES + tile_offset(warp_column + lane / 16 * 8 + lane % 8, 2 * half + lane / 8 % 2);
    }

    typename Format::Sum sums[4][8][4] = {};
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) {
        load(step);
    }
    for (int step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads(); // this stage has come for all threads, and all have read the one before it
        load(step + STAGES - 1);
        const uint8_t *stage = shared + step % STAGES * STAGE_BYTES;
        uint32_t a[2][4][4], b[2][4][4];
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                ldmatrix_x4(a[half][i], stage + x_at[half] + i * 16 * STEP_BYTES);
                ldmatrix_x4(b[half][i], stage + w_at[half] + i * 16 * STEP_BYTES);
            }
        }
        if (Format::SHORT_SUMS) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    typename Format::Sum fresh[4] = {};
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        Format::multiply(fresh, a[half][i], {b[half][j / 2][j % 2 * 2], b[half][j / 2][j % 2 * 2 + 1]});
                    }
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        sums[i][j][e] += fresh[e];
                    }
                }
            }
        } else {
#pragma unroll
            for (int half = 0; half < 2; half++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
#pragma unroll
                    for (int j = 0; j < 8; j++) {
                        Format::multiply(sums[i][j], a[half][i], {b[half][j / 2][j % 2 * 2], b[half][j / 2][j % 2 * 2 + 1]});
                    }
                }
            }
        }
    }
    gemm::store<4, 8>(p, tile.row + warp_row, tile.column + warp_column, [&](int i, int j, int e) { return sums[i][j][e]; });
}

} // namespace

extern "C" __global__ void __launch_bounds__(THREADS, 2) sd_gemm_bf16(const __grid_constant__ GemmParams p) { product<FromBf16>(p); }
SD_KERNEL(sd_gemm_bf16, GemmParams)

extern "C" __global__ void __launch_bounds__(THREADS, 2) sd_gemm_int8(const __grid_constant__ GemmParams p) { product<FromInt8>(p); }
SD_KERNEL(sd_gemm_int8, GemmParams)

#ifdef SD_HAS_E4M3_MMA
extern "C" __global__ void __launch_bounds__(THREADS, 2) sd_gemm_e4m3(const __grid_constant__ GemmParams p) { product<FromE4m3>(p); }
SD_KERNEL_FROM(sd_gemm_e4m3, GemmParams, 89)
#endif

// Matrix products for Hopper (sm_90a): y = epilogue(x·wᵀ), as gemm.cu, with wgmma and TMA.
//
// Blocks stay and take tile after tile. One thread of the first warpgroup keeps a ring of stages of 128 bytes along k filled, also while
// the two other warpgroups store a tile's results; these multiply. bf16 and int8: tiles of 128 x 256, 64 x 256 a warpgroup. e4m3: tiles of
// 256 x 128, 128 x 128 a warpgroup, whose sums over 128 of k are added up in f32, since the tensor cores keep some 14 bits of such sums.
//
// grid (multiprocessors, or tiles where these are fewer), block 384, 196672 bytes of dynamic shared memory. Any m and n; k and rows as in gemm.cuh.
#include "gemm.cuh"
#include "wgmma.cuh"

struct GemmSm90Params {
    // x [m, k] and w [n, k] as 2-D maps (k, rows), innermost first; boxes of 128 bytes by 128 rows of x and 256 of w (e4m3: 256 and
    // 128); 128-byte swizzle, zeros outside.
    TensorMap x, w;
    GemmParams product; // its x and w are not read
};

#ifdef SD_HOPPER
namespace gemm_sm90 {

constexpr int STAGES = 4, STEP_BYTES = 128, STAGE_ROWS = 384, CONSUMERS = 2;

struct Shared {
    uint8_t stages[STAGES][STAGE_ROWS * STEP_BYTES]; // rows of x, then rows of w
    uint64_t full[STAGES], empty[STAGES];
};
static_assert(sizeof(Shared) == 196672);

// Place in the ring.
struct Ring {
    int stage = 0, round = 0;
    __device__ __forceinline__ void advance() {
        stage++;
        if (stage == STAGES) {
            stage = 0;
            round ^= 1;
        }
    }
};

struct Bf16Product {
    using Sum = float;
    static constexpr int BYTES = 2, ROWS = 128, COLUMNS = 256;
    static __device__ __forceinline__ void multiply(Sum (&d)[128], uint64_t a, uint64_t b, bool add) { wgmma_m64n256k16_bf16(d, a, b, add); }
};
struct Int8Product {
    using Sum = int;
    static constexpr int BYTES = 1, ROWS = 128, COLUMNS = 256;
    static __device__ __forceinline__ void multiply(Sum (&d)[128], uint64_t a, uint64_t b, bool add) { wgmma_m64n256k32_s8(d, a, b, add); }
};
struct E4m3Product {
    static constexpr int BYTES = 1, ROWS = 256, COLUMNS = 128;
};

__device__ __forceinline__ void release(uint64_t *empty) {
    if (threadIdx.x % 32 == 0) {
        mbarrier_arrive(empty);
    }
}

// Stages of a tile, multiplied and added up, then stored.
template <class Product>
__device__ __forceinline__ void consume(const GemmParams &p, Shared &shared, Ring &ring, gemm::Tile tile, int steps, int group) {
    typename Product::Sum sums[128];
    uint64_t *before = nullptr;
    for (int step = 0; step < steps; step++) {
        mbarrier_wait(&shared.full[ring.stage], ring.round);
        const uint32_t stage = shared_address(shared.stages[ring.stage]);
        const uint64_t a = wgmma_matrix(stage + group * 64 * STEP_BYTES, 1024, 0);
        const uint64_t b = wgmma_matrix(stage + Product::ROWS * STEP_BYTES, 1024, 0);
        wgmma_hold(sums);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; k++) {
            Product::multiply(sums, wgmma_matrix_at(a, 32 * k), wgmma_matrix_at(b, 32 * k), step > 0 || k > 0);
        }
        wgmma_commit();
        // The step before has been read when its products are done.
        wgmma_wait<1>();
        wgmma_hold(sums);
        if (before) {
            release(before);
        }
        before = &shared.empty[ring.stage];
        ring.advance();
    }
    wgmma_wait<0>();
    wgmma_hold(sums);
    release(before);
    gemm::store<1, 32>(p, tile.row + group * 64 + threadIdx.x % 128 / 32 * 16, tile.column, [&](int, int j, int e) { return sums[4 * j + e]; });
}

template <>
__device__ __forceinline__ void consume<E4m3Product>(const GemmParams &p, Shared &shared, Ring &ring, gemm::Tile tile, int steps, int group) {
    float sums[2][64] = {};
    for (int step = 0; step < steps; step++) {
        mbarrier_wait(&shared.full[ring.stage], ring.round);
        const uint32_t stage = shared_address(shared.stages[ring.stage]);
        const uint64_t b = wgmma_matrix(stage + E4m3Product::ROWS * STEP_BYTES, 1024, 0);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint64_t a = wgmma_matrix(stage + (group * 128 + i * 64) * STEP_BYTES, 1024, 0);
            float fresh[64];
            wgmma_hold(fresh);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < 4; k++) {
                wgmma_m64n128k32_e4m3(fresh, wgmma_matrix_at(a, 32 * k), wgmma_matrix_at(b, 32 * k), k > 0);
            }
            wgmma_commit();
            wgmma_wait<0>();
            wgmma_hold(fresh);
#pragma unroll
            for (int j = 0; j < 64; j++) {
                sums[i][j] += fresh[j];
            }
        }
        release(&shared.empty[ring.stage]);
        ring.advance();
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        gemm::store<1, 16>(p, tile.row + group * 128 + i * 64 + threadIdx.x % 128 / 32 * 16, tile.column,
                           [&](int, int j, int e) { return sums[i][4 * j + e]; });
    }
}

template <class Product> __device__ __forceinline__ void run(const GemmSm90Params &p, Shared &shared) {
    constexpr int K_STEP = STEP_BYTES / Product::BYTES;
    // The shuffle shows the compiler that all lanes go the same way.
    const int group = __shfl_sync(0xffffffffu, int(threadIdx.x) / 128, 0);
    const int steps = (p.product.k + K_STEP - 1) / K_STEP;
    const uint32_t tiles = gemm::tile_count<Product::ROWS, Product::COLUMNS>(p.product);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbarrier_init(&shared.full[i], 1);
            mbarrier_init(&shared.empty[i], 4 * CONSUMERS);
        }
        mbarrier_init_fence();
    }
    __syncthreads();
    Ring ring;
    if (group == 0) {
        registers_give_back<24>();
        if (threadIdx.x != 0) {
            return;
        }
        for (uint32_t i = blockIdx.x; i < tiles; i += gridDim.x) {
            const gemm::Tile tile = gemm::tile_at<Product::ROWS, Product::COLUMNS>(p.product, i);
            for (int step = 0; step < steps; step++) {
                mbarrier_wait(&shared.empty[ring.stage], ring.round ^ 1);
                uint8_t *stage = shared.stages[ring.stage];
                uint64_t *full = &shared.full[ring.stage];
                mbarrier_arrive_expect(full, STAGE_ROWS * STEP_BYTES);
                tma_load_2d(stage, p.x, full, step * K_STEP, tile.row);
                tma_load_2d(stage + Product::ROWS * STEP_BYTES, p.w, full, step * K_STEP, tile.column);
                ring.advance();
            }
        }
    } else {
        registers_take<240>();
        for (uint32_t i = blockIdx.x; i < tiles; i += gridDim.x) {
            consume<Product>(p.product, shared, ring, gemm::tile_at<Product::ROWS, Product::COLUMNS>(p.product, i), steps, group - 1);
        }
    }
}

} // namespace gemm_sm90

#define SD_GEMM_SM90(name, Product)                                                                                      \
    extern "C" __global__ void __launch_bounds__(384, 1) name(const __grid_constant__ GemmSm90Params p) {                \
        SD_DYNAMIC_SHARED(gemm_sm90::Shared, shared);                                                                    \
        gemm_sm90::run<gemm_sm90::Product>(p, *shared);                                                                  \
    }                                                                                                                    \
    SD_KERNEL_ONLY(name, GemmSm90Params, 90)

SD_GEMM_SM90(sd_gemm_sm90_bf16, Bf16Product)
SD_GEMM_SM90(sd_gemm_sm90_int8, Int8Product)
SD_GEMM_SM90(sd_gemm_sm90_e4m3, E4m3Product)
#endif

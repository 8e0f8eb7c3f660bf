// What the instructions of kernels/cuda/hopper.cuh do. Products run when they are waited for, with what shared memory holds then, and TMA copies
// as late as they can, so that a missing wait shows.
#pragma once
#include <initializer_list>

#include "fibers.h"
#include "instructions.h"
#include "numbers.h"

struct TensorMap;

namespace emulated {

// ---- mbarrier: [ phase 1 | count 15 | arrivals still missing 15 | bytes still missing 32 ] -------------------------------------

struct MBarrier {
    uint64_t phase : 1, ready : 1, count : 15, missing : 15;
    int64_t bytes : 32;
};
static_assert(sizeof(MBarrier) == 8);

void mbarrier_init(uint64_t *barrier, int count);
void mbarrier_arrive(uint64_t *barrier, int bytes);
void mbarrier_wait(uint64_t *barrier, int parity);

// ---- TMA ------------------------------------------------------------------------------------------------------------------

void tma_load(void *target, const TensorMap &map, uint64_t *barrier, std::initializer_list<int> at);

// ---- wgmma -----------------------------------------------------------------------------------------------------------------

// A matrix operand: where element (row of M or N, byte along K) lies.
struct Matrix {
    uint32_t start, leading, stride;

    explicit Matrix(uint64_t descriptor);
    // For one byte, K-major or MN-major (elements of two bytes, `k` counts elements).
    const void *k_major(int row, int byte) const;
    const void *mn_major(int row, int k) const;
};

struct Wgmma {
    void *d;
    uint64_t a, b;
    uint32_t registers[4];
    bool add, a_in_registers;
    void (*work)(void **);
};

// What a thread has issued.
void wgmma_issue(const Wgmma &one);
void wgmma_commit();
void wgmma_wait(int in_flight);

template <typename Format> typename Format::Sum element(const Matrix &matrix, bool mn_major, int row, int k) {
    constexpr int BYTES = 4 / Format::IN_REGISTER;
    const void *p = mn_major ? matrix.mn_major(row, k) : matrix.k_major(row, k * BYTES);
    uint16_t bits = 0;
    memcpy(&bits, p, BYTES);
    return Format::at(bits, 0);
}

template <typename Format, int N, bool B_MN_MAJOR> void wgmma_work(void **all) {
    using Sum = typename Format::Sum;
    constexpr int IN_REGISTER = Format::IN_REGISTER, K = 8 * IN_REGISTER;
    static Sum a[64][K], b[N][K];
    auto *first = static_cast<Wgmma *>(all[0]);
    for (int i = 0; i < 128; i++) {
        auto *one = static_cast<Wgmma *>(all[i]);
        if (one->b != first->b || one->add != first->add || (!one->a_in_registers && one->a != first->a)) {
            fail("wgmma with other matrices in thread %d of the warpgroup than in thread 0", i);
        }
    }
    Matrix b_matrix(first->b);
    for (int n = 0; n < N; n++) {
        for (int k = 0; k < K; k++) {
            b[n][k] = element<Format>(b_matrix, B_MN_MAJOR, n, k);
        }
    }
    if (first->a_in_registers) {
        for (int i = 0; i < 128; i++) {
            auto *one = static_cast<Wgmma *>(all[i]);
            int row = i / 32 * 16 + i % 32 / 4, k = i % 4 * IN_REGISTER;
            for (int r = 0; r < 4; r++) {
                for (int e = 0; e < IN_REGISTER; e++) {
                    a[row + r % 2 * 8][k + r / 2 * (K / 2) + e] = Format::at(one->registers[r], e);
                }
            }
        }
    } else {
        Matrix a_matrix(first->a);
        for (int m = 0; m < 64; m++) {
            for (int k = 0; k < K; k++) {
                a[m][k] = element<Format>(a_matrix, false, m, k);
            }
        }
    }
    for (int i = 0; i < 128; i++) {
        auto *one = static_cast<Wgmma *>(all[i]);
        auto *d = static_cast<Sum *>(one->d);
        for (int j = 0; j < N / 2; j++) {
            int row = i / 32 * 16 + i % 32 / 4 + j % 4 / 2 * 8, column = j / 4 * 8 + i % 4 * 2 + j % 2;
            Sum sum = 0;
            for (int k = 0; k < K; k++) {
                sum += a[row][k] * b[column][k];
            }
            d[j] = one->add ? d[j] + sum : sum;
        }
    }
}

template <typename Format, int N, bool B_MN_MAJOR> void wgmma(typename Format::Sum (&d)[N / 2], uint64_t a, uint64_t b, bool add) {
    wgmma_issue({d, a, b, {}, add, false, wgmma_work<Format, N, B_MN_MAJOR>});
}
template <typename Format, int N, bool B_MN_MAJOR> void wgmma(typename Format::Sum (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool add) {
    wgmma_issue({d, 0, b, {a[0], a[1], a[2], a[3]}, add, true, wgmma_work<Format, N, B_MN_MAJOR>});
}

} // namespace emulated

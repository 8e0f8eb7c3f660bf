// What the PTX instructions of kernels/cuda/ptx.cuh do, with the fragment layouts of the PTX ISA ("Warp-level matrix instructions").
#pragma once
#include "fibers.h"
#include "numbers.h"

namespace emulated {

// ---- ldmatrix: 8x8 matrices of 16-bit elements; lane 8i+r brings the address of row r of matrix i. ------------------

// Rows that ldmatrix read from banks that another row of the same matrix had taken; each costs a turn.
inline size_t bank_conflicts = 0;

struct LdMatrix {
    const void *row;
    uint32_t *out;
};

template <int COUNT, bool TRANSPOSED> void ldmatrix_work(void **all) {
    for (int m = 0; m < COUNT; m++) {
        uint16_t rows[8][8];
        unsigned banks = 0;
        for (int r = 0; r < 8; r++) {
            const void *row = static_cast<LdMatrix *>(all[8 * m + r])->row;
            unsigned bank = 1u << (shared_offset(row, 16) / 16 % 8);
            bank_conflicts += banks & bank ? 1 : 0;
            banks |= bank;
            if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
                fail("ldmatrix of row %d of matrix %d, which is not aligned to 16 bytes", r, m);
            }
            memcpy(rows[r], row, 16);
        }
        for (int lane = 0; lane < 32; lane++) {
            int i = lane / 4, j = lane % 4 * 2;
            uint32_t low = TRANSPOSED ? rows[j][i] : rows[i][j];
            uint32_t high = TRANSPOSED ? rows[j + 1][i] : rows[i][j + 1];
            static_cast<LdMatrix *>(all[lane])->out[m] = low | high << 16;
        }
    }
}

template <int COUNT, bool TRANSPOSED> void ldmatrix(uint32_t (&out)[COUNT], const void *row) {
    LdMatrix mine = {row, out};
    meet(~0u, "ldmatrix", &mine, ldmatrix_work<COUNT, TRANSPOSED>);
}

// ---- stmatrix: the reverse of ldmatrix. ---------------------------------------------------------------------------

struct StMatrix {
    void *row;
    const uint32_t *in;
};

template <int COUNT, bool TRANSPOSED> void stmatrix_work(void **all) {
    for (int m = 0; m < COUNT; m++) {
        uint16_t rows[8][8];
        for (int lane = 0; lane < 32; lane++) {
            int i = lane / 4, j = lane % 4 * 2;
            uint32_t pair = static_cast<StMatrix *>(all[lane])->in[m];
            (TRANSPOSED ? rows[j][i] : rows[i][j]) = uint16_t(pair);
            (TRANSPOSED ? rows[j + 1][i] : rows[i][j + 1]) = uint16_t(pair >> 16);
        }
        for (int r = 0; r < 8; r++) {
            void *row = static_cast<StMatrix *>(all[8 * m + r])->row;
            shared_offset(row, 16);
            if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
                fail("stmatrix of row %d of matrix %d, which is not aligned to 16 bytes", r, m);
            }
            memcpy(row, rows[r], 16);
        }
    }
}

template <int COUNT, bool TRANSPOSED> void stmatrix(void *row, const uint32_t (&in)[COUNT]) {
    StMatrix mine = {row, in};
    meet(~0u, "stmatrix", &mine, stmatrix_work<COUNT, TRANSPOSED>);
}

// ---- mma.sync m16n8k(256 bits): D[16,8] += A[16,K]·B[K,8]. ---------------------------------------------------------

// Formats of A and B: how 32 bits of a register are read, and what products are summed in.
struct Bf16 {
    using Sum = float;
    static constexpr int IN_REGISTER = 2;
    static float at(uint32_t bits, int i) { return of_bf16(bits >> (16 * i)); }
};
struct F16 {
    using Sum = float;
    static constexpr int IN_REGISTER = 2;
    static float at(uint32_t bits, int i) { return of_f16(bits >> (16 * i)); }
};
struct S8 {
    using Sum = int;
    static constexpr int IN_REGISTER = 4;
    static int at(uint32_t bits, int i) { return int8_t(bits >> (8 * i)); }
};
struct E4m3 {
    using Sum = float;
    static constexpr int IN_REGISTER = 4;
    static float at(uint32_t bits, int i) { return of_e4m3(bits >> (8 * i)); }
};

template <typename Sum> struct Mma {
    Sum *d;
    const uint32_t *a, *b;
};

template <typename Format> void mma_work(void **all) {
    using Sum = typename Format::Sum;
    constexpr int N = Format::IN_REGISTER, K = 8 * N;
    Sum a[16][K], b[8][K];
    for (int lane = 0; lane < 32; lane++) {
        auto *one = static_cast<Mma<Sum> *>(all[lane]);
        int group = lane / 4, first = lane % 4 * N;
        for (int i = 0; i < N; i++) {
            for (int r = 0; r < 4; r++) {
                a[group + r % 2 * 8][first + r / 2 * (K / 2) + i] = Format::at(one->a[r], i);
            }
            for (int r = 0; r < 2; r++) {
                b[group][first + r * (K / 2) + i] = Format::at(one->b[r], i);
            }
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        Sum *d = static_cast<Mma<Sum> *>(all[lane])->d;
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            Sum sum = 0;
            for (int k = 0; k < K; k++) {
                sum += a[row][k] * b[column][k];
            }
            d[i] += sum;
        }
    }
}

template <typename Format> void mma(typename Format::Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    Mma<typename Format::Sum> mine = {d, a, b};
    meet(~0u, "mma.sync", &mine, mma_work<Format>);
}

} // namespace emulated

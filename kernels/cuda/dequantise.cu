// Stored matrices to bf16, all encodings of kernels::quant: a few rows at a time into memory that is used again, which then is
// multiplied with. With thousands of inputs that costs a percent of the product, and the product is the fast one.
//
// grid (ceil(rows · columns / 8 / 256)), block 256, no dynamic shared memory. A thread has eight numbers of a row.
#include "common.cuh"

struct DequantiseParams {
    const uint8_t *w;   // [rows, row_bytes], as files store it
    Bf16 *y;            // [rows, columns]; multiple of 16 bytes, as are its rows
    const float *scale; // of each row [rows], or of each block of block_side x block_side numbers [.., blocks]; or null: 1
    int64_t row_bytes;
    int64_t y_stride; // numbers from row to row
    int rows;
    int columns;    // multiple of 8
    int first_row;  // row of the matrix that w and y begin with, for scales of blocks; scales of rows begin with it too
    int block_side; // 0: scales of rows
    float factor;   // scale of the whole matrix, 1 for none
};

namespace {

constexpr int THREADS = 256;

__device__ __forceinline__ float f16_at(const uint8_t *p) { return __half2float(__ushort_as_half(static_cast<unsigned short>(p[0] | p[1] << 8))); }
__device__ __forceinline__ float s8(uint8_t byte) { return float(static_cast<signed char>(byte)); }

// Blocks of 32: number i is a nibble of byte i mod 16, the low one of the first sixteen.
__device__ __forceinline__ int nibble(const uint8_t *p, int i) { return p[i % 16] >> (4 * (i / 16)) & 15; }
__device__ __forceinline__ int fifth_bit(const uint8_t *p, int i) { return (p[i / 8] >> (i % 8) & 1) << 4; }
// 32 bytes hold 128 numbers of 2 bits, a quarter of them at each pair of bits.
__device__ __forceinline__ int two_bits(const uint8_t *p, int i) { return p[32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4)) & 3; }

// Scale and minimum j of 8 in Q4_K and Q5_K: six bits of the first four, whose upper two bits are those of the last four.
__device__ __forceinline__ int2 scale_and_minimum(const uint8_t *p, int j) {
    if (j < 4) {
        return make_int2(p[j] & 63, p[4 + j] & 63);
    }
    return make_int2((p[4 + j] & 15) | (p[j - 4] >> 6) << 4, p[4 + j] >> 4 | (p[j] >> 6) << 4);
}

// The sixteen levels of IQ4_NL and IQ4_XS, four in a word.
__device__ __forceinline__ float level(int i) {
    const uint32_t words[4] = {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u};
    uint32_t word = i < 8 ? (i < 4 ? words[0] : words[1]) : (i < 12 ? words[2] : words[3]);
    return s8(static_cast<uint8_t>(word >> (8 * (i & 3))));
}

// An encoding: NUMBERS in BYTES, and number i of a block. Layouts are those that ggml documents.
struct F32 {
    static constexpr int NUMBERS = 1, BYTES = 4;
    static __device__ __forceinline__ float number(const uint8_t *b, int) { return __uint_as_float(b[0] | b[1] << 8 | b[2] << 16 | uint32_t(b[3]) << 24); }
};
struct F16 {
    static constexpr int NUMBERS = 1, BYTES = 2;
    static __device__ __forceinline__ float number(const uint8_t *b, int) { return f16_at(b); }
};
struct F8E4m3 {
    static constexpr int NUMBERS = 1, BYTES = 1;
    // Exponent and mantissa in a float's place are the number by 2^120, subnormal ones too.
    static __device__ __forceinline__ float number(const uint8_t *b, int) {
        uint32_t bits = *b & 0x7fu;
        float size = bits == 0x7fu ? __uint_as_float(0x7fffffffu) : __uint_as_float(bits << 20) * __uint_as_float(0x7b800000u);
        return *b & 0x80 ? -size : size;
    }
};
struct F8E5m2 {
    static constexpr int NUMBERS = 1, BYTES = 1;
    static __device__ __forceinline__ float number(const uint8_t *b, int) { return __half2float(__ushort_as_half(static_cast<unsigned short>(*b << 8))); }
};
struct I8 {
    static constexpr int NUMBERS = 1, BYTES = 1;
    static __device__ __forceinline__ float number(const uint8_t *b, int) { return s8(*b); }
};
struct Q8_0 {
    static constexpr int NUMBERS = 32, BYTES = 34;
    static __device__ __forceinline__ float number(const uint8_t *b, int i) { return s8(b[2 + i]) * f16_at(b); }
};
struct Q4_0 {
    static constexpr int NUMBERS = 32, BYTES = 18;
    static __device__ __forceinline__ float number(const uint8_t *b, int i) { return f16_at(b) * float(nibble(b + 2, i) - 8); }
};
struct Q4_1 {
    static constexpr int NUMBERS = 32, BYTES = 20;
    static __device__ __forceinline__ float number(const uint8_t *b, int i) { return f16_at(b) * float(nibble(b + 4, i)) + f16_at(b + 2); }
};
struct Q5_0 {
    static constexpr int NUMBERS = 32, BYTES = 22;
    static __device__ __forceinline__ float number(const uint8_t *b, int i) { return f16_at(b) * float((nibble(b + 6, i) | fifth_bit(b + 2, i)) - 16); }
};
struct Q5_1 {
    static constexpr int NUMBERS = 32, BYTES = 24;
    static __device__ __forceinline__ float number(const uint8_t *b, int i) { return f16_at(b) * float(nibble(b + 8, i) | fifth_bit(b + 4, i)) + f16_at(b + 2); }
};
struct Q2K {
    static constexpr int NUMBERS = 256, BYTES = 84;
    static __device__ __forceinline__ float number(const uint8_t *b, int i) {
        int group = b[i / 16];
        return f16_at(b + 80) * float(group & 15) * float(two_bits(b + 16, i)) - f16_at(b + 82) * float(group >> 4);
    }
};
struct Q3K {
    static constexpr int NUMBERS = 256, BYTES = 110;
    static __device__ __forceinline__ float number(const uint8_t *b, int i) {
        int third = b[i % 32] >> (i / 32) & 1, j = i / 16;
        int scale = (b[96 + j % 8] >> (4 * (j / 8)) & 15) | (b[104 + j % 4] >> (2 * (j / 4)) & 3) << 4;
        return f16_at(b + 108) * float(scale - 32) * float(two_bits(b + 32, i) - (third ? 0 : 4));
    }
};
struct Q4K {
    static constexpr int NUMBERS = 256, BYTES = 144;
    static __device__ __forceinline__ float number(const uint8_t *b, int i) {
        int2 group = scale_and_minimum(b + 4, i / 32);
        int q = b[16 + 32 * (i / 64) + i % 32] >> (4 * (i / 32 % 2)) & 15;
        return f16_at(b) * float(group.x) * float(q) - f16_at(b + 2) * float(group.y);
    }
};
struct Q5K {
    static constexpr int NUMBERS = 256, BYTES = 176;
    static __device__ __forceinline__ float number(const uint8_t *b, int i) {
        int2 group = scale_and_minimum(b + 4, i / 32);
        int q = (b[48 + 32 * (i / 64) + i % 32] >> (4 * (i / 32 % 2)) & 15) | (b[16 + i % 32] >> (i / 32) & 1) << 4;
        return f16_at(b) * float(group.x) * float(q) - f16_at(b + 2) * float(group.y);
    }
};
struct Q6K {
    static constexpr int NUMBERS = 256, BYTES = 210;
    static __device__ __forceinline__ float number(const uint8_t *b, int i) {
        int low = b[64 * (i / 128) + i % 64] >> (4 * (i / 64 % 2)) & 15;
        return f16_at(b + 208) * s8(b[192 + i / 16]) * float((low | two_bits(b + 128, i) << 4) - 32);
    }
};
struct Iq4Nl {
    static constexpr int NUMBERS = 32, BYTES = 18;
    static __device__ __forceinline__ float number(const uint8_t *b, int i) { return f16_at(b) * level(nibble(b + 2, i)); }
};
struct Iq4Xs {
    static constexpr int NUMBERS = 256, BYTES = 136;
    static __device__ __forceinline__ float number(const uint8_t *b, int i) {
        int group = i / 32, high = (b[2] | b[3] << 8) >> (2 * group) & 3, low = b[4 + group / 2] >> (4 * (group % 2)) & 15;
        return f16_at(b) * float((low | high << 4) - 32) * level(b[8 + 16 * group + i % 16] >> (4 * (i / 16 % 2)) & 15);
    }
};

template <class Encoding> __device__ __forceinline__ void dequantise(const DequantiseParams &p) {
    const uint32_t chunks = p.columns / 8, index = blockIdx.x * THREADS + threadIdx.x;
    const int row = index / chunks, column = index % chunks * 8;
    if (row >= p.rows) {
        return;
    }
    const uint8_t *from = p.w + row * p.row_bytes;
    float v[8];
#pragma unroll
    for (int e = 0; e < 8; e++) {
        // Eight numbers never straddle two blocks of more.
        const int block = Encoding::NUMBERS == 1 ? column + e : column / Encoding::NUMBERS;
        v[e] = Encoding::number(from + block * Encoding::BYTES, Encoding::NUMBERS == 1 ? 0 : column % Encoding::NUMBERS + e) * p.factor;
    }
    if (p.scale && p.block_side == 0) {
        const float scale = p.scale[row];
#pragma unroll
        for (int e = 0; e < 8; e++) {
            v[e] *= scale;
        }
    } else if (p.scale) {
        const int64_t blocks = (p.columns + p.block_side - 1) / p.block_side;
        const float *scale = p.scale + (p.first_row + row) / p.block_side * blocks;
#pragma unroll
        for (int e = 0; e < 8; e++) {
            v[e] *= scale[(column + e) / p.block_side];
        }
    }
    store8(p.y + row * p.y_stride + column, v);
}

} // namespace

#define SD_DEQUANTISE(name, Encoding)                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS) name(const __grid_constant__ DequantiseParams p) { dequantise<Encoding>(p); } \
    SD_KERNEL(name, DequantiseParams)

SD_DEQUANTISE(sd_dequantise_f32, F32)
SD_DEQUANTISE(sd_dequantise_f16, F16)
SD_DEQUANTISE(sd_dequantise_f8_e4m3, F8E4m3)
SD_DEQUANTISE(sd_dequantise_f8_e5m2, F8E5m2)
SD_DEQUANTISE(sd_dequantise_i8, I8)
SD_DEQUANTISE(sd_dequantise_q8_0, Q8_0)
SD_DEQUANTISE(sd_dequantise_q4_0, Q4_0)
SD_DEQUANTISE(sd_dequantise_q4_1, Q4_1)
SD_DEQUANTISE(sd_dequantise_q5_0, Q5_0)
SD_DEQUANTISE(sd_dequantise_q5_1, Q5_1)
SD_DEQUANTISE(sd_dequantise_q2_k, Q2K)
SD_DEQUANTISE(sd_dequantise_q3_k, Q3K)
SD_DEQUANTISE(sd_dequantise_q4_k, Q4K)
SD_DEQUANTISE(sd_dequantise_q5_k, Q5K)
SD_DEQUANTISE(sd_dequantise_q6_k, Q6K)
SD_DEQUANTISE(sd_dequantise_iq4_nl, Iq4Nl)
SD_DEQUANTISE(sd_dequantise_iq4_xs, Iq4Xs)

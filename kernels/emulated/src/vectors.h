// CUDA's vector types, with CUDA's alignments.
#pragma once

#define EMULATED_VECTORS(NAME, T)                                                                                        \
    struct alignas(sizeof(T) * 2) NAME##2 {                                                                              \
        T x, y;                                                                                                          \
    };                                                                                                                   \
    struct alignas(sizeof(T) * 4) NAME##4 {                                                                              \
        T x, y, z, w;                                                                                                    \
    };                                                                                                                   \
    inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                                                           \
    inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }

EMULATED_VECTORS(char, signed char)
EMULATED_VECTORS(uchar, unsigned char)
EMULATED_VECTORS(short, short)
EMULATED_VECTORS(ushort, unsigned short)
EMULATED_VECTORS(int, int)
EMULATED_VECTORS(uint, unsigned)
EMULATED_VECTORS(float, float)
#undef EMULATED_VECTORS

struct float3 {
    float x, y, z;
};
struct int3 {
    int x, y, z;
};
struct alignas(16) longlong2 {
    long long x, y;
};
struct alignas(16) ulonglong2 {
    unsigned long long x, y;
};
struct alignas(16) double2 {
    double x, y;
};

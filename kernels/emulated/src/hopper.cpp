#include "hopper.h"

#include <cstring>
#include <deque>
#include <vector>

#include "emulate.h"

namespace emulated {
namespace {

// ---- mbarrier -------------------------------------------------------------------------------------------------------------

MBarrier &barrier_at(uint64_t *barrier) {
    shared_offset(barrier, 8);
    auto &it = *reinterpret_cast<MBarrier *>(barrier);
    if (!it.ready || it.count == 0 || it.missing > it.count) {
        fail("an mbarrier that was not initialised");
    }
    return it;
}

void check(MBarrier &it) {
    if (it.missing == 0 && it.bytes == 0) {
        it.phase ^= 1;
        it.missing = it.count;
        changed();
    }
}

struct Wait {
    uint64_t *barrier;
    unsigned parity;
};

} // namespace

void mbarrier_init(uint64_t *barrier, int count) {
    shared_offset(barrier, 8);
    if (count < 1 || count >= 1 << 15 || reinterpret_cast<uintptr_t>(barrier) % 8 != 0) {
        fail("mbarrier.init at %p for %d arrivals", static_cast<void *>(barrier), count);
    }
    MBarrier it = {0, 1, uint64_t(count), uint64_t(count), 0};
    memcpy(barrier, &it, 8);
}

void mbarrier_arrive(uint64_t *barrier, int bytes) {
    MBarrier &it = barrier_at(barrier);
    if (it.missing == 0) {
        fail("more arrivals at an mbarrier than its %d", int(it.count));
    }
    it.bytes += bytes;
    it.missing--;
    check(it);
}

void mbarrier_wait(uint64_t *barrier, int parity) {
    barrier_at(barrier);
    Wait wait = {barrier, unsigned(parity)};
    wait_until([](void *state) {
        auto *wait = static_cast<Wait *>(state);
        return reinterpret_cast<MBarrier *>(wait->barrier)->phase != wait->parity;
    }, &wait, "an mbarrier");
}

// ---- TMA ------------------------------------------------------------------------------------------------------------------

namespace {

constexpr uint32_t MAP_MARK = 0x3a9d51c7;
constexpr int MAX_RANK = 5;

// This emulator's contents of a CUtensorMap.
struct Map {
    uint32_t mark;
    uint8_t rank, element_bytes, swizzle, unused;
    const char *data;
    uint64_t strides[MAX_RANK - 1]; // bytes
    uint32_t dims[MAX_RANK];
    uint16_t box[MAX_RANK];
};
static_assert(sizeof(Map) <= 128);

struct Load {
    char *target;
    uint64_t *barrier;
    Map map;
    int at[MAX_RANK];
};

int box_bytes(const Map &map) {
    int bytes = map.element_bytes;
    for (int i = 0; i < map.rank; i++) {
        bytes *= map.box[i];
    }
    return bytes;
}

void do_load(const void *state) {
    auto &load = *static_cast<const Load *>(state);
    const Map &map = load.map;
    int row_bytes = map.box[0] * map.element_bytes, rows = box_bytes(map) / row_bytes;
    for (int row = 0; row < rows; row++) {
        const char *from = map.data;
        bool inside = true;
        for (int i = 1, rest = row; i < map.rank; rest /= map.box[i], i++) {
            int64_t x = load.at[i] + rest % map.box[i];
            inside = inside && x >= 0 && x < map.dims[i];
            from += x * int64_t(map.strides[i - 1]);
        }
        for (int i = 0; i < map.box[0]; i++) {
            int64_t x = load.at[0] + i;
            uint32_t offset = shared_offset(load.target, box_bytes(map)) + row * row_bytes + i * map.element_bytes;
            if (map.swizzle) {
                offset ^= (offset >> 7 & 7) << 4;
            }
            void *to = shared_pointer(offset, map.element_bytes);
            if (inside && x >= 0 && x < map.dims[0]) {
                memcpy(to, from + x * map.element_bytes, map.element_bytes);
            } else {
                memset(to, 0, map.element_bytes);
            }
        }
    }
    MBarrier &it = barrier_at(load.barrier);
    it.bytes -= box_bytes(map);
    check(it);
}

} // namespace

void tma_load(void *target, const TensorMap &map, uint64_t *barrier, std::initializer_list<int> at) {
    int rank = int(at.size());
    Load load = {static_cast<char *>(target), barrier, {}, {}};
    memcpy(&load.map, &map, sizeof(Map));
    if (load.map.mark != MAP_MARK || reinterpret_cast<uintptr_t>(&map) % 64 != 0 || load.map.rank != rank) {
        fail("TMA with a map of %d dimensions at %p; %d and a multiple of 64 are expected", load.map.mark == MAP_MARK ? load.map.rank : -1, static_cast<const void *>(&map), rank);
    }
    std::copy(at.begin(), at.end(), load.at);
    barrier_at(barrier);
    uint32_t offset = shared_offset(target, box_bytes(load.map));
    if (offset % (load.map.swizzle ? 1024 : 128) != 0) {
        fail("TMA to %u in shared memory, which is not aligned", offset);
    }
    for (int i = 0; i < box_bytes(load.map); i++) {
        load.target[i] = char(0xFF);
    }
    later(do_load, &load, sizeof load);
}

// ---- wgmma ----------------------------------------------------------------------------------------------------------------

Matrix::Matrix(uint64_t descriptor)
    : start((descriptor & 0x3fff) << 4), leading((descriptor >> 16 & 0x3fff) << 4), stride((descriptor >> 32 & 0x3fff) << 4) {
    if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0 || (start >> 7 & 7) != 0) {
        fail("wgmma with matrix %016lx: only the 128-byte swizzle at multiples of 1024 bytes is emulated", static_cast<unsigned long>(descriptor));
    }
}

const void *Matrix::k_major(int row, int byte) const {
    uint32_t at = start + row / 8 * stride + row % 8 * 128 + byte;
    return shared_pointer(at ^ (at >> 7 & 7) << 4, 1);
}

const void *Matrix::mn_major(int row, int k) const {
    uint32_t at = start + row / 64 * leading + k / 8 * stride + k % 8 * 128 + row % 64 * 2;
    return shared_pointer(at ^ (at >> 7 & 7) << 4, 2);
}

namespace {

struct Issued {
    uint3 block = {};
    std::vector<Wgmma> open;
    std::deque<std::vector<Wgmma>> groups;
};

Issued &issued() {
    static std::vector<Issued> threads(1024);
    Issued &mine = threads[threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)];
    if (mine.block.x != blockIdx.x || mine.block.y != blockIdx.y || mine.block.z != blockIdx.z) {
        mine = {blockIdx, {}, {}}; // those of an earlier block were not waited for
    }
    return mine;
}

} // namespace

void wgmma_issue(const Wgmma &one) { issued().open.push_back(one); }

void wgmma_commit() {
    Issued &mine = issued();
    mine.groups.push_back(std::move(mine.open));
    mine.open.clear();
}

void wgmma_wait(int in_flight) {
    while (int(issued().groups.size()) > in_flight) {
        std::vector<Wgmma> group = std::move(issued().groups.front());
        issued().groups.pop_front();
        for (Wgmma &one : group) {
            meet(~0u, "wgmma", &one, one.work, 128);
        }
    }
}

} // namespace emulated

// ---- The driver's function ---------------------------------------------------------------------------------------------------

// Signature and constraints as cuda.h documents them; only what the kernels use: bytes, 16-bit and 32-bit elements, no swizzle or 128 bytes of it.
extern "C" __attribute__((visibility("default"))) int cuTensorMapEncodeTiled(TensorMap *out, int type, uint32_t rank, void *data, const uint64_t *dims, const uint64_t *strides,
                                                                              const uint32_t *box, const uint32_t *steps, int interleave, int swizzle, int, int fill) {
    constexpr int INVALID_VALUE = 1;
    static const int bytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2};
    if (type < 0 || type > 9 || rank < 1 || rank > emulated::MAX_RANK || interleave != 0 || (swizzle != 0 && swizzle != 3) || fill != 0) {
        return INVALID_VALUE;
    }
    emulated::Map map = {emulated::MAP_MARK, uint8_t(rank), uint8_t(bytes[type]), uint8_t(swizzle), 0, static_cast<const char *>(data), {}, {}, {}};
    bool fits = reinterpret_cast<uintptr_t>(data) % 16 == 0 && reinterpret_cast<uintptr_t>(out) % 64 == 0;
    for (uint32_t i = 0; i < rank; i++) {
        fits = fits && dims[i] >= 1 && dims[i] <= uint64_t(1) << 32 && box[i] >= 1 && box[i] <= 256 && steps[i] == 1;
        map.dims[i] = uint32_t(dims[i]);
        map.box[i] = uint16_t(box[i]);
        if (i > 0) {
            fits = fits && strides[i - 1] % 16 == 0 && strides[i - 1] < uint64_t(1) << 40;
            map.strides[i - 1] = strides[i - 1];
        }
    }
    uint32_t row = box[0] * bytes[type];
    if (!fits || row % 16 != 0 || (swizzle == 3 && row > 128)) {
        return INVALID_VALUE;
    }
    memset(static_cast<void *>(out), 0, 128);
    memcpy(static_cast<void *>(out), &map, sizeof map);
    return 0;
}

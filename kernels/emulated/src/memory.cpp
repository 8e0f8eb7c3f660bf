#include "memory.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include <sys/mman.h>
#include <unistd.h>

namespace emulated {
namespace {

constexpr size_t ALIGNMENT = 512; // as on the devices
constexpr size_t GUARD_BYTES = 1 << 20; // unmapped, on either side of a block
constexpr unsigned char POISON = 0xFF;
constexpr size_t POISONED_AT_MOST = 64 << 20; // of a large block the rest stays untouched, and takes no memory

struct Allocation {
    size_t bytes;
    Place place;
    char *mapping;
    size_t mapped_bytes;
};

std::map<uintptr_t, Allocation> &allocations() {
    static std::map<uintptr_t, Allocation> all;
    return all;
}

size_t used[2] = {};
size_t set_total = 0;
bool poisoned = true;

size_t rounded(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

} // namespace

size_t total_bytes() {
    const char *text = getenv("SD_EMULATED_MEMORY");
    size_t bytes = set_total ? set_total : text ? strtoull(text, nullptr, 10) : 0;
    return bytes ? bytes : size_t(4) << 30;
}

void set_total_bytes(size_t bytes) { set_total = bytes; }

size_t used_bytes(Place place) { return used[int(place)]; }

void set_poisoned(bool on) { poisoned = on; }

void *allocate(size_t bytes, Place place) {
    size_t page = sysconf(_SC_PAGESIZE);
    size_t padded = rounded(bytes, ALIGNMENT);
    if (bytes == 0 || padded < bytes || (place == Place::DEVICE && used_bytes(place) + padded > total_bytes())) {
        return nullptr;
    }
    size_t pages = rounded(padded, page);
    void *mapping = mmap(nullptr, pages + 2 * GUARD_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) {
        return nullptr;
    }
    char *inside = static_cast<char *>(mapping) + GUARD_BYTES;
    mprotect(inside, pages, PROT_READ | PROT_WRITE);
    char *pointer = inside + pages - padded;
    memset(inside, POISON, pointer - inside);
    if (poisoned) {
        memset(pointer, POISON, bytes < POISONED_AT_MOST ? bytes : POISONED_AT_MOST);
    }
    memset(pointer + bytes, POISON, padded - bytes);
    allocations()[reinterpret_cast<uintptr_t>(pointer)] = {bytes, place, static_cast<char *>(mapping), pages + 2 * GUARD_BYTES};
    used[int(place)] += padded;
    return pointer;
}

bool release(void *pointer, Place place) {
    auto found = allocations().find(reinterpret_cast<uintptr_t>(pointer));
    if (found == allocations().end() || found->second.place != place) {
        return false;
    }
    used[int(place)] -= rounded(found->second.bytes, ALIGNMENT);
    munmap(found->second.mapping, found->second.mapped_bytes);
    allocations().erase(found);
    return true;
}

bool is_within(const void *pointer, size_t bytes, Place place) {
    auto at = reinterpret_cast<uintptr_t>(pointer);
    auto after = allocations().upper_bound(at);
    if (after == allocations().begin()) {
        return false;
    }
    const auto &[start, block] = *--after;
    return block.place == place && at - start <= block.bytes && bytes <= block.bytes - (at - start);
}

const char *damage() {
    static char message[200];
    for (const auto &[start, block] : allocations()) {
        auto *pointer = reinterpret_cast<unsigned char *>(start);
        for (auto *p = reinterpret_cast<unsigned char *>(block.mapping) + GUARD_BYTES; p < pointer; p++) {
            if (*p != POISON) {
                snprintf(message, sizeof message, "%zd bytes before a block of %zu bytes were written", pointer - p, block.bytes);
                return message;
            }
        }
        for (size_t i = block.bytes; i < rounded(block.bytes, ALIGNMENT); i++) {
            if (pointer[i] != POISON) {
                snprintf(message, sizeof message, "byte %zu of a block of %zu bytes was written", i, block.bytes);
                return message;
            }
        }
    }
    return nullptr;
}

} // namespace emulated

// Device and pinned host memory of the fake driver. Every block ends where unmapped pages begin, is poisoned with NaN patterns when
// it is handed out, and its padding is checked: what a kernel reads or writes outside of it shows.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulated {

enum class Place { DEVICE, HOST };

// nullptr where memory is short.
void *allocate(size_t bytes, Place place);
// False where there is no such block.
bool release(void *pointer, Place place);
// Whether these bytes lie in one live block.
bool is_within(const void *pointer, size_t bytes, Place place);

// Pretended device memory: what was set, else SD_EMULATED_MEMORY in bytes, else 4 GiB.
size_t total_bytes();
void set_total_bytes(size_t bytes);
size_t used_bytes(Place place);
// Whether new blocks are poisoned, which they are unless told otherwise, or zeros.
void set_poisoned(bool poisoned);

// A message where padding of a block has been written, else nullptr.
const char *damage();

} // namespace emulated

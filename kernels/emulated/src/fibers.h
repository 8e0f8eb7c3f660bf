// Blocks of CUDA threads on one host thread: every CUDA thread is a fiber that runs until it has to wait for others.
//
// Everything here runs under the fake driver's lock, on one host thread at a time, hence the plain globals.
#pragma once
#include <cstddef>
#include <cstdint>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

// Those of the running fiber, as in CUDA.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

namespace emulated {

// ---- Kernels ----------------------------------------------------------------------------------------------------

struct Kernel {
    const char *name;
    size_t params_bytes;
    void (*call)(const void *params);
    int capability; // least compute capability times ten
    bool only;      // no later one either
};

// Enters a kernel in the list that modules look into; SD_KERNEL makes one for each.
struct Registration {
    explicit Registration(const Kernel &kernel);
};

const Kernel *find_kernel(const char *name);

// Runs all blocks. Returns nullptr, or what went wrong in one line, which lives until the next launch.
const char *launch(const Kernel &kernel, dim3 grid, dim3 block, size_t dynamic_bytes, const void *params);

// Static shared memory that the last block of this launch used.
size_t static_shared_bytes();

// ---- The running block ------------------------------------------------------------------------------------------

// Ends the launch with this message (printf's format).
[[noreturn, gnu::format(printf, 1, 2)]] void fail(const char *format, ...);

int lane();

// Waits until all lanes in `mask` have come with the same `operation`; the last one to come calls `work` with what each lane
// brought (nullptr for lanes outside of `mask`), and then all go on. `width` lanes meet: 32 of a warp, or 128 of a
// warpgroup, where `mask` stands for each of its warps.
using Work = void (*)(void **brought);
void meet(uint32_t mask, const char *operation, void *brought, Work work, int width = 32);

// Barrier `id` of 0..16: waits until `threads` threads have come, 0 for all that have not ended; `wait` is false for those that only arrive.
void barrier(int id, unsigned threads, bool wait);

// Blocks until `ready(state)`. Asked again whenever another fiber has changed something and called `changed`.
void wait_until(bool (*ready)(void *state), void *state, const char *what);
void changed();

// Work of the copy engines. It is done as late as it can be: when no fiber can go on.
void later(void (*work)(const void *state), const void *state, size_t state_bytes);

// ---- Shared memory: filled with NaN patterns before each block ---------------------------------------------------

void *dynamic_shared();
void *static_shared(const void *key, size_t bytes, size_t alignment);

// Offset in the 256 KiB window that shared addresses are relative to; fails where the bytes are not shared memory.
uint32_t shared_offset(const void *p, size_t bytes);
void *shared_pointer(uint32_t offset, size_t bytes);

// ---- cp.async of the running thread: the target is poisoned at once and written at the wait ------------------------

void copy_async(void *target, const void *source, int target_bytes, int source_bytes);
void copy_commit();
void copy_wait(int groups_in_flight);

} // namespace emulated

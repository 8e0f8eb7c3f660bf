#include "fibers.h"

#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulated {
namespace {

constexpr size_t STACK_BYTES = 256 << 10;
constexpr int MAX_THREADS = 1024;
constexpr size_t WINDOW_BYTES = 256 << 10;
constexpr int POISON = 0xFF; // NaN in every float format, -1 as an integer

// ---- Context switches ----------------------------------------------------------------------------------------------

#if defined(__x86_64__)
// Callee-saved registers are pushed, the stack pointers are exchanged. No signal mask, hence no system call.
extern "C" void emulated_switch(void **save, void *load);
asm(R"(
.text
.hidden emulated_switch
.globl emulated_switch
.type emulated_switch, @function
emulated_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulated_switch, .-emulated_switch
)");

struct Context {
    void *stack_pointer = nullptr;

    void start(void *stack, size_t bytes, void (*entry)()) {
        auto *top = reinterpret_cast<void **>(static_cast<char *>(stack) + bytes);
        // As after a call: the return address of `entry` (none), below it `entry` itself as the switch's, then six registers.
        *--top = nullptr;
        *--top = reinterpret_cast<void *>(entry);
        for (int i = 0; i < 6; i++) {
            *--top = nullptr;
        }
        stack_pointer = top;
    }
    void go(Context &to) { emulated_switch(&stack_pointer, to.stack_pointer); }
};
#else
struct Context {
    ucontext_t state;

    void start(void *stack, size_t bytes, void (*entry)()) {
        getcontext(&state);
        state.uc_stack.ss_sp = stack;
        state.uc_stack.ss_size = bytes;
        state.uc_link = nullptr;
        makecontext(&state, entry, 0);
    }
    void go(Context &to) { swapcontext(&state, &to.state); }
};
#endif

// ---- A block's state ---------------------------------------------------------------------------------------------------

struct Copy {
    void *target;
    const void *source;
    int target_bytes, source_bytes;
};

struct Fiber {
    Context context;
    uint3 index;
    int linear;
    bool done;
    const char *waits_for; // nullptr while it can run
    std::vector<Copy> open_group;
    std::deque<std::vector<Copy>> groups;
};

// Lanes that have come to one collective.
struct Meeting {
    int first; // thread
    int width;
    uint32_t mask;
    int arrived;
    const char *operation;
    Work work;
    void *brought[128];
    Fiber *who[128];
};

struct Barrier {
    unsigned arrived = 0;
    unsigned threads = 0;
    std::vector<Fiber *> waiting;
};

struct Condition {
    Fiber *fiber;
    bool (*ready)(void *);
    void *state;
};

struct EngineWork {
    void (*work)(const void *);
    std::vector<char> state;
};

struct SharedVariable {
    const void *key;
    void *address;
};

std::vector<Kernel> &kernels() {
    static std::vector<Kernel> list;
    return list;
}

// Only one block exists at a time.
struct Block {
    const Kernel *kernel = nullptr;
    const void *params = nullptr;
    std::vector<Fiber> fibers = std::vector<Fiber>(MAX_THREADS);
    char *stacks = nullptr;
    int threads = 0;
    int alive = 0;
    std::deque<Fiber *> ready;
    Fiber *current = nullptr;
    Context host;
    std::vector<Meeting> meetings;
    Barrier barriers[16];
    std::vector<Condition> conditions;
    std::deque<EngineWork> engine;
    bool failed = false;
    std::string message;
    // [static variables | unmapped | dynamic, which ends with the window | unmapped]
    char *window = nullptr;
    char *dynamic = nullptr;
    size_t dynamic_bytes = 0;
    size_t static_bytes = 0;
    std::vector<SharedVariable> variables;
    uint32_t random = 1;
} block;

constexpr size_t STATIC_LIMIT = 48 << 10;

void *map(size_t bytes) {
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "emulated GPU: no memory for %zu bytes\n", bytes);
        abort();
    }
    return p;
}

void prepare() {
    if (block.stacks) {
        return;
    }
    block.stacks = static_cast<char *>(map(STACK_BYTES * MAX_THREADS));
    for (int i = 0; i < MAX_THREADS; i++) {
        mprotect(block.stacks + i * STACK_BYTES, sysconf(_SC_PAGESIZE), PROT_NONE);
    }
    // Twice the window, so that it can start at a multiple of its size; a part after it that nobody may touch.
    auto raw = reinterpret_cast<uintptr_t>(map(3 * WINDOW_BYTES));
    block.window = reinterpret_cast<char *>((raw + WINDOW_BYTES - 1) / WINDOW_BYTES * WINDOW_BYTES);
    mprotect(block.window + WINDOW_BYTES, sysconf(_SC_PAGESIZE), PROT_NONE);
}

void resume(Fiber *fiber) {
    block.current = fiber;
    threadIdx = fiber->index;
}

// Runs copy engines and asks conditions until a fiber can go on. Null: none ever will.
Fiber *next() {
    while (block.ready.empty()) {
        if (block.engine.empty()) {
            return nullptr;
        }
        EngineWork work = std::move(block.engine.front());
        block.engine.pop_front();
        work.work(work.state.data());
        changed();
    }
    Fiber *fiber = block.ready.front();
    block.ready.pop_front();
    return fiber;
}

std::string stuck() {
    std::string text;
    for (int i = 0; i < block.threads;) {
        const Fiber &fiber = block.fibers[i];
        const char *what = fiber.done ? "has ended" : fiber.waits_for;
        int last = i;
        auto same = [&](const Fiber &other) {
            const char *that = other.done ? "has ended" : other.waits_for;
            return that && what && strcmp(that, what) == 0;
        };
        while (last + 1 < block.threads && same(block.fibers[last + 1])) {
            last++;
        }
        char line[200];
        snprintf(line, sizeof line, "; threads %d..%d: %s", i, last, what ? what : "runs");
        if (text.size() < 600) {
            text += line;
        }
        i = last + 1;
    }
    return text;
}

// Gives the processor to another fiber, or back to the host.
void leave() {
    Fiber *self = block.current;
    Fiber *other = block.failed ? nullptr : next();
    if (!other) {
        if (!block.failed && block.alive > 0) {
            block.failed = true;
            block.message = "deadlock" + stuck();
        }
        block.current = nullptr;
        self->context.go(block.host);
    } else if (other != self) {
        resume(other);
        self->context.go(other->context);
    }
}

void wake(Fiber *fiber) {
    fiber->waits_for = nullptr;
    block.ready.push_back(fiber);
}

void open_barrier(Barrier &barrier) {
    for (Fiber *fiber : barrier.waiting) {
        wake(fiber);
    }
    barrier.waiting.clear();
    barrier.arrived = 0;
    barrier.threads = 0;
}

void check_barrier(Barrier &barrier) {
    unsigned needed = barrier.threads ? barrier.threads : block.alive;
    if (barrier.arrived > 0 && barrier.arrived >= needed) {
        open_barrier(barrier);
    }
}

void entry() {
    block.kernel->call(block.params);
    Fiber *self = block.current;
    self->done = true;
    block.alive--;
    // Threads that have ended count as arrived at barriers of the whole block.
    for (Barrier &barrier : block.barriers) {
        if (barrier.threads == 0) {
            check_barrier(barrier);
        }
    }
    leave();
    abort(); // never resumed
}

// Memory that is not there, a vector access that is not aligned, an index outside of an array: the thread fails, not the process.
class CrashGuard {
    static constexpr size_t BYTES = 64 << 10;
    static constexpr int SIGNALS[3] = {SIGSEGV, SIGBUS, SIGILL};
    struct sigaction before[3];
    stack_t stack_before;

    static void handle(int signal, siginfo_t *info, void *) {
        if (!block.current) {
            ::signal(signal, SIG_DFL); // not a kernel's: comes again, and ends the process
            return;
        }
        if (signal == SIGILL) {
            fail("a vector access that is not aligned, or an index outside of an array");
        }
        fail("an access to address %p, which is outside of the allocations (or the stack is full)", info->si_addr);
    }

  public:
    CrashGuard() {
        static void *stack = map(BYTES);
        stack_t mine = {};
        mine.ss_sp = stack;
        mine.ss_size = BYTES;
        sigaltstack(&mine, &stack_before);
        struct sigaction action = {};
        action.sa_sigaction = handle;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER; // the handler leaves by a context switch
        for (int i = 0; i < 3; i++) {
            sigaction(SIGNALS[i], &action, &before[i]);
        }
    }
    ~CrashGuard() {
        for (int i = 0; i < 3; i++) {
            sigaction(SIGNALS[i], &before[i], nullptr);
        }
        sigaltstack(&stack_before, nullptr);
    }
};

uint32_t random_number() {
    block.random ^= block.random << 13;
    block.random ^= block.random >> 17;
    block.random ^= block.random << 5;
    return block.random;
}

const char *run_block(size_t dynamic_bytes) {
    block.alive = block.threads;
    block.meetings.clear();
    block.conditions.clear();
    block.engine.clear();
    block.ready.clear();
    block.variables.clear();
    for (Barrier &barrier : block.barriers) {
        barrier = Barrier();
    }
    block.static_bytes = 0;
    // The end of dynamic memory is the end of the window, but for what aligns its start to 1024 bytes.
    size_t rounded = (dynamic_bytes + 1023) / 1024 * 1024;
    block.dynamic = block.window + WINDOW_BYTES - rounded;
    block.dynamic_bytes = dynamic_bytes;
    memset(block.dynamic, POISON, rounded);
    memset(block.window, POISON, STATIC_LIMIT);

    // Warps come in a random order, and lanes of a warp up or down.
    int warps = (block.threads + 31) / 32;
    int first = random_number() % warps;
    bool down = random_number() & 1;
    for (int w = 0; w < warps; w++) {
        int base = (first + w) % warps * 32;
        int lanes = block.threads - base < 32 ? block.threads - base : 32;
        for (int l = 0; l < lanes; l++) {
            int i = base + (down ? lanes - 1 - l : l);
            Fiber &fiber = block.fibers[i];
            fiber.linear = i;
            fiber.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
            fiber.done = false;
            fiber.waits_for = nullptr;
            fiber.open_group.clear();
            fiber.groups.clear();
            fiber.context.start(block.stacks + i * STACK_BYTES, STACK_BYTES, entry);
            block.ready.push_back(&fiber);
        }
    }
    Fiber *fiber = next();
    resume(fiber);
    block.host.go(fiber->context);
    if (!block.failed) {
        for (size_t i = dynamic_bytes; i < rounded; i++) {
            if (static_cast<unsigned char>(block.dynamic[i]) != POISON) {
                block.failed = true;
                block.message = "byte " + std::to_string(i) + " of " + std::to_string(dynamic_bytes) + " bytes of dynamic shared memory was written";
                break;
            }
        }
    }
    return block.failed ? block.message.c_str() : nullptr;
}

} // namespace

Registration::Registration(const Kernel &kernel) { kernels().push_back(kernel); }

const Kernel *find_kernel(const char *name) {
    for (const Kernel &kernel : kernels()) {
        if (strcmp(kernel.name, name) == 0) {
            return &kernel;
        }
    }
    return nullptr;
}

size_t static_shared_bytes() { return block.static_bytes; }

const char *launch(const Kernel &kernel, dim3 grid, dim3 threads, size_t dynamic_bytes, const void *params) {
    prepare();
    block.kernel = &kernel;
    block.params = params;
    block.threads = threads.x * threads.y * threads.z;
    block.failed = false;
    gridDim = grid;
    blockDim = threads;
    CrashGuard guard;
    for (unsigned z = 0; z < grid.z; z++) {
        for (unsigned y = 0; y < grid.y; y++) {
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = {x, y, z};
                if (const char *why = run_block(dynamic_bytes)) {
                    char place[200];
                    snprintf(place, sizeof place, "%s, block (%u, %u, %u): ", kernel.name, x, y, z);
                    block.message = place + std::string(why);
                    return block.message.c_str();
                }
            }
        }
    }
    return nullptr;
}

void fail(const char *format, ...) {
    char text[500];
    int at = snprintf(text, sizeof text, "thread %d: ", block.current ? block.current->linear : -1);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + at, sizeof text - at, format, arguments);
    va_end(arguments);
    block.failed = true;
    block.message = text;
    leave();
    abort(); // never resumed
}

int lane() { return block.current->linear % 32; }

void meet(uint32_t mask, const char *operation, void *brought, Work work, int width) {
    Fiber *self = block.current;
    int base = self->linear / width * width;
    int place = self->linear - base;
    if (!(mask >> (place % 32) & 1)) {
        fail("%s with mask %08x, which lacks the caller", operation, mask);
    }
    Meeting *meeting = nullptr;
    for (Meeting &other : block.meetings) {
        if (other.first == base && other.mask == mask && other.width == width) {
            meeting = &other;
        }
    }
    if (!meeting) {
        for (int i = 0; i < width; i++) {
            if ((mask >> (i % 32) & 1) && (base + i >= block.threads || block.fibers[base + i].done)) {
                fail("%s waits for lane %d, which %s", operation, i, base + i >= block.threads ? "does not exist" : "has ended");
            }
        }
        block.meetings.push_back({base, width, mask, 0, operation, work, {}, {}});
        meeting = &block.meetings.back();
    }
    if (strcmp(meeting->operation, operation) != 0 || meeting->work != work) {
        fail("%s, while other lanes are at %s", operation, meeting->operation);
    }
    meeting->brought[place] = brought;
    meeting->who[place] = self;
    meeting->arrived++;
    if (meeting->arrived < __builtin_popcount(mask) * (width / 32)) {
        self->waits_for = operation;
        leave();
        return;
    }
    if (work) {
        work(meeting->brought);
    }
    for (int i = 0; i < width; i++) {
        if (meeting->who[i] && meeting->who[i] != self) {
            wake(meeting->who[i]);
        }
    }
    *meeting = block.meetings.back();
    block.meetings.pop_back();
}

void barrier(int id, unsigned threads, bool wait) {
    if (id < 0 || id >= 16 || threads % 32 != 0) {
        fail("barrier %d of %u threads", id, threads);
    }
    Barrier &barrier = block.barriers[id];
    if (barrier.arrived > 0 && barrier.threads != threads) {
        fail("barrier %d is used by %u threads and by %u", id, barrier.threads, threads);
    }
    Fiber *self = block.current;
    barrier.threads = threads;
    barrier.arrived++;
    if (wait) {
        barrier.waiting.push_back(self);
        static const char *const NAMES[16] = {
            "__syncthreads", "barrier 1", "barrier 2",  "barrier 3",  "barrier 4",  "barrier 5",  "barrier 6",  "barrier 7",
            "barrier 8",     "barrier 9", "barrier 10", "barrier 11", "barrier 12", "barrier 13", "barrier 14", "barrier 15"};
        self->waits_for = NAMES[id];
    }
    check_barrier(barrier);
    if (wait) {
        leave(); // also when it has opened: this thread is queued behind those that came before
    }
}

void wait_until(bool (*ready)(void *), void *state, const char *what) {
    if (ready(state)) {
        return;
    }
    block.current->waits_for = what;
    block.conditions.push_back({block.current, ready, state});
    leave();
}

void changed() {
    for (size_t i = 0; i < block.conditions.size();) {
        Condition &condition = block.conditions[i];
        if (condition.ready(condition.state)) {
            wake(condition.fiber);
            condition = block.conditions.back();
            block.conditions.pop_back();
        } else {
            i++;
        }
    }
}

void later(void (*work)(const void *), const void *state, size_t state_bytes) {
    const char *bytes = static_cast<const char *>(state);
    block.engine.push_back({work, std::vector<char>(bytes, bytes + state_bytes)});
}

void *dynamic_shared() { return block.dynamic; }

void *static_shared(const void *key, size_t bytes, size_t alignment) {
    for (const SharedVariable &variable : block.variables) {
        if (variable.key == key) {
            return variable.address;
        }
    }
    size_t start = (block.static_bytes + alignment - 1) / alignment * alignment;
    if (start + bytes > STATIC_LIMIT) {
        fail("%zu bytes of static shared memory; 48 KiB are allowed", start + bytes);
    }
    block.static_bytes = start + bytes;
    block.variables.push_back({key, block.window + start});
    return block.window + start;
}

uint32_t shared_offset(const void *p, size_t bytes) {
    const char *at = static_cast<const char *>(p);
    bool is_static = at >= block.window && at + bytes <= block.window + block.static_bytes;
    bool is_dynamic = at >= block.dynamic && at + bytes <= block.dynamic + block.dynamic_bytes;
    if (!is_static && !is_dynamic) {
        fail("%p, %zu bytes, is not shared memory (dynamic: %p, %zu bytes)", p, bytes, static_cast<void *>(block.dynamic), block.dynamic_bytes);
    }
    return at - block.window;
}

void *shared_pointer(uint32_t offset, size_t bytes) {
    shared_offset(block.window + offset, bytes);
    return block.window + offset;
}

void copy_async(void *target, const void *source, int target_bytes, int source_bytes) {
    shared_offset(target, target_bytes);
    if (source_bytes < 0 || source_bytes > target_bytes) {
        fail("cp.async of %d bytes into %d", source_bytes, target_bytes);
    }
    bool aligned = reinterpret_cast<uintptr_t>(target) % target_bytes == 0 && (source_bytes == 0 || reinterpret_cast<uintptr_t>(source) % target_bytes == 0);
    if (!aligned) {
        fail("cp.async of %d bytes from %p to %p, which must be aligned so", target_bytes, source, target);
    }
    memset(target, POISON, target_bytes);
    block.current->open_group.push_back({target, source, target_bytes, source_bytes});
}

void copy_commit() {
    block.current->groups.push_back(std::move(block.current->open_group));
    block.current->open_group.clear();
}

void copy_wait(int groups_in_flight) {
    auto &groups = block.current->groups;
    while (static_cast<int>(groups.size()) > groups_in_flight) {
        for (const Copy &copy : groups.front()) {
            memcpy(copy.target, copy.source, copy.source_bytes);
            memset(static_cast<char *>(copy.target) + copy.source_bytes, 0, copy.target_bytes - copy.source_bytes);
        }
        groups.pop_front();
    }
}

} // namespace emulated

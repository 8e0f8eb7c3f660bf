// The fake libcuda: the driver functions that kernels/src/cuda calls, on the CPU. Signatures and numbers are those of cuda.h.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "fibers.h"
#include "instructions.h"
#include "memory.h"
#include "streams.h"

#define API extern "C" __attribute__((visibility("default")))

namespace emulated {

enum Result : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    LAUNCH_OUT_OF_RESOURCES = 701,
    LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801,
};

bool lazy_streams = false;
bool idle_kernels = false;

uint64_t Stream::push(Task task) {
    queue.push_back({++queued, std::move(task)});
    return queued;
}

int Stream::run_to(uint64_t number) {
    int result = SUCCESS;
    while (!queue.empty() && queue.front().number <= number && !running) {
        running = true; // a wait inside of it that leads back here would be a circle, which events cannot form
        int one = queue.front().task();
        queue.pop_front();
        running = false;
        result = result ? result : one;
    }
    return result;
}

namespace {

constexpr int DEFAULT_SHARED = 48 << 10;
constexpr int QUERIES_BEFORE_WORK = 50; // so that polling ends

struct Function {
    const Kernel *kernel;
    int dynamic_limit = DEFAULT_SHARED;
};

struct Injected {
    int after, code;
};

std::recursive_mutex lock;
bool initialised = false;
int sticky = SUCCESS; // a kernel that failed ends the context, as on hardware
std::string last_message;
std::vector<std::shared_ptr<Stream>> streams;
std::vector<std::shared_ptr<Event>> events;
std::map<std::string, Function> functions;
std::map<std::string, Injected> injected;
std::map<const void *, int> modules;
thread_local void *current_context = nullptr;
int the_context;

int complain(int result, const std::string &message) {
    last_message = message;
    fprintf(stderr, "emulated GPU: %s\n", message.c_str());
    return result;
}

// What every call begins with.
int enter(const char *function, bool with_context = true) {
    auto found = injected.find(function);
    if (found != injected.end() && found->second.after-- == 0) {
        int code = found->second.code;
        injected.erase(found);
        return code;
    }
    if (!initialised) {
        return NOT_INITIALIZED;
    }
    if (with_context && !current_context) {
        return complain(INVALID_CONTEXT, std::string(function) + " on a thread without a current context");
    }
    return sticky;
}

#define ENTER(...)                                                                                                       \
    std::lock_guard<std::recursive_mutex> guard(lock);                                                                   \
    if (int result = enter(__func__ __VA_OPT__(, ) __VA_ARGS__)) {                                                       \
        return result;                                                                                                   \
    }

int run_everything() {
    int result = SUCCESS;
    for (auto &stream : streams) {
        int one = stream->run_all();
        result = result ? result : one;
    }
    if (const char *what = damage()) {
        sticky = LAUNCH_FAILED;
        return complain(LAUNCH_FAILED, what);
    }
    return sticky ? sticky : result;
}

std::shared_ptr<Stream> stream_of(void *handle) {
    static auto default_stream = std::make_shared<Stream>(true);
    if (!handle) {
        return default_stream;
    }
    for (auto &stream : streams) {
        if (stream.get() == handle) {
            return stream;
        }
    }
    return nullptr;
}

std::shared_ptr<Event> event_of(void *handle) {
    for (auto &event : events) {
        if (event.get() == handle) {
            return event;
        }
    }
    return nullptr;
}

// Puts work into a stream, and does it where streams are not lazy.
int submit(void *handle, Task task) {
    auto stream = stream_of(handle);
    if (!stream) {
        return INVALID_HANDLE;
    }
    if (!handle) { // the default stream waits for those that are not NON_BLOCKING, and here it is never lazy
        for (auto &other : streams) {
            if (other->blocking) {
                other->run_all();
            }
        }
    }
    stream->push(std::move(task));
    return handle && lazy_streams ? SUCCESS : stream->run_all();
}

int capability() {
    const char *text = getenv("SD_EMULATED_CC");
    int major = 9, minor = 0;
    if (text) {
        sscanf(text, "%d.%d", &major, &minor);
    }
    return 10 * major + minor;
}

// Bytes of shared memory that a block may have; the multiprocessor has one KiB more.
int shared_limit() {
    int cc = capability();
    return (cc == 80 ? 163 : cc == 90 || cc == 100 || cc == 103 ? 227 : 99) << 10;
}

int copy(void *target, const void *source, size_t bytes) {
    memmove(target, source, bytes);
    return SUCCESS;
}

int check_device(uint64_t pointer, size_t bytes, const char *what) {
    if (is_within(reinterpret_cast<void *>(pointer), bytes, Place::DEVICE)) {
        return SUCCESS;
    }
    char text[200];
    snprintf(text, sizeof text, "%s: %zu bytes at 0x%llx are not within one allocation", what, bytes, (unsigned long long)pointer);
    return complain(INVALID_VALUE, text);
}

double now_ms() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Error {
    int code;
    const char *name, *text;
};
constexpr Error ERRORS[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {LAUNCH_OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
};

} // namespace
} // namespace emulated

using namespace emulated;

// ---- Start, devices, contexts ---------------------------------------------------------------------------------------

API int cuInit(unsigned) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    initialised = true;
    return enter(__func__, false);
}

API int cuDriverGetVersion(int *version) {
    *version = 13000;
    return SUCCESS;
}

API int cuGetErrorName(int code, const char **name) {
    for (const Error &error : ERRORS) {
        if (error.code == code) {
            *name = error.name;
            return SUCCESS;
        }
    }
    *name = nullptr;
    return INVALID_VALUE;
}

API int cuGetErrorString(int code, const char **text) {
    for (const Error &error : ERRORS) {
        if (error.code == code) {
            *text = error.text;
            return SUCCESS;
        }
    }
    *text = nullptr;
    return INVALID_VALUE;
}

API int cuDeviceGetCount(int *count) {
    ENTER(false)
    *count = 1;
    return SUCCESS;
}

API int cuDeviceGet(int *device, int ordinal) {
    ENTER(false)
    *device = 0;
    return ordinal == 0 ? SUCCESS : INVALID_DEVICE;
}

API int cuDeviceGetName(char *name, int bytes, int) {
    ENTER(false)
    snprintf(name, bytes, "emulated GPU");
    return SUCCESS;
}

API int cuDeviceGetPCIBusId(char *id, int bytes, int) {
    ENTER(false)
    snprintf(id, bytes, "0000:00:00.0");
    return SUCCESS;
}

API int cuDeviceTotalMem_v2(size_t *bytes, int) {
    ENTER(false)
    *bytes = total_bytes();
    return SUCCESS;
}

API int cuDeviceGetAttribute(int *value, int attribute, int) {
    ENTER(false)
    switch (attribute) {
    case 1: // threads of a block
    case 2:
    case 3:
        *value = 1024;
        break;
    case 4:
        *value = 64;
        break;
    case 5: // grid
        *value = INT32_MAX;
        break;
    case 6:
    case 7:
        *value = 65535;
        break;
    case 8: // shared memory of a block, without asking
        *value = DEFAULT_SHARED;
        break;
    case 10: // warp
        *value = 32;
        break;
    case 16: // multiprocessors: few, so that persistent kernels go round
        *value = 3;
        break;
    case 38: // second-level cache
        *value = 50 << 20;
        break;
    case 39: // threads of a multiprocessor
        *value = 2048;
        break;
    case 40: // copy engines
        *value = 2;
        break;
    case 41: // unified addresses
        *value = 1;
        break;
    case 75:
        *value = capability() / 10;
        break;
    case 76:
        *value = capability() % 10;
        break;
    case 81: // shared memory of a multiprocessor
        *value = shared_limit() + 1024;
        break;
    case 97: // shared memory of a block, with cuFuncSetAttribute
        *value = shared_limit();
        break;
    default:
        *value = 0;
    }
    return SUCCESS;
}

API int cuDevicePrimaryCtxRetain(void **context, int) {
    ENTER(false)
    *context = &the_context;
    return SUCCESS;
}

API int cuDevicePrimaryCtxRelease_v2(int) {
    ENTER(false)
    return SUCCESS;
}

API int cuCtxSetCurrent(void *context) {
    ENTER(false)
    current_context = context;
    return SUCCESS;
}

API int cuCtxGetCurrent(void **context) {
    ENTER(false)
    *context = current_context;
    return SUCCESS;
}

API int cuCtxSynchronize() {
    ENTER()
    return run_everything();
}

// ---- Memory -------------------------------------------------------------------------------------------------------------

API int cuMemGetInfo_v2(size_t *free, size_t *total) {
    ENTER()
    *total = total_bytes();
    size_t used = used_bytes(Place::DEVICE);
    *free = *total > used ? *total - used : 0;
    return SUCCESS;
}

API int cuMemAlloc_v2(uint64_t *pointer, size_t bytes) {
    ENTER()
    if (bytes == 0) {
        return INVALID_VALUE;
    }
    *pointer = reinterpret_cast<uint64_t>(allocate(bytes, Place::DEVICE));
    return *pointer ? SUCCESS : OUT_OF_MEMORY;
}

API int cuMemFree_v2(uint64_t pointer) {
    ENTER()
    int result = run_everything();
    return release(reinterpret_cast<void *>(pointer), Place::DEVICE) ? result : INVALID_VALUE;
}

API int cuMemHostAlloc(void **pointer, size_t bytes, unsigned) {
    ENTER()
    if (bytes == 0) {
        return INVALID_VALUE;
    }
    *pointer = allocate(bytes, Place::HOST);
    return *pointer ? SUCCESS : OUT_OF_MEMORY;
}

API int cuMemFreeHost(void *pointer) {
    ENTER()
    int result = run_everything();
    return release(pointer, Place::HOST) ? result : INVALID_VALUE;
}

API int cuMemcpyHtoDAsync_v2(uint64_t target, const void *source, size_t bytes, void *stream) {
    ENTER()
    if (int result = check_device(target, bytes, __func__)) {
        return result;
    }
    auto *to = reinterpret_cast<void *>(target);
    if (is_within(source, bytes, Place::HOST)) {
        return submit(stream, [=] { return copy(to, source, bytes); });
    }
    // The driver has read pageable memory when it returns.
    std::vector<char> now(static_cast<const char *>(source), static_cast<const char *>(source) + bytes);
    return submit(stream, [to, now = std::move(now)] { return copy(to, now.data(), now.size()); });
}

API int cuMemcpyDtoHAsync_v2(void *target, uint64_t source, size_t bytes, void *stream) {
    ENTER()
    if (int result = check_device(source, bytes, __func__)) {
        return result;
    }
    auto *from = reinterpret_cast<const void *>(source);
    int result = submit(stream, [=] { return copy(target, from, bytes); });
    // To pageable memory the driver has written when it returns.
    return result || is_within(target, bytes, Place::HOST) ? result : stream_of(stream)->run_all();
}

API int cuMemcpyDtoDAsync_v2(uint64_t target, uint64_t source, size_t bytes, void *stream) {
    ENTER()
    int result = check_device(source, bytes, __func__);
    result = result ? result : check_device(target, bytes, __func__);
    if (result) {
        return result;
    }
    return submit(stream, [=] { return copy(reinterpret_cast<void *>(target), reinterpret_cast<const void *>(source), bytes); });
}

API int cuMemsetD8Async(uint64_t target, unsigned char value, size_t bytes, void *stream) {
    ENTER()
    if (int result = check_device(target, bytes, __func__)) {
        return result;
    }
    return submit(stream, [=] {
        memset(reinterpret_cast<void *>(target), value, bytes);
        return int(SUCCESS);
    });
}

// ---- Streams and events ---------------------------------------------------------------------------------------------------

API int cuStreamCreateWithPriority(void **handle, unsigned flags, int) {
    ENTER()
    streams.push_back(std::make_shared<Stream>((flags & 1) == 0));
    *handle = streams.back().get();
    return SUCCESS;
}

API int cuStreamCreate(void **handle, unsigned flags) { return cuStreamCreateWithPriority(handle, flags, 0); }

API int cuStreamDestroy_v2(void *handle) {
    ENTER()
    auto stream = handle ? stream_of(handle) : nullptr;
    if (!stream) {
        return INVALID_HANDLE;
    }
    int result = stream->run_all();
    std::erase(streams, stream);
    return result;
}

API int cuStreamSynchronize(void *handle) {
    ENTER()
    auto stream = stream_of(handle);
    if (!stream) {
        return INVALID_HANDLE;
    }
    int result = stream->run_all();
    if (const char *what = damage()) {
        sticky = LAUNCH_FAILED;
        return complain(LAUNCH_FAILED, what);
    }
    return sticky ? sticky : result;
}

API int cuStreamQuery(void *handle) {
    ENTER()
    auto stream = stream_of(handle);
    if (!stream) {
        return INVALID_HANDLE;
    }
    stream->run_to(stream->done() + 1); // one item a query, so that polling ends
    return sticky ? sticky : stream->done() == stream->last() ? SUCCESS : NOT_READY;
}

API int cuStreamWaitEvent(void *handle, void *event_handle, unsigned) {
    ENTER()
    auto event = event_of(event_handle);
    if (!event || !stream_of(handle)) {
        return INVALID_HANDLE;
    }
    // What was recorded last counts now, whatever is recorded later.
    return submit(handle, [stream = event->stream, number = event->number] { return stream ? stream->run_to(number) : int(SUCCESS); });
}

API int cuEventCreate(void **handle, unsigned flags) {
    ENTER()
    events.push_back(std::make_shared<Event>());
    events.back()->timed = (flags & 2) == 0;
    *handle = events.back().get();
    return SUCCESS;
}

API int cuEventDestroy_v2(void *handle) {
    ENTER()
    auto event = event_of(handle);
    std::erase(events, event);
    return event ? SUCCESS : INVALID_HANDLE;
}

API int cuEventRecord(void *handle, void *stream_handle) {
    ENTER()
    auto event = event_of(handle);
    auto stream = stream_of(stream_handle);
    if (!event || !stream) {
        return INVALID_HANDLE;
    }
    event->stream = stream;
    event->number = stream->last() + 1;
    event->queries = 0;
    return submit(stream_handle, [event] {
        event->milliseconds = now_ms();
        return int(SUCCESS);
    });
}

API int cuEventQuery(void *handle) {
    ENTER()
    auto event = event_of(handle);
    if (!event) {
        return INVALID_HANDLE;
    }
    if (!event->stream || event->stream->done() >= event->number) {
        return sticky;
    }
    if (++event->queries % QUERIES_BEFORE_WORK == 0) {
        event->stream->run_to(event->number);
        return sticky;
    }
    return NOT_READY;
}

API int cuEventSynchronize(void *handle) {
    ENTER()
    auto event = event_of(handle);
    if (!event) {
        return INVALID_HANDLE;
    }
    int result = event->stream ? event->stream->run_to(event->number) : SUCCESS;
    return sticky ? sticky : result;
}

API int cuEventElapsedTime(float *ms, void *start, void *end) {
    ENTER()
    auto from = event_of(start), to = event_of(end);
    if (!from || !to || !from->timed || !to->timed || !from->stream || !to->stream) {
        return INVALID_HANDLE;
    }
    if (from->stream->done() < from->number || to->stream->done() < to->number) {
        return NOT_READY;
    }
    *ms = float(to->milliseconds - from->milliseconds);
    return SUCCESS;
}

// ---- Modules, functions, launches -------------------------------------------------------------------------------------------

// The image is not looked at: the kernels are in this library.
API int cuModuleLoadDataEx(void **module, const void *image, unsigned, int *, void **) {
    ENTER()
    if (!image) {
        return INVALID_IMAGE;
    }
    *module = new char;
    modules[*module] = 1;
    return SUCCESS;
}

API int cuModuleLoadData(void **module, const void *image) { return cuModuleLoadDataEx(module, image, 0, nullptr, nullptr); }

API int cuModuleUnload(void *module) {
    ENTER()
    int result = run_everything();
    if (!modules.erase(module)) {
        return INVALID_HANDLE;
    }
    delete static_cast<char *>(module);
    return result;
}

API int cuModuleGetFunction(void **function, void *module, const char *name) {
    ENTER()
    if (!modules.count(module)) {
        return INVALID_HANDLE;
    }
    const Kernel *kernel = find_kernel(name);
    int cc = capability();
    if (!kernel || cc < kernel->capability || (kernel->only && cc != kernel->capability)) {
        return NOT_FOUND;
    }
    *function = &functions.try_emplace(name, Function{kernel}).first->second;
    return SUCCESS;
}

API int cuFuncSetAttribute(void *handle, int attribute, int value) {
    ENTER()
    if (attribute == 8) {
        if (value < 0 || value > shared_limit()) {
            return INVALID_VALUE;
        }
        static_cast<Function *>(handle)->dynamic_limit = value;
    }
    return SUCCESS;
}

API int cuFuncGetAttribute(int *value, int attribute, void *handle) {
    ENTER()
    switch (attribute) {
    case 0: // threads of a block
        *value = 1024;
        break;
    case 4: // registers
        *value = 64;
        break;
    case 8:
        *value = static_cast<Function *>(handle)->dynamic_limit;
        break;
    default:
        *value = 0;
    }
    return SUCCESS;
}

API int cuFuncGetParamInfo(void *handle, size_t index, size_t *offset, size_t *bytes) {
    ENTER()
    if (index != 0) {
        return INVALID_VALUE;
    }
    *offset = 0;
    *bytes = static_cast<Function *>(handle)->kernel->params_bytes;
    return SUCCESS;
}

API int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *, int threads, size_t dynamic_bytes) {
    ENTER()
    int by_threads = 2048 / std::max(threads, 1), by_memory = (shared_limit() + 1024) / int(dynamic_bytes + 1024);
    *blocks = by_threads < by_memory ? by_threads : by_memory;
    return SUCCESS;
}

API int cuLaunchKernel(void *handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned dynamic_bytes,
                       void *stream, void **params, void **extra) {
    ENTER()
    auto *function = static_cast<Function *>(handle);
    uint64_t threads = uint64_t(bx) * by * bz;
    if (gx == 0 || gy == 0 || gz == 0 || gx > INT32_MAX || gy > 65535 || gz > 65535 || threads == 0 || threads > 1024 || bz > 64) {
        return complain(INVALID_VALUE, std::string(function->kernel->name) + ": a grid or a block that cannot be");
    }
    if (int(dynamic_bytes) > function->dynamic_limit || extra || !params) {
        return complain(INVALID_VALUE, std::string(function->kernel->name) + ": " + std::to_string(dynamic_bytes) + " bytes of shared memory, " +
                                           std::to_string(function->dynamic_limit) + " were asked for");
    }
    // Aligned for the tensor maps in some parameters.
    struct alignas(64) Line {
        char bytes[64];
    };
    std::vector<Line> copied((function->kernel->params_bytes + sizeof(Line) - 1) / sizeof(Line));
    memcpy(copied.data(), params[0], function->kernel->params_bytes);
    return submit(stream, [=, copied = std::move(copied)] {
        if (sticky || idle_kernels) {
            return sticky;
        }
        const char *what = launch(*function->kernel, {gx, gy, gz}, {bx, by, bz}, dynamic_bytes, copied.data());
        if (!what && static_shared_bytes() + dynamic_bytes > size_t(shared_limit())) {
            what = "more shared memory, static and dynamic, than a block may have";
        }
        return what ? sticky = complain(LAUNCH_FAILED, what) : int(SUCCESS);
    });
}

// ---- For tests ------------------------------------------------------------------------------------------------------------

API int sdEmulatedSetMemory(size_t total) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    set_total_bytes(total);
    return SUCCESS;
}

API int sdEmulatedLazyStreams(int on) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    lazy_streams = on != 0;
    return lazy_streams || !initialised ? int(SUCCESS) : run_everything();
}

// Calls of kernels are checked and do nothing, and new memory is zeros: for what is counted at sizes that would take hours.
API int sdEmulatedIdleKernels(int on) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    idle_kernels = on != 0;
    set_poisoned(!idle_kernels);
    return SUCCESS;
}

API size_t sdEmulatedLiveBytes() {
    std::lock_guard<std::recursive_mutex> guard(lock);
    return used_bytes(Place::DEVICE);
}

API size_t sdEmulatedPinnedBytes() {
    std::lock_guard<std::recursive_mutex> guard(lock);
    return used_bytes(Place::HOST);
}

// The nth following call of a function (0: the next) returns this code.
API int sdEmulatedFail(const char *function, int nth, int code) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    injected[function] = {nth, code};
    return SUCCESS;
}

// Bank conflicts of ldmatrix since the last call.
API size_t sdEmulatedBankConflicts() {
    std::lock_guard<std::recursive_mutex> guard(lock);
    size_t conflicts = bank_conflicts;
    bank_conflicts = 0;
    return conflicts;
}

// The last complaint, and a context that works again. The text lives until the next complaint.
API const char *sdEmulatedLastMessage() {
    std::lock_guard<std::recursive_mutex> guard(lock);
    sticky = SUCCESS;
    return last_message.c_str();
}

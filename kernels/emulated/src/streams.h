// Streams and events of the fake driver. A stream is a queue; in lazy mode its work runs only when somebody has to wait for it, so that an
// event that nobody waits for shows as wrong numbers.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>

namespace emulated {

using Task = std::function<int()>; // a CUresult

class Stream {
    struct Item {
        uint64_t number;
        Task task;
    };
    std::deque<Item> queue;
    uint64_t queued = 0;
    bool running = false;

  public:
    explicit Stream(bool blocking) : blocking(blocking) {}
    const bool blocking; // with the default stream
    bool alive = true;

    // Number of the item; it has run when `done()` has reached it.
    uint64_t push(Task task);
    uint64_t done() const { return queue.empty() ? queued : queue.front().number - 1; }
    uint64_t last() const { return queued; }
    // Runs items up to this one; the first error.
    int run_to(uint64_t number);
    int run_all() { return run_to(queued); }
};

struct Event {
    bool timed;
    std::shared_ptr<Stream> stream; // where it was recorded last; none: never
    uint64_t number = 0;
    double milliseconds = 0; // when the record ran
    int queries = 0;
    bool alive = true;
};

extern bool lazy_streams;

} // namespace emulated

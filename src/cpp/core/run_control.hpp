// Run control: how a long kernel hears "stop" and tells how far it is.
//
// Kernels call checkpoint() between pieces of work of at most about 0.1 s. The callback runs at most every 50 ms; it
// may throw, and the exception travels through the kernel unchanged (kernels own no state that needs repair).
#pragma once

#include <chrono>
#include <functional>
#include <utility>

namespace flatcore {

class RunControl {
 public:
    // callback(fraction): fraction in [0, 1], negative where the kernel does not know it.
    using Callback = std::function<void(double fraction)>;

    RunControl() = default;
    explicit RunControl(Callback callback) : callback_(std::move(callback)) {}

    void checkpoint(double fraction = -1.0) {
        if (!callback_) return;
        const auto now = Clock::now();
        if (now - last_ < std::chrono::milliseconds(50)) return;
        last_ = now;
        callback_(fraction);
    }

 private:
    using Clock = std::chrono::steady_clock;
    Callback callback_;
    Clock::time_point last_ = Clock::now();
};

}  // namespace flatcore

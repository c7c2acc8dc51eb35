// The test gives a back end half of the machine's threads. On a machine of two that is
// one, which would leave what threads do to each other untested.

#include <thread>

unsigned int std::thread::hardware_concurrency() noexcept {
    return 6;
}
